"""A session that stops in the midst of a transaction, as that of a stopped process does: its locks are not for ever."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest

from storage.claim import hold_worker
from storage.database import Database, Unreachable
from storage.pooled import PooledDatabase
from storage.settle import Rules
from tests.fixtures import JobTable
from worker.clock import RealClock
from worker.metrics import Metrics
from worker.reaper import Reaper


class Clock(RealClock):
    """Moved by hand."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def reaper(database: Database, clock: Clock) -> Reaper:
    return Reaper(
        database,
        lease_s=30,
        every_s=100,
        rules=Rules(),
        clock=clock,
        limiter=anyio.CapacityLimiter(1),
        metrics=Metrics(),
    )


@contextmanager
def impatient(database: Database, **limits: float) -> Iterator[Database]:
    with_limits = PooledDatabase(database.url, **limits)  # type: ignore[arg-type]
    yield with_limits
    with_limits.close()


def test_jobs_of_a_worker_that_was_stopped_within_a_transaction_are_taken_back(
    database: Database, table: JobTable
) -> None:
    """It holds its own row, which the reaper must have: the kernel keeps the connection of a stopped process alive."""
    (id_,) = table.add()
    worker = table.worker()
    table.claim(worker)
    clock = Clock()
    reaping = reaper(database, clock)
    with impatient(database, idle_timeout_s=0.5) as stopped:
        stops = stopped.transaction()
        hold_worker(stops.__enter__(), worker)
        reaping.look()
        clock.now += 31
        reaping.look()
        assert table.row(id_)["state"] == "queued"
        with pytest.raises(Unreachable):
            stops.__exit__(None, None, None)


def test_one_worker_that_cannot_be_reclaimed_keeps_no_other_waiting(database: Database, table: JobTable) -> None:
    held, free = table.worker(uuid.UUID(int=1)), table.worker(uuid.UUID(int=2))
    table.add(2)
    claimed = {worker: table.claim(worker)[0].fence.id for worker in (held, free)}
    clock = Clock()
    with impatient(database, statement_timeout_s=0.5) as quick:
        reaping = reaper(quick, clock)
        reaping.look()
        with database.transaction() as connection:
            hold_worker(connection, held)
            clock.now += 31
            reaping.look()
            assert table.row(claimed[free])["state"] == "queued"
            assert table.row(claimed[held])["state"] == "running"
        reaping.look()
    assert table.row(claimed[held])["state"] == "queued"
