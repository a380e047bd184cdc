"""How well and how fast media are found, beside a scan of all vectors and FAISS: `python -m bench.search`.

A million pictures with vectors that lie as CLIP's do (how they are made, and why random ones would prove nothing:
`bench/search_vectors.py`), each with a job, its input, its labels and a caption, in the product's tables. Searched by
`storage.search.search` as `mediamill search` calls it: the same statement with ranks fused, captions excerpted, jobs
and URIs looked up, over the same index, one query after the other from one connection. Half of the queries warm up, the
others are timed. Queries are of pictures and texts that the collection does not have; there is no least similarity, so
that each has ten answers. Filters: by type of media (one picture in ten passes), by the label of a job (one in three),
by an album (one in 500).

recall@10: how many of the ten nearest of all vectors are among the first ten hits; with words: how many of the first
ten of the same statement without the index. "Exact" is that statement. FAISS (`bench/search_faiss.py`) has the vectors
alone, in its own process: no table, no text, no joins. Its filters are bitmaps made beforehand.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any, Literal

from bench.overhead import DURABLE, machine, percentiles
from bench.page import PEER_PYTHON, draw, markdown, measured_on
from bench.search_needs import needs_table
from bench.search_side import COLOURS, Built, hidden, load
from storage import schema
from storage.database import Database
from storage.pooled import PooledDatabase
from storage.search import SearchQuery, build, search
from storage.sql import text
from tests.servers.postgres import PostgresServer

_ROOT = Path(__file__).resolve().parents[1]
FIRST = 10
#: Lengths of the list of candidates: first the product's own (`storage.search`). Shorter ones than it wants hits would
#: only make the index go on where it had stopped.
WIDTHS = (200, 400, 800)
FAISS_WIDTHS = (*WIDTHS, 50, 100)
#: The exact statement takes a second or more: it gets so long for one way of searching.
EXACT_S = 60.0

Kind = Literal["text", "picture"]
Filter = Literal["all", "third", "tenth", "album"]
FILTERED: Mapping[Filter, Mapping[str, Any]] = {
    "all": {},
    "third": {"labels": {"source": "phone"}},
    "tenth": {"media": ["image/png"]},
    "album": {"labels": {"album": "a7"}},
}
PASSES: Mapping[Filter, str] = {
    "all": "",
    "third": ", a label that 1 in 3 has",
    "tenth": ", a type of media that 1 in 10 has",
    "album": ", an album of 1 in 500",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A query as `bench.search_vectors` makes it."""

    kind: Kind
    cluster: int
    vector: str
    nearest: Mapping[Filter, Sequence[int]]
    """The numbers of the nearest pictures, of those that pass a filter."""

    @property
    def words(self) -> str:
        """What a person would write: the thing, and a word that many captions have."""
        return f"a {COLOURS[self.cluster % len(COLOURS)]} thing{self.cluster}"


@dataclass(frozen=True, slots=True)
class Way:
    """A way of searching."""

    kind: Kind
    filter: Filter = "all"
    words: bool = False

    @property
    def name(self) -> str:
        what = "by a picture's vector" if self.kind == "picture" else "by a text's vector"
        return f"{what}{' and its words' if self.words else ''}{PASSES[self.filter]}"

    def query(self, asked: Asked) -> SearchQuery:
        return SearchQuery(
            text=asked.words if self.words else "",
            vector=asked.vector,
            vector_of=self.kind,
            min_similarity=-1,
            **FILTERED[self.filter],
        )


WAYS = (
    Way("text"),
    Way("text", words=True),
    Way("picture"),
    Way("text", "third"),
    Way("text", "tenth"),
    Way("text", "album"),
    Way("text", "tenth", words=True),
)


@dataclass(slots=True)
class Found:
    """What was seen of one way of searching."""

    way: Way
    ms: list[float] = field(default_factory=list)
    hits: list[list[str]] = field(default_factory=list)
    exact_ms: list[float] = field(default_factory=list)
    exact_hits: list[list[str]] = field(default_factory=list)
    nearest: list[list[str]] = field(default_factory=list)

    @property
    def recall(self) -> float:
        """Against all vectors; with words, against the exact statement."""
        if self.way.words:
            return recall(self.hits[: len(self.exact_hits)], self.exact_hits)
        return recall(self.hits, self.nearest)

    @property
    def agreement(self) -> float:
        """How much of what comparing with all vectors found the exact statement finds: 1, but for equal cosines."""
        return self.recall if self.way.words else recall(self.exact_hits, self.nearest[: len(self.exact_hits)])

    def summary(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            "name": self.way.name,
            **asdict(self.way),
            "recall": round(self.recall, 4),
            "agreement": round(self.agreement, 4),
            "ms": percentiles(self.ms),
            "exact_ms": percentiles(self.exact_ms),
            "exact_queries": len(self.exact_ms),
        }


def recall(found: Sequence[Sequence[object]], wanted: Sequence[Sequence[object]]) -> float:
    """What part of all that is wanted was found; 1 where nothing is."""
    pairs = list(zip(found, wanted, strict=True))
    total = sum(len(these) for _, these in pairs)
    return sum(len(set(those) & set(these)) for those, these in pairs) / total if total else 1.0


def content(n: int) -> str:
    """The picture of that number, as `bench.history_fill` names it."""
    return sha256(n.to_bytes(8, "big")).hexdigest()


def read_queries(path: Path) -> list[Asked]:
    """As they were written."""
    return [
        Asked(each["kind"], each["cluster"], json.dumps(each["vector"]), each["nearest"])
        for each in json.loads(path.read_text())
    ]


def timed(work: Callable[[], Sequence[Any]]) -> tuple[float, list[str]]:
    """Milliseconds, and the first hits."""
    began = time.perf_counter()
    hits = work()
    took = (time.perf_counter() - began) * 1000
    return took, [hit.sha256 for hit in hits[:FIRST]]


def product(database: Database, query: SearchQuery) -> Sequence[Any]:
    """As the command searches."""
    with database.transaction() as connection:
        return search(connection, query)


def changed(database: Database, query: SearchQuery, setting: str) -> Sequence[Any]:
    """The same statement under another setting."""
    with database.transaction() as connection:
        built = build(connection, query)
        assert built is not None
        connection.execute(text(f"SET LOCAL {setting}"))
        return connection.execute(text(built[0]), built[1]).all()


def run(database: Database, index: str, asked: Sequence[Asked], exact: int) -> list[Found]:
    """All ways."""
    found = []
    for way in WAYS:
        one = Found(way)
        of_kind = [each for each in asked if each.kind == way.kind]
        half = len(of_kind) // 2
        for each in of_kind[half:]:
            product(database, way.query(each))
        for each in of_kind[:half]:
            ms, hits = timed(lambda: product(database, way.query(each)))  # noqa: B023
            one.ms.append(ms)
            one.hits.append(hits)
            one.nearest.append([content(n) for n in each.nearest[way.filter] if n >= 0])
        with hidden(database, index):
            until = time.perf_counter() + EXACT_S
            for each in of_kind[: min(half, exact)]:
                ms, hits = timed(lambda: changed(database, way.query(each), "enable_seqscan = on"))  # noqa: B023
                one.exact_ms.append(ms)
                one.exact_hits.append(hits)
                if time.perf_counter() > until:
                    break
        p95 = percentiles(one.ms)["p95"]
        print(
            f"{way.name}: recall {one.recall:.3f}, p95 {p95} ms, exact {median(one.exact_ms):.0f} ms", file=sys.stderr
        )
        found.append(one)
    return found


def widths(database: Database, asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """By a text's vector, with lists of other lengths than the product's: what recall costs."""
    of_kind = [each for each in asked if each.kind == "text"]
    of_kind = of_kind[: len(of_kind) // 2]
    found = []
    for width in WIDTHS:
        seen = [
            timed(lambda: changed(database, Way("text").query(each), f"hnsw.ef_search = {width}"))  # noqa: B023
            for each in of_kind
        ]
        nearest = [[content(n) for n in each.nearest["all"]] for each in of_kind]
        found.append(
            {
                "width": width,
                "recall": round(recall([hits for _, hits in seen], nearest), 4),
                "ms": percentiles([ms for ms, _ in seen]),
            }
        )
    return found


def insert_ms(database: Database, built: Built, asked: Sequence[Asked]) -> float:
    """What one more vector takes, by hundreds in a statement, while the index is there: the median, milliseconds."""
    statement = text("""
        INSERT INTO embeddings (content, space, kind, vector, job_id)
        SELECT sha256(convert_to(v, 'UTF8')), :space, 'image', v::halfvec, gen_random_uuid()
        FROM unnest(CAST(:vectors AS text[])) AS v
    """)
    vectors = [each.vector for each in asked if each.kind == "picture"]
    took = []
    for first in range(0, len(vectors), 100):
        some = vectors[first : first + 100]
        began = time.perf_counter()
        with database.transaction() as connection:
            connection.execute(statement, {"vectors": some, "space": built.space.id})
        took.append((time.perf_counter() - began) * 1000 / len(some))
    return median(took)


def side(python: Path, module: str, *arguments: object) -> Any:
    """What a module says that runs in another environment. Raises CalledProcessError."""
    command = [str(python), "-m", f"bench.{module}", *map(str, arguments)]
    # Threads that wait by spinning take the cores from those that work, wherever there are other processes.
    environ = os.environ | {"OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, cwd=_ROOT, env=environ, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The whole run."""
    facts = machine()
    cores = int(str(facts["cores"]))
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="mediamill-bench-")))
        print("making vectors, and comparing all with the queries", file=sys.stderr)
        data = side(given.peer, "search_vectors", given.vectors, 2 * given.queries, given.seed, folder)
        asked = read_queries(folder / "queries.json")
        print("FAISS", file=sys.stderr)
        faiss = side(given.peer, "search_faiss", folder, cores, ",".join(map(str, FAISS_WIDTHS)))
        settings = {**DURABLE, "shared_buffers": given.shared_buffers, "max_wal_size": "4GB"}
        server = held.enter_context(PostgresServer(settings))
        database = PooledDatabase(server.create_database("search"), statement_timeout_s=6 * 3600, idle_timeout_s=600)
        held.callback(database.close)
        schema.migrate(database)
        built = load(database, folder / "vectors.copy", given.vectors, given.build_memory, cores - 1)
        (folder / "vectors.copy").unlink()
        print(f"filled in {built.fill_s:.0f} s, index built in {built.build_s:.0f} s", file=sys.stderr)
        found = run(database, built.name, asked, given.exact)
        wide = widths(database, asked)
        inserted = insert_ms(database, built, asked)
    facts["load_after"] = round(os.getloadavg()[0], 1)
    result = {
        "command": f"python -m bench.search --vectors {given.vectors} --queries {given.queries}",
        "machine": facts,
        "vectors": given.vectors,
        "queries": given.queries,
        "seed": given.seed,
        "exact": given.exact,
        "shared_buffers": given.shared_buffers,
        "build_memory": given.build_memory,
        "data": data,
        "ours": {
            "build_s": round(built.build_s, 1),
            "fill_s": round(built.fill_s, 1),
            "definition": built.definition,
            "vectors_bytes": built.vectors_bytes,
            "index_bytes": built.index_bytes,
            "key_bytes": built.key_bytes,
            "whole_bytes": built.whole_bytes,
            "insert_ms": round(inserted, 2),
            "ways": [each.summary() for each in found],
            "widths": wide,
        },
        "faiss": {
            "version": faiss["version"],
            "build_s": round(faiss["build_s"], 1),
            "index_bytes": faiss["index_bytes"],
            "peak_bytes": faiss["peak_bytes"],
            "ways": [faiss_way(each) for each in faiss["ways"]],
        },
    }
    lines = tables(result)
    print("\n".join(lines))
    return result | {"table": lines}


def faiss_way(seen: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of one of its ways."""
    wanted = [[n for n in these if n >= 0] for these in seen["nearest"]]
    kept = {name: seen[name] for name in ("kind", "filter", "width")}
    return kept | {"recall": round(recall(seen["found"], wanted), 4), "ms": percentiles(seen["ms"])}


def tables(run_: Mapping[str, Any]) -> list[str]:
    """In Markdown."""
    ours, faiss = run_["ours"], run_["faiss"]
    peer = {(way["kind"], way["filter"]): way for way in faiss["ways"] if way["width"] == WIDTHS[0]}
    rows = []
    for way in ours["ways"]:
        its = None if way["words"] else peer[way["kind"], way["filter"]]
        row = [way["name"], f"{way['recall']:.3f}", way["ms"]["p50"], way["ms"]["p95"], way["exact_ms"].get("p50", "")]
        rows.append(
            [*row, *(["", "", ""] if its is None else [f"{its['recall']:.3f}", its["ms"]["p50"], its["ms"]["p95"]])]
        )
    header = ["", "recall@10", "p50, ms", "p95, ms", "exact, p50, ms"]
    lines = markdown([*header, "FAISS: recall@10", "p50, ms", "p95, ms"], rows)
    lines += ["", "Wanted: recall@10 of 0.98 at least, p95 of 10 ms at most.", ""]
    sizes = [
        ["mediamill", f"{ours['build_s']:,.0f}", _gb(ours["index_bytes"]), _gb(ours["vectors_bytes"])],
        [f"FAISS {faiss['version']}", f"{faiss['build_s']:,.0f}", _gb(faiss["index_bytes"]), "in the index"],
    ]
    lines += markdown(["", "index built, s", "index, GB", "vectors, GB"], sizes)
    lines += ["", f"One more vector, with the index there: {ours['insert_ms']} ms. The whole database, with a job, its"]
    lines += [f"history, a caption and a vector for each picture: {_gb(ours['whole_bytes'])} GB.", ""]
    lines += ["Lists of other lengths (a text's vector; `hnsw.ef_search`, `efSearch`):", ""]
    of_peer = {way["width"]: way for way in faiss["ways"] if (way["kind"], way["filter"]) == ("text", "all")}
    wide = [
        [
            each["width"],
            f"{each['recall']:.3f}",
            each["ms"]["p50"],
            f"{of_peer[each['width']]['recall']:.3f}",
            of_peer[each["width"]]["ms"]["p50"],
        ]
        for each in ours["widths"]
    ]
    lines += markdown(["length", "recall@10", "p50, ms", "FAISS: recall@10", "p50, ms"], wide)
    lines += ["", "What more vectors need, worked out from this run (`bench/search_needs.py` says how):", ""]
    return lines + needs_table(run_)


def _gb(n: int) -> str:
    return f"{n / 1e9:.2f}"


def write(found: Mapping[str, Any], folder: Path) -> None:
    """Keeps the last run of each number of vectors, and a page with all."""
    folder.mkdir(exist_ok=True)
    kept = folder / "search.json"
    runs: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    runs[str(found["vectors"])] = found
    kept.write_text(json.dumps(runs, indent=2) + "\n")
    page = ["# Search", "", *(__doc__ or "").strip().splitlines()[2:], "", "![](search.svg)"]
    for _, run_ in sorted(runs.items(), key=lambda item: -int(item[0])):
        page += ["", f"## {run_['vectors']:,} vectors", "", f"`{run_['command']}`", "", measured_on(run_["machine"])]
        page += [
            f"{run_['queries']} queries of each kind timed; `shared_buffers` {run_['shared_buffers']}, index built"
        ]
        page += [f"with `maintenance_work_mem` {run_['build_memory']}: `{run_['ours']['definition']}`.", ""]
        page += [
            "The vectors: " + "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in run_["data"].items())
        ]
        page += ["", *run_["table"]]
    (folder / "search.md").write_text("\n".join(page) + "\n")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=200, help="timed, of each kind; as many more warm up")
    parser.add_argument("--exact", type=int, default=40, help="queries without the index, for each way at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shared-buffers", default="4GB", help="of Postgres; the index should fit")
    parser.add_argument("--build-memory", default="4GB", help="maintenance_work_mem while the index is built")
    parser.add_argument("--peer", type=Path, default=PEER_PYTHON, help="an interpreter with numpy, FAISS, matplotlib")
    parser.add_argument("--results", type=Path, help="folder to write to; none: only print")
    given = parser.parse_args()
    if given.vectors < 10_000 or given.queries < 10 or given.exact < 1:
        parser.error("at least 10000 vectors, 10 queries and 1 exact one")
    found = measure(given)
    if given.results is not None:
        write(found, given.results)
        draw(given.peer, given.results / "search.json")


if __name__ == "__main__":
    main()
