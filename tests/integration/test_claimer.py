"""The claim loop against a real Postgres: lost answers, missed notifications, rows that are no longer ours."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import anyio
import pytest

from storage import jobs, workers
from storage.claim import ClaimedJob, Want, claim
from storage.database import Database, Unreachable
from storage.pooled import PooledDatabase
from storage.settle import Ending, Rules, Settlement, settle
from storage.sql import Connection
from tests.fixtures import JobTable
from tests.servers.leashed import wait_until
from worker.attempts import Attempts, Stop
from worker.claiming import Appetite, Claimer
from worker.clock import RealClock
from worker.costs import Costs
from worker.health import Health
from worker.lease import LeaseLost
from worker.metrics import Metrics
from worker.wake import listen


class LosesAnswers(PooledDatabase):
    """Loses the answer to the next commit that has happened."""

    armed = False

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with super().transaction() as connection:
            yield connection
        if self.armed:
            self.armed = False
            raise Unreachable("the connection was lost after COMMIT was sent")


class Hand:
    """A claimer, and what it started."""

    def __init__(self, database: Database, worker: uuid.UUID, *, types: Sequence[str] = ("test.noop",)) -> None:
        self.attempts = Attempts(RealClock())
        self.started: list[ClaimedJob] = []
        self.some = anyio.Event()
        self.health = Health()
        self.claimer = Claimer(
            database,
            worker,
            appetite=Appetite({"interactive": 8, "upload": 4, "backfill": 1}, 5),
            types=lambda: types,
            has=list,
            attempts=self.attempts,
            costs=Costs(),
            start=self._start,
            rules=Rules(),
            poll_s=60,
            clock=RealClock(),
            rng=random.Random(1),
            limiter=anyio.CapacityLimiter(2),
            metrics=Metrics(),
            health=self.health,
        )

    def _start(self, job: ClaimedJob) -> None:
        self.attempts.add(job)
        self.started.append(job)
        self.some.set()


@asynccontextmanager
async def claiming(hand: Hand) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hand.claimer.keep)
        yield
        tasks.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    """What happens in the database gives no event to await."""
    await anyio.to_thread.run_sync(lambda: wait_until(lambda: bool(condition()), 20, "the database to say so"))


async def test_jobs_of_a_claim_whose_answer_was_lost_are_handed_back(database: Database, table: JobTable) -> None:
    ids = table.add(2)
    worker = table.worker()
    lossy = LosesAnswers(database.url)
    lossy.armed = True
    hand = Hand(lossy, worker)
    async with claiming(hand):
        await until(lambda: table.counts() == {"running": 2})
        await until(lambda: not lossy.armed)
        assert hand.started == []
        await hand.claimer.reconcile()
        assert {table.row(id_)["interruptions"] for id_ in ids} == {1}
        hand.claimer.wake()
        with anyio.fail_after(10):
            await hand.some.wait()
    assert {job.fence.attempt for job in hand.started} == {2}
    assert {job.fence.id for job in hand.started} == set(ids)
    lossy.close()


async def test_what_is_in_hand_is_not_handed_back(database: Database, table: JobTable) -> None:
    table.add(3)
    hand = Hand(database, table.worker())
    async with claiming(hand):
        with anyio.fail_after(10):
            await hand.some.wait()
        await hand.claimer.reconcile()
    assert table.counts() == {"running": 3}
    assert not any(attempt.stopped for attempt in hand.attempts)


async def test_an_attempt_whose_row_is_others_now_is_ended_without_a_word(database: Database, table: JobTable) -> None:
    table.add()
    hand = Hand(database, table.worker())
    async with claiming(hand):
        with anyio.fail_after(10):
            await hand.some.wait()
        hand.claimer.stop()
        await hand.claimer.stopped()
        (attempt,) = hand.attempts
        with database.transaction() as connection:
            settle(connection, [Settlement.of(attempt.job.fence, Ending.LOST)], Rules())
        await hand.claimer.reconcile()
    assert attempt.stopped is Stop.FENCE_LOST
    assert attempt.scope.cancel_called


async def test_a_cancel_whose_notification_was_missed_is_found_by_the_next_look(
    database: Database, table: JobTable
) -> None:
    (id_,) = table.add()
    hand = Hand(database, table.worker())
    async with claiming(hand):
        with anyio.fail_after(10):
            await hand.some.wait()
        with database.transaction() as connection:
            jobs.cancel(connection, [id_], Rules())
        await hand.claimer.reconcile()
    (attempt,) = hand.attempts
    assert attempt.stopped is Stop.CANCELLED


async def test_a_result_that_is_being_recorded_is_not_stopped_by_a_cancel(database: Database, table: JobTable) -> None:
    (id_,) = table.add()
    hand = Hand(database, table.worker())
    async with claiming(hand):
        with anyio.fail_after(10):
            await hand.some.wait()
        (attempt,) = hand.attempts
        attempt.recording = True
        with database.transaction() as connection:
            jobs.cancel(connection, [id_], Rules())
        await hand.claimer.reconcile()
        attempt.stop(Stop.CANCELLED)
    assert attempt.stopped is None


async def test_a_retired_worker_claims_nothing_and_knows_it(database: Database, table: JobTable) -> None:
    table.add()
    worker = table.worker()
    with database.transaction() as connection:
        workers.retire(connection, worker, "silent")
    hand = Hand(database, worker)
    with pytest.raises(LeaseLost):
        await hand.claimer.keep()
    assert table.counts() == {"queued": 1}


async def test_an_idle_worker_is_woken_by_the_database_and_by_the_next_connection_when_that_is_lost(
    database: Database, table: JobTable
) -> None:
    """The poll interval is a minute: only a notification can be this quick."""
    hand = Hand(database, table.worker())
    cancelled: list[uuid.UUID] = []

    def backend() -> int | None:
        sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'mediamill listen' AND state = 'idle'"
        rows = table.rows(sql + " AND datname = current_database()")
        return rows[0]["pid"] if rows else None

    async with claiming(hand), anyio.create_task_group() as tasks:
        tasks.start_soon(
            lambda: listen(
                database.url,
                new_jobs=hand.claimer.wake,
                cancel=cancelled.append,
                clock=RealClock(),
                limiter=anyio.CapacityLimiter(1),
            )
        )
        await until(backend)
        (first,) = await anyio.to_thread.run_sync(table.add)
        with anyio.fail_after(10):
            await hand.some.wait()
        pid = backend()
        table.rows("SELECT pg_terminate_backend(:pid)", pid=pid)
        await until(lambda: backend() not in (None, pid))
        hand.some = anyio.Event()
        (second,) = await anyio.to_thread.run_sync(table.add)
        with anyio.fail_after(10):
            await hand.some.wait()
        with database.transaction() as connection:
            jobs.cancel(connection, [second], Rules())
        await until(lambda: cancelled == [second])
        tasks.cancel_scope.cancel()
    assert [job.fence.id for job in hand.started] == [first, second]


async def test_a_worker_that_is_full_is_not_thought_to_have_stalled(database: Database, table: JobTable) -> None:
    hand = Hand(database, table.worker(), types=())
    async with claiming(hand):
        await anyio.wait_all_tasks_blocked()
        assert "claim" not in {check.name for check in hand.health.checks()}


async def test_jobs_claimed_while_a_drain_begins_go_back_as_they_are(database: Database, table: JobTable) -> None:
    (id_,) = table.add()
    hand = Hand(database, table.worker())
    hand.claimer.stop()
    await hand.claimer._claim()
    assert hand.started == []
    row = table.row(id_)
    assert (row["state"], row["interruptions"], row["failures"]) == ("queued", 1, 0)


async def test_one_claim_takes_no_more_than_its_limit_and_the_first_wanted_first(
    database: Database, table: JobTable
) -> None:
    for lane in ("backfill", "interactive"):
        table.add(10, lane=lane)
    wanted = [Want(lane, "test.noop", 8) for lane in ("interactive", "upload", "backfill")]
    with database.transaction() as connection:
        taken = claim(connection, table.worker(), wanted, [], most=11)
    assert [job.lane for job in taken].count("interactive") == 8
    assert len(taken) == 11
    assert table.counts() == {"queued": 9, "running": 11}
