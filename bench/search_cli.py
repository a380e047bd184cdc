"""How long `mediamill search` takes, from the start of its process to the end: `python -m bench.search_cli`.

A database with so many embeddings, a worker with the tiny checkpoints, and the command many times, each with another
text or picture, as a person would start it. Beside it, measured in turn with it: a bare interpreter, the command's help
(an interpreter and the imports of the command line), and the parts as they are within a process that is warm: the
worker's vector of a text, and the search by it. Bytecode is compiled beforehand, as an installation does it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.overhead import machine, percentiles
from console import query_vector
from console.compose import Deployment
from storage import schema, spaces
from storage.database import Database
from storage.search import SearchQuery, search
from storage.sql import text
from tests.e2e.material import draw_pictures, make_tiny_models
from tests.e2e.stage import Stage, stage
from tests.servers.leashed import wait_until
from tests.servers.postgres import PostgresServer

RESULTS = Path(__file__).with_name("results")
_COMMAND = str(Path(sys.executable).with_name("mediamill"))
#: Always with something to show: random weights find nothing that is similar.
_SEARCH = (_COMMAND, "search", "--min-score", "-1")
_COLOURS = ("red", "green", "blue", "yellow", "black", "white", "purple", "orange")

FILL = text("""
    WITH made AS (
        INSERT INTO contents (sha256, size, mime)
        SELECT sha256(('made ' || n)::bytea), 1, 'image/png' FROM generate_series(1, :n) AS n RETURNING sha256
    )
    INSERT INTO embeddings (content, space, kind, vector, job_id)
    SELECT sha256, :space, 'image', (
        -- Of the row, so that each has numbers of its own.
        SELECT array_agg(random() - 0.5) FROM generate_series(1, :dimension + 0 * length(sha256))
    )::vector::halfvec, gen_random_uuid() FROM made
""")


@dataclass(slots=True)
class Timed:
    """What was seen of one thing."""

    name: str
    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    """Of processes: user and system time, which other work on the machine changes less."""

    def summary(self) -> dict[str, object]:
        """For the JSON file."""
        return {"name": self.name, "wall_ms": percentiles(self.wall_ms), "cpu_ms": percentiles(self.cpu_ms)}


def process(command: Sequence[str], environ: Mapping[str, str], timed: Timed) -> None:
    """Runs it to its end. Raises CalledProcessError."""
    before, began = _children_cpu_s(), time.perf_counter()
    subprocess.run(command, env=dict(environ), check=True, capture_output=True)
    timed.wall_ms.append((time.perf_counter() - began) * 1000)
    timed.cpu_ms.append((_children_cpu_s() - before) * 1000)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def within(part: Callable[[], object], timed: Timed) -> None:
    """Runs a part in this process."""
    began = time.perf_counter()
    part()
    timed.wall_ms.append((time.perf_counter() - began) * 1000)


def texts(n: int) -> Iterator[str]:
    """No two alike: nothing is known of a query beforehand."""
    return (f"a {_COLOURS[i % len(_COLOURS)]} circle over {i} squares" for i in range(n))


def fill(made: Stage, n: int) -> None:
    """Puts embeddings into the space that the worker has made."""
    with made.database.transaction() as connection:
        (space,) = spaces.live(connection)
        connection.execute(FILL, {"n": n, "space": space.id, "dimension": space.dimension})
    with made.database.autocommit() as connection:
        connection.execute(text("ANALYZE"))


def rounds(made: Stage, environ: Mapping[str, str], pictures: Sequence[Path], n: int) -> list[Timed]:
    """Everything in turn, so that what else the machine does meets all alike."""
    bare, help_ = Timed("a bare interpreter"), Timed("mediamill search --help")
    by_text, by_picture = Timed("mediamill search TEXT"), Timed("mediamill search --image FILE")
    vector, sql = Timed("of it: the worker's vector"), Timed("of it: the search in Postgres")
    for name, value in made.environ.items():
        os.environ[name] = value
    with Deployment.load() as deployment:
        for i, wording in enumerate(texts(n)):
            process([sys.executable, "-c", "pass"], environ, bare)
            process([_COMMAND, "search", "--help"], environ, help_)
            process([*_SEARCH, wording], environ, by_text)
            if i < len(pictures):
                process([*_SEARCH, "--image", str(pictures[i])], environ, by_picture)
            found: list[query_vector.QueryVector] = []
            within(lambda: found.append(query_vector.of_text(deployment, f"{wording} again")), vector)  # noqa: B023
            query = SearchQuery(text=wording, vector=found[0].vector, space=found[0].space.id)
            within(lambda: _search(deployment.database, query), sql)  # noqa: B023
    return [bare, help_, by_text, by_picture, vector, sql]


def _search(database: Database, query: SearchQuery) -> None:
    with database.transaction() as connection:
        search(connection, query)


def measure(given: argparse.Namespace) -> dict[str, object]:
    """The whole run."""
    facts = machine()
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="mediamill-bench-")))
        make_tiny_models(folder / "models")
        url = given.database
        if url is None:
            url = held.enter_context(PostgresServer({"fsync": "on"})).create_database("mediamill")
        environ = {"MEDIAMILL_MODELS": str(folder / "models"), "MEDIAMILL_PRELOAD": '["embed"]'}
        made = held.enter_context(stage(folder, environ, url))
        schema.migrate(made.database)
        made.worker().wait_until_ready()
        wait_until(lambda: _has_space(made), 60, "the embedding space")
        fill(made, given.embeddings)
        compiled = made.environ | {"PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
        drawn = folder / "pictures"
        drawn.mkdir()
        pictures = draw_pictures(drawn, given.runs + 1)
        process([*_SEARCH, "warm up"], compiled, Timed(""))
        process([*_SEARCH, "--image", str(pictures.pop())], compiled, Timed(""))
        timed = rounds(made, compiled, pictures, given.runs)
    lines = list(table(timed))
    print("\n".join(lines))
    return {
        "machine": facts,
        "embeddings": given.embeddings,
        "runs": given.runs,
        "measured": [each.summary() for each in timed],
        "table": lines,
    }


def _has_space(made: Stage) -> bool:
    with made.database.transaction() as connection:
        return bool(spaces.live(connection))


def table(timed: Sequence[Timed]) -> Iterator[str]:
    """In Markdown."""
    yield "| | p50, ms | p95, ms | CPU p50, ms |"
    yield "|---|---:|---:|---:|"
    for each in timed:
        wall, cpu = percentiles(each.wall_ms), percentiles(each.cpu_ms)
        yield f"| {each.name} | {wall['p50']} | {wall['p95']} | {cpu.get('p50', '')} |"


def write(found: Mapping[str, object], folder: Path) -> None:
    """Keeps the last run, and a page of it."""
    folder.mkdir(exist_ok=True)
    (folder / "search_cli.json").write_text(json.dumps(found, indent=2) + "\n")
    facts = found["machine"]
    assert isinstance(facts, Mapping)
    load = facts["load_before"]
    where = f"{facts['cores']} cores ({facts['processor']}), Python {facts['python']}, load before {load};"
    lines = found["table"]
    assert isinstance(lines, list)
    page = ["# `mediamill search`, from start to end", "", *(__doc__ or "").strip().splitlines()[2:], ""]
    page += [f"{where} {found['embeddings']} embeddings, {found['runs']} runs", "", *lines]
    (folder / "search_cli.md").write_text("\n".join(page) + "\n")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--database", help="URL of an empty database; none: a server of its own")
    parser.add_argument("--results", type=Path, help="folder to write to; none: only print")
    given = parser.parse_args()
    found = measure(given)
    if given.results is not None:
        write(found, given.results)


if __name__ == "__main__":
    main()
