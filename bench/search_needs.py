"""What 10 and 100 million vectors would need, worked out from what fewer were measured to take.

- Room: table and indexes grow with the number of vectors.
- Memory: a walk touches pages all over the HNSW index, which has a copy of each vector; it is fast while the index is
  in memory. Of the table, a search reads a few hundred rows. So: the index, and a tenth of the table.
- Building: pgvector puts one vector after the other into the graph, each by a search in it, and a search takes time
  that grows with the logarithm of the number (Malkov and Yashunin 2016, "Efficient and robust approximate nearest
  neighbor search using Hierarchical Navigable Small World graphs"): n log n. It needs `maintenance_work_mem` for the
  whole graph; beyond, it goes on on disk, many times slower. Workers share the work: hours of one core are given.
- Time of a search: the walk's share grows with that logarithm. All of what was measured is taken for the walk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.page import markdown

WORKED_OUT = (10_000_000, 100_000_000)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a collection took."""

    vectors: int
    table_bytes: int
    """Of the embeddings, with their unique index."""
    index_bytes: int
    build_core_s: float
    search_ms: float


@dataclass(frozen=True, slots=True)
class Needs:
    """What a larger one needs."""

    vectors: int
    disk_bytes: int
    memory_bytes: int
    build_memory_bytes: int
    build_core_h: float
    search_ms: float


def needs(measured: Measured, vectors: int) -> Needs:
    """Worked out as the module says."""
    times = vectors / measured.vectors
    deeper = math.log(vectors) / math.log(measured.vectors)
    index, table = measured.index_bytes * times, measured.table_bytes * times
    return Needs(
        vectors=vectors,
        disk_bytes=round(index + table),
        memory_bytes=round(index + table / 10),
        build_memory_bytes=round(index),
        build_core_h=measured.build_core_s * times * deeper / 3600,
        search_ms=measured.search_ms * deeper,
    )


def needs_table(run: Mapping[str, Any]) -> list[str]:
    """Of a run of `bench.search`, in Markdown."""
    ours = run["ours"]
    plain = next(way for way in ours["ways"] if way["kind"] == "text" and way["filter"] == "all" and not way["words"])
    measured = Measured(
        vectors=run["vectors"],
        table_bytes=ours["vectors_bytes"] + ours["key_bytes"],
        index_bytes=ours["index_bytes"],
        build_core_s=ours["build_s"] * run["machine"]["cores"],
        search_ms=plain["ms"]["p95"],
    )
    rows = [
        [
            f"{each.vectors:,}",
            f"{each.disk_bytes / 1e9:,.0f}",
            f"{each.memory_bytes / 1e9:,.0f}",
            f"{each.build_memory_bytes / 1e9:,.0f}",
            f"{each.build_core_h:,.1f}",
            f"{each.search_ms:.1f}",
        ]
        for each in (needs(measured, vectors) for vectors in WORKED_OUT)
    ]
    header = ["vectors", "disk, GB", "memory to search, GB", "memory to build, GB", "build, hours of one core"]
    return markdown([*header, "a search, p95, ms"], rows)
