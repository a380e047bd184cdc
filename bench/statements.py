"""How many jobs a second the hot statements take, one connection at a time: `python -m bench.statements`.

A Postgres of its own (fsync and synchronous_commit on), no-op jobs without inputs or outputs, batches
as workers make them. It measures the statements alone: no executor, no object store.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import TypeVar

from intake.identity import new_id
from storage import schema, workers
from storage.claim import ClaimedJob, Want, claim
from storage.database import Database
from storage.pooled import PooledDatabase
from storage.settle import Ending, Rules, Settlement, settle
from storage.submit import NewJob, submit
from tests.servers.postgres import PostgresServer

T = TypeVar("T")

SUBMIT, CLAIM, SETTLE = 500, 200, 300


def measure(database: Database, jobs: int) -> dict[str, float]:
    """One round: jobs per second of each statement."""
    worker = new_id()
    with database.transaction() as connection:
        workers.register(connection, worker, host="bench", pid=0, build="bench", devices=[])
    new = [
        NewJob(id=new_id(), type="test.noop", lane="backfill", body_sha256=bytes(32), message={"type": "test.noop"})
        for _ in range(jobs)
    ]
    claimed: list[ClaimedJob] = []

    def claim_all() -> None:
        while True:
            with database.transaction() as connection:
                some = claim(connection, worker, [Want("backfill", "test.noop", CLAIM)], [])
            if not some:
                return
            claimed.extend(some)

    def settle_all() -> None:
        for some in _parts(claimed, SETTLE):
            with database.transaction() as connection:
                ends = [Settlement.of(job.fence, Ending.SUCCEEDED, result={}, timings={"infer": 0.0}) for job in some]
                settle(connection, ends, Rules())

    return {
        "submit": _rate(jobs, lambda: [submit(database, part) for part in _parts(new, SUBMIT)]),
        "claim": _rate(jobs, claim_all),
        "settle": _rate(jobs, settle_all),
    }


def _rate(jobs: int, work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return jobs / (time.perf_counter() - started)


def _parts(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with PostgresServer() as server:
        database = PooledDatabase(server.create_database("bench"))
        schema.migrate(database)
        rounds = [measure(database, given.jobs) for _ in range(given.rounds)]
        database.close()
    print(f"jobs/s, medians of {given.rounds} rounds of {given.jobs} jobs")
    for name in rounds[0]:
        print(f"{name:8} {median(each[name] for each in rounds):8,.0f}")


if __name__ == "__main__":
    main()
