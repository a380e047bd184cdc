"""Whether a long history makes jobs slower, and what more workers do: `python -m bench.history`.

History: databases with so many finished jobs (`bench/history_fill.py`: pictures that were captioned, in all tables that
a job has, over three months of partitions), on one Postgres that keeps its promises (fsync and synchronous_commit on).
In each, round by round in turn, new caption jobs are inserted (500 in a statement), claimed (200), what they read is
noted (200), and their captions are recorded (300), by one connection, with the worker's own statements. The tables
without history have those of the rounds before. What is compared is the time per job, round by round.

Workers: so many `mediamill worker` processes at one queue of jobs that do nothing, inserted before they go on; time
runs until the last end is recorded. All share the machine's cores with Postgres. Each round starts all anew.

    python -m bench.history --results bench/results
    python -m bench.history --millions 0,1,10 --results bench/results    # the long run
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from bench.history_crew import crew, scale
from bench.history_fill import fill, needed_bytes, settle_down
from bench.overhead import DURABLE, Measured, machine, throughput
from bench.page import PEER_PYTHON, draw, markdown, measured_on
from intake.identity import new_id
from storage import schema, workers
from storage.claim import ClaimedJob, Pin, PinnedInput, Want, claim, hold_worker, pin
from storage.database import Database
from storage.pooled import PooledDatabase
from storage.settle import Ending, NewText, Rules, Settlement, settle
from storage.sql import text
from storage.submit import NewJob, submit
from tests.servers.postgres import PostgresServer

T = TypeVar("T")

LANE, TYPE = "backfill", "image.caption"
INSERTED, CLAIMED, RECORDED = 500, 200, 300
STEPS = ("insert", "claim", "note what was read", "record")
SETTINGS = {**DURABLE, "max_wal_size": "4GB", "autovacuum": "on"}
#: How much longer a job may take with a history than without one.
MOST_TIMES = 1.1


@dataclass(slots=True)
class Size:
    """A database with so many finished jobs, and what was seen of it."""

    finished_jobs: int
    fill_s: float = 0.0
    bytes: int = 0
    us_per_job: dict[str, list[float]] = field(default_factory=lambda: {step: [] for step in STEPS})
    """By step and round: microseconds."""

    def times(self, other: Size) -> dict[str, float]:
        """How many times another's time a job takes, by step, and with all of them: the medians of the rounds."""
        found = {
            step: median(mine / its for mine, its in zip(self.us_per_job[step], other.us_per_job[step], strict=True))
            for step in STEPS
        }
        return found | {"all": median(a / b for a, b in zip(self.totals(), other.totals(), strict=True))}

    def totals(self) -> list[float]:
        """Microseconds of all steps together, by round."""
        return [sum(each) for each in zip(*self.us_per_job.values(), strict=True)]


def round_of(database: Database, jobs: int) -> dict[str, float]:
    """Takes new jobs from their insertion to their end; microseconds per job of each step."""
    worker = new_id()
    with database.transaction() as connection:
        workers.register(connection, worker, host="bench", pid=0, build="bench", devices=[])
    new = [new_job(n) for n in range(jobs)]
    claimed: list[ClaimedJob] = []

    def claim_all() -> None:
        while len(claimed) < jobs:
            with database.transaction() as connection:
                some = claim(connection, worker, [Want(LANE, TYPE, CLAIMED)], ["caption"])
            if not some:
                raise RuntimeError(f"{len(claimed)} of {jobs} jobs were claimed, then there were none")
            claimed.extend(some)

    def note_all() -> None:
        for some in _parts(claimed, CLAIMED):
            with database.transaction() as connection:
                pin(connection, [Pin(job.fence, [picture(job)]) for job in some])

    def record_all() -> None:
        for some in _parts(claimed, RECORDED):
            with database.transaction() as connection:
                hold_worker(connection, worker)
                settle(connection, [caption(job) for job in some], Rules())

    works = (lambda: [submit(database, part) for part in _parts(new, INSERTED)], claim_all, note_all, record_all)
    return {step: _us_each(jobs, work) for step, work in zip(STEPS, works, strict=True)}


def new_job(n: int) -> NewJob:
    """A picture to be captioned."""
    id_ = new_id()
    labels = {"album": f"a{n % 5000}", "source": "phone"}
    inputs = {"image": {"uri": f"s3://media/uploads/{id_}.jpg"}}
    message = {"id": str(id_), "type": TYPE, "labels": labels, "inputs": inputs}
    return NewJob(
        id=id_,
        type=TYPE,
        lane=LANE,
        body_sha256=sha256(id_.bytes).digest(),
        message=message,
        checkpoints=["caption"],
        labels=labels,
    )


def picture(job: ClaimedJob) -> PinnedInput:
    """What the job read: a content that nobody has seen before."""
    content = sha256(b"content of " + job.fence.id.bytes)
    key = f"uploads/{job.fence.id}.jpg"
    return PinnedInput("image", "", "media", key, None, content.hexdigest()[:32], 2_000_000, content.digest())


def caption(job: ClaimedJob) -> Settlement:
    """Its success, with a caption."""
    read = picture(job)
    said = f"a red thing{read.sha256[0]} and a white other{read.sha256[1]} in front of a place{read.sha256[2]}"
    return Settlement.of(
        job.fence,
        Ending.SUCCEEDED,
        result={"checkpoint": "blip-base", "captions": [{"text": said, "score": 0.91}]},
        timings={"fetch": 0.021, "prepare": 0.013, "infer": 0.044, "store": 0.0},
        derivation_key=read.sha256,
        texts=[NewText(read.sha256, "caption", said, "en")],
        probes={read.sha256: {"mime": "image/jpeg", "width": 4032, "height": 3024}},
    )


def _us_each(jobs: int, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) / jobs * 1e6


def _parts(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


def measure_history(given: argparse.Namespace) -> dict[str, Any]:
    """The first part."""
    facts = machine()
    with ExitStack() as held:
        server = held.enter_context(PostgresServer(SETTINGS))
        check_room(server.folder, sum(given.finished))
        sizes: list[tuple[Database, Size]] = []
        for n, jobs in enumerate(given.finished):
            database: Database = PooledDatabase(server.create_database(f"history{n}"), statement_timeout_s=3600)
            held.callback(database.close)
            schema.migrate(database)
            size = Size(jobs, fill_s=fill(database, jobs))
            with database.transaction() as connection:
                size.bytes = connection.scalar(text("SELECT pg_database_size(current_database())"))
            sizes.append((database, size))
        for n in range(given.rounds + 1):
            for database, size in sizes:
                took = round_of(database, given.jobs)
                if n == 0:  # caches, and statistics of tables that were empty
                    settle_down(database)
                    continue
                for step, us in took.items():
                    size.us_per_job[step].append(us)
                print(f"round {n}: {size.finished_jobs:,} finished jobs: {sum(took.values()):.0f} µs", file=sys.stderr)
    facts["load_after"] = round(os.getloadavg()[0], 1)
    found = [size for _, size in sizes]
    lines = history_table(found)
    print("\n".join(lines))
    return {
        "machine": facts,
        "rounds": given.rounds,
        "jobs": given.jobs,
        "sizes": [asdict(size) | {"times": size.times(found[0])} for size in found],
        "table": lines,
    }


def check_room(folder: Path, jobs: int) -> None:
    """Raises SystemExit where the disk has no room for so many finished jobs."""
    free, needed = shutil.disk_usage(folder).free, needed_bytes(jobs)
    if free < needed:
        raise SystemExit(
            f"{jobs:,} finished jobs take about {needed / 1e9:.0f} GB in {folder.parent}, where {free / 1e9:.0f} GB are"
            " free: set TMPDIR to a larger disk, or give fewer --millions"
        )


def history_table(sizes: Sequence[Size]) -> list[str]:
    """In Markdown; the first size is what all are compared with."""
    header = ["finished jobs", "on disk, GB", *(f"{step}, µs a job" for step in STEPS), "all, µs", "times the first's"]
    rows = []
    for size in sizes:
        times = size.times(sizes[0])
        row = [f"{size.finished_jobs:,}", f"{size.bytes / 1e9:.2f}"]
        row += [f"{median(size.us_per_job[step]):.0f} ({times[step]:.2f})" for step in STEPS]
        rows.append([*row, f"{median(size.totals()):.0f}", f"{times['all']:.2f}"])
    return [*markdown(header, rows), "", f"In brackets: times the first row's. Wanted: at most {MOST_TIMES}."]


def measure_workers(given: argparse.Namespace) -> dict[str, Any]:
    """The second part."""
    facts = machine()
    measured = {workers_: Measured("mediamill", "", given.noops) for workers_ in given.workers}
    with tempfile.TemporaryDirectory(prefix="mediamill-bench-") as folder, PostgresServer(SETTINGS) as server:
        url = server.create_database("workers")
        for n in range(given.rounds):
            for workers_, found in measured.items():
                with crew(Path(folder), url, workers_) as at_work:
                    # Connections, and what is learnt of costs: each worker is new.
                    throughput(at_work, Measured("", "", max(200 * workers_, given.noops // 5)), {})
                    throughput(at_work, found, {"postgres": server.pid})
                print(f"round {n + 1}: {workers_} workers {found.jobs_per_s[-1]:,.0f} jobs/s", file=sys.stderr)
    facts["load_after"] = round(os.getloadavg()[0], 1)
    one = measured[given.workers[0]]
    scales = [scale(workers_, found, one, int(str(facts["cores"]))) for workers_, found in measured.items()]
    header = ["workers", "jobs/s", "times one's", "cores busy", "CPU per job, ms", "of what is possible"]
    rows = [
        [
            each.workers,
            f"{each.jobs_per_s:,.0f}",
            f"{each.times_one:.2f}",
            f"{each.cores_busy:.2f}",
            f"{each.cpu_ms_per_job:.2f}",
            f"{each.of_possible:.0%}",
        ]
        for each in scales
    ]
    note = (
        "Possible: one worker's jobs times the workers or, where less, what all cores do at one worker's CPU per job."
    )
    lines = [*markdown(header, rows), "", note]
    print("\n".join(lines))
    return {
        "machine": facts,
        "rounds": given.rounds,
        "jobs": given.noops,
        "scales": [asdict(each) | {"rounds": measured[each.workers].jobs_per_s} for each in scales],
        "table": lines,
    }


def write(found: Mapping[str, Any], folder: Path) -> None:
    """Keeps the last run of each part, and a page with both."""
    folder.mkdir(exist_ok=True)
    kept = folder / "history.json"
    runs: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    runs.update(found)
    kept.write_text(json.dumps(runs, indent=2) + "\n")
    page = ["# A long history, and many workers", "", *(__doc__ or "").strip().splitlines()[2:], "", "![](history.svg)"]
    for title, key in (("With finished jobs in the tables", "history"), ("Workers at one queue", "workers")):
        if (run := runs.get(key)) is not None:
            facts = f"{measured_on(run['machine'])} Medians of {run['rounds']} rounds of {run['jobs']:,} jobs."
            page += ["", f"## {title}", "", facts, "", *run["table"]]
    (folder / "history.md").write_text("\n".join(page) + "\n")


def numbers(given: str) -> list[float]:
    """`0,1,10`. Raises ValueError."""
    return [float(number) for number in given.split(",") if number]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=numbers, default=[0, 1], help="finished jobs; 0 first; none: only workers")
    parser.add_argument("--workers", type=numbers, default=[1, 2, 4, 8], help="1 first; none: only the history")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=5000, help="caption jobs, in one round")
    parser.add_argument("--noops", type=int, default=20_000, help="jobs that do nothing, in one round")
    parser.add_argument("--plotter", type=Path, default=PEER_PYTHON, help="an interpreter that has matplotlib")
    parser.add_argument("--results", type=Path, help="folder to write to; none: only print")
    given = parser.parse_args()
    if given.rounds < 1 or given.jobs < 1 or given.noops < 1:
        parser.error("at least 1 round and 1 job")
    given.finished = [round(millions * 1e6) for millions in given.millions]
    given.workers = [int(workers_) for workers_ in given.workers]
    if (given.finished and given.finished[0] != 0) or (given.workers and given.workers[0] != 1):
        parser.error("all is compared with the first: --millions begins with 0, --workers with 1")
    found: dict[str, Any] = {}
    if given.finished:
        found["history"] = measure_history(given)
    if given.workers:
        found["workers"] = measure_workers(given)
    if given.results is not None:
        write(found, given.results)
        draw(given.plotter, given.results / "history.json")


if __name__ == "__main__":
    main()
