"""Words, numbers and conflicts that one job, one notification or one statement brings, and no worker dies of."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from handlers.protocol import Failure, Order, Outcome, Timings
from storage import jobs
from storage.claim import ClaimedJob, WorkerRetired
from storage.database import Conflict, Database
from storage.pooled import PooledDatabase
from storage.settle import Artifact, Ending, Rules, Settlement, already_settled, settle
from storage.sql import Connection
from storage.workers import CANCEL_CHANNEL, Running
from tests.fixtures import JobTable
from tests.integration.one_worker import one_worker, success
from tests.integration.test_claimer import Hand, until
from tests.integration.test_objects_pinned import CountingStore, look
from worker.clock import RealClock
from worker.daemon import leave_for_certain
from worker.embedding import embed_job
from worker.executor_outcome import believed
from worker.metrics import Metrics
from worker.outage import Patience
from worker.record import Record, Recorder
from worker.wake import listen


def recorder(database: Database, job: ClaimedJob, *, tries: int = 20) -> Recorder:
    left = iter(range(tries))
    patience = Patience(lambda: next(left, None) is None, Metrics(), pause=lambda _: None)
    return Recorder(
        database, job.fence.worker_id, rules=Rules(), metrics=Metrics(), embed_job=embed_job, patience=patience
    )


def success_of(job: ClaimedJob) -> Record:
    artifact = Artifact("o", "media", f"{job.fence.key}.json", "application/json", 2, job.fence.id.bytes * 2)
    return Record(Settlement.of(job.fence, Ending.SUCCEEDED, result={}, artifacts=[artifact]), 0.0)


# --- the recorder ---


def test_records_that_are_too_much_for_one_statement_are_written_in_parts(database: Database, table: JobTable) -> None:
    """Else the same batch is tried again for ever, with all later ones behind it, while the worker beats on."""
    table.add(16)
    claimed = table.claim(table.worker(), 16)
    table.rows(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.1); RETURN NEW; END'"
    )
    table.rows("CREATE TRIGGER slow BEFORE INSERT ON artifacts FOR EACH ROW EXECUTE FUNCTION slow()")
    quick = PooledDatabase(database.url, statement_timeout_s=0.9)
    answers = recorder(quick, claimed[0]).write([success_of(job) for job in claimed])
    quick.close()
    assert answers == ["succeeded"] * 16


class Contended(PooledDatabase):
    """Is the victim of deadlocks so many times."""

    conflicts = 0

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with super().transaction() as connection:
            if self.conflicts:
                self.conflicts -= 1
                raise Conflict("deadlock detected")
            yield connection


def test_a_record_that_is_the_victim_again_and_again_is_written_in_the_end(database: Database, table: JobTable) -> None:
    table.add()
    (job,) = table.claim(table.worker())
    contended = Contended(database.url)
    contended.conflicts = 12
    assert recorder(contended, job).write([success_of(job)]) == ["succeeded"]
    contended.close()


def test_a_server_that_takes_no_writes_is_away(database: Database, table: JobTable) -> None:
    """A primary that is handed over: it must not end every worker, and cost each of their jobs a loss."""
    table.add()
    (job,) = table.claim(table.worker())
    name = database.url.rsplit("/", 1)[1]
    table.rows(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    standby = PooledDatabase(database.url)
    with pytest.raises(WorkerRetired):
        recorder(standby, job, tries=2).write([success_of(job)])
    standby.close()
    assert recorder(database, job).write([success_of(job)]) == ["succeeded"]


def test_a_cancel_that_was_asked_for_does_not_hide_the_success_that_came(database: Database, table: JobTable) -> None:
    (id_,) = table.add()
    (job,) = table.claim(table.worker())
    with database.transaction() as connection:
        jobs.cancel(connection, [id_], Rules())
    ended = Settlement.of(job.fence, Ending.SUCCEEDED, result={})
    with database.transaction() as connection:
        assert already_settled(connection, [ended]) == {}
        settle(connection, [ended], Rules())
        assert already_settled(connection, [ended]) == {id_: "succeeded"}


# --- what an executor says ---


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("failure", [None, Failure(type="HandlerBug", message="no")])
def test_timings_that_are_no_seconds_are_not_learnt_from(seconds: float, failure: Failure | None) -> None:
    """One NaN in the moving average, and no later claim can be computed."""
    result: dict[str, Any] | None = {} if failure is None else None
    said = Outcome(key="k", result=result, failure=failure, timings=Timings(infer=seconds))
    heard = believed(said, told=None, suspicious=True)
    assert isinstance(heard, Outcome)
    assert heard.timings == Timings()
    assert heard.failure is not None


async def test_a_failure_that_postgres_refuses_fails_its_job_and_no_other(database: Database, tmp_path: Path) -> None:
    store = CountingStore(tmp_path / "store")
    uri = store.put("a.jpg", b"picture")
    with one_worker(database, store, tmp_path) as worker:
        bad, good = look(worker, uri), look(worker, uri)
        # Any value will do that no check before the database finds.
        worker.table.rows(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN IF NEW.error ->> ''message'' = ''unspeakable'' THEN RAISE ''no'' USING ERRCODE = ''22023''; END IF;"
            " RETURN NEW; END'"
        )
        worker.table.rows("CREATE TRIGGER refuse BEFORE UPDATE ON job_details FOR EACH ROW EXECUTE FUNCTION refuse()")

        def behave(order: Order) -> Outcome:
            if str(bad) in order.key:
                return Outcome(key=order.key, failure=Failure(type="HandlerBug", message="unspeakable"))
            return success(order)

        worker.executor.behave = behave
        assert await worker.run() == {"queued": 1, "succeeded": 1}
    row = worker.table.row(bad)
    assert "Postgres refuses" in row["error"]["message"]
    assert row["failures"] == 1
    assert worker.table.row(good)["state"] == "succeeded"


# --- around it ---


async def test_a_database_that_is_away_when_a_drain_begins_ends_no_worker(database: Database, table: JobTable) -> None:
    (id_,) = table.add()
    contended = Contended(database.url)
    hand = Hand(contended, table.worker())
    (job,) = table.claim(hand.claimer._worker)
    contended.conflicts = 1
    await hand.claimer._give_back([Running(id_, job.fence.attempt, False)])
    assert table.row(id_)["state"] == "running"
    await hand.claimer.reconcile()
    assert table.row(id_)["state"] == "queued"
    contended.close()


async def test_a_notification_that_names_no_job_is_passed_over(database: Database, table: JobTable) -> None:
    (id_,) = table.add()
    cancelled: list[object] = []
    heard: list[str | None] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(
            lambda: listen(
                database.url,
                new_jobs=heard.append,
                cancel=cancelled.append,
                clock=RealClock(),
                limiter=anyio.CapacityLimiter(1),
            )
        )
        await until(lambda: heard)
        for payload in ("nonsense", str(id_)):
            table.rows("SELECT pg_notify(:channel, :payload)", channel=CANCEL_CHANNEL, payload=payload)
        await until(lambda: cancelled)
        tasks.cancel_scope.cancel()
    assert cancelled == [id_]


async def test_whoever_is_to_leave_at_once_leaves_though_a_service_does_not_answer() -> None:
    leave, answers, left = anyio.Event(), threading.Event(), list[int]()

    def go(status: int) -> None:
        left.append(status)
        answers.set()  # in a test, the thread must end

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: anyio.to_thread.run_sync(answers.wait))
        tasks.start_soon(lambda: leave_for_certain(leave, within_s=0.01, leave_process=go))
        leave.set()
    assert left == [1]


async def test_whoever_is_to_leave_at_once_leaves_though_closing_its_connections_takes_long() -> None:
    leave, left, gone = anyio.Event(), list[int](), threading.Event()

    def go(status: int) -> None:
        left.append(status)
        gone.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: leave_for_certain(leave, within_s=0.01, leave_process=go))
        leave.set()
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    # The event loop's part is over, and the process is not.
    assert gone.wait(5)
    assert left == [1]
