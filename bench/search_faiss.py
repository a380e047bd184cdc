"""FAISS' side of `bench.search`, run as a module by an interpreter that has it.

An HNSW index with half-precision vectors, as many links and as wide a list while building as pgvector's defaults
(M 16, efConstruction 64), of the inner product of vectors of length 1. It is built by all cores; queries come one at a
time, on one thread. Filters are bitmaps that are there already.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss  # type: ignore[import-not-found, unused-ignore]
import numpy as np

from bench.search_vectors import DIMENSION, FILTERS, NEAREST, read, unit

LINKS, WIDTH_OF_BUILD = 16, 64

Array = Any


def build(path: Path, threads: int) -> tuple[Any, float]:
    """The index, and the seconds that it took without reading."""
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexHNSWSQ(DIMENSION, faiss.ScalarQuantizer.QT_fp16, LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = WIDTH_OF_BUILD
    took = 0.0
    for first, vectors in read(path):
        rows = unit(vectors)
        began = time.perf_counter()
        if first == 0:
            index.train(rows)
        index.add(rows)
        took += time.perf_counter() - began
    return index, took


def search(index: Any, queries: Array, width: int, selected: Array | None) -> tuple[list[float], list[list[int]]]:
    """Milliseconds and the numbers found, of each query."""
    selector = {} if selected is None else {"sel": faiss.IDSelectorBitmap(selected)}
    parameters = faiss.SearchParametersHNSW(efSearch=width, **selector)
    took, found = [], []
    for query in queries:
        began = time.perf_counter()
        _, ids = index.search(query[None], NEAREST, params=parameters)
        took.append((time.perf_counter() - began) * 1000)
        found.append([int(number) for number in ids[0]])
    return took, found


def bitmap(n: int, name: str) -> Array | None:
    """Which pictures pass; None: all."""
    divisor, rest = FILTERS[name]
    if divisor == 1:
        return None
    return np.packbits(np.arange(n) % divisor == rest, bitorder="little")


def measure(folder: Path, threads: int, widths: Sequence[int]) -> dict[str, Any]:
    """The whole run; the first width is also that of the searches with filters."""
    asked = json.loads((folder / "queries.json").read_text())
    index, build_s = build(folder / "vectors.copy", threads)
    faiss.omp_set_num_threads(1)
    ways = []
    for kind in ("text", "picture"):
        of_kind = [query for query in asked if query["kind"] == kind]
        # The last half warms up, as on our side.
        half = len(of_kind) // 2
        vectors = np.array([query["vector"] for query in of_kind], np.float32)
        for width, name in [(width, "all") for width in widths] + [
            (widths[0], name) for name in FILTERS if name != "all"
        ]:
            selected = bitmap(index.ntotal, name)
            search(index, vectors[half:], width, selected)
            took, found = search(index, vectors[:half], width, selected)
            truth = [query["nearest"][name] for query in of_kind[:half]]
            ways.append({"kind": kind, "filter": name, "width": width, "ms": took, "found": found, "nearest": truth})
    return {
        "version": faiss.__version__,
        "build_s": build_s,
        "index_bytes": int(faiss.serialize_index(index).nbytes),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "ways": ways,
    }


def main() -> None:
    """The command: the folder with the vectors, threads to build with, widths of a search."""
    widths = [int(width) for width in sys.argv[3].split(",")]
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]), widths)))


if __name__ == "__main__":
    main()
