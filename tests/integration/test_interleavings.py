"""Interleavings of claim, record, reaper, cancel and submit, each forced with two real connections."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import pytest

from intake.identity import new_id
from storage import jobs, workers
from storage.claim import ClaimedJob, Want, WorkerRetired, claim, hold_worker
from storage.database import Conflict, Database, Unreachable
from storage.pooled import PooledDatabase
from storage.settle import Artifact, Ending, Rules, Settlement, settle
from storage.spaces import ensure_space
from storage.sql import Connection, text
from storage.submit import Admission, NewJob, Submitted, submit, submit_within
from tests.fixtures import JobTable
from worker.embedding import embed_job
from worker.metrics import Metrics
from worker.outage import Patience
from worker.record import FenceLost, Picture, Record, Recorder

T = TypeVar("T")
RULES = Rules()


@pytest.fixture
def elsewhere() -> Iterator[ThreadPoolExecutor]:
    """Other sessions, in threads."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


@contextmanager
def another(database: Database) -> Iterator[Connection]:
    with database.transaction() as connection:
        yield connection


def until_it_waits(database: Database, waiting: Future[Any]) -> None:
    """Returns when some session waits for a lock of another."""
    waits = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    while not waiting.done():
        with database.transaction() as connection:
            if connection.scalar(waits):
                return
    pytest.fail(f"it did not wait: {waiting.result()}")


def in_transaction(database: Database, work: Callable[[Connection], T]) -> T:
    with database.transaction() as connection:
        return work(connection)


def test_a_reaper_waits_for_a_claim_under_way_and_takes_its_jobs_back(
    database: Database, table: JobTable, elsewhere: ThreadPoolExecutor
) -> None:
    (id_,) = table.add()
    worker = table.worker()
    with database.transaction() as claiming:
        assert len(claim(claiming, worker, [Want("interactive", "test.noop", 1)], [])) == 1
        reaping = elsewhere.submit(in_transaction, database, lambda c: workers.reclaim(c, worker, seen=0, rules=RULES))
        until_it_waits(database, reaping)
    assert reaping.result() == {id_: "queued"}
    assert table.row(id_)["losses"] == 1


def test_a_claim_that_comes_while_its_worker_is_being_retired_takes_nothing(
    database: Database, table: JobTable, elsewhere: ThreadPoolExecutor
) -> None:
    (id_,) = table.add()
    worker = table.worker()
    with database.transaction() as reaping:
        assert workers.reclaim(reaping, worker, seen=0, rules=RULES) == {}
        claiming = elsewhere.submit(table.claim, worker)
        until_it_waits(database, claiming)
    with pytest.raises(WorkerRetired):
        claiming.result()
    assert table.row(id_)["state"] == "queued"


def test_a_record_under_way_is_finished_before_the_reaper_looks(
    database: Database, table: JobTable, elsewhere: ThreadPoolExecutor
) -> None:
    (id_,) = table.add()
    worker = table.worker()
    (job,) = table.claim(worker)
    with database.transaction() as recording:
        hold_worker(recording, worker)
        settle(recording, [Settlement.of(job.fence, Ending.SUCCEEDED, result={})], RULES)
        reaping = elsewhere.submit(in_transaction, database, lambda c: workers.reclaim(c, worker, seen=0, rules=RULES))
        until_it_waits(database, reaping)
    assert reaping.result() == {}
    assert table.row(id_)["state"] == "succeeded"


def test_a_retired_worker_cannot_record(database: Database, table: JobTable) -> None:
    (id_,) = table.add()
    worker = table.worker()
    (job,) = table.claim(worker)
    with database.transaction() as connection:
        workers.reclaim(connection, worker, seen=0, rules=RULES)
    with pytest.raises(WorkerRetired):
        recorder(database, worker).write([success(job)])
    assert table.row(id_)["state"] == "queued"
    assert table.rows("SELECT * FROM artifacts") == []


def test_a_worker_that_has_beaten_since_is_not_retired(database: Database, table: JobTable) -> None:
    worker = table.worker()
    with database.transaction() as connection:
        seen = workers.beats(connection)[worker]
        workers.beat(connection, worker, {})
    with database.transaction() as connection:
        assert workers.reclaim(connection, worker, seen=seen, rules=RULES) is None
    table.add()
    assert len(table.claim(worker)) == 1


def test_a_beat_does_not_wait_for_a_claim_or_a_record(database: Database, table: JobTable) -> None:
    worker = table.worker()
    with database.transaction() as holding:
        hold_worker(holding, worker)
        with another(database) as connection:
            connection.execute(text("SET LOCAL lock_timeout = '1s'"))
            assert workers.beat(connection, worker, {"jobs": 1}) == 1


def test_a_retired_worker_s_beat_says_so(database: Database, table: JobTable) -> None:
    worker = table.worker()
    with database.transaction() as connection:
        workers.retire(connection, worker, "drained")
    with pytest.raises(WorkerRetired), database.transaction() as connection:
        workers.beat(connection, worker, {})


def test_running_rows_of_a_worker_already_retired_are_found(database: Database, table: JobTable) -> None:
    (id_,) = table.add()
    worker = table.worker()
    table.claim(worker)
    with database.transaction() as connection:
        workers.retire(connection, worker, "by hand")
        assert workers.orphaned(connection) == [worker]
        assert workers.end_running(connection, worker, Ending.LOST, "gone", RULES) == {id_: "queued"}
        assert workers.orphaned(connection) == []


@pytest.mark.parametrize("ending", [Ending.LOST, Ending.FAILED, Ending.INTERRUPTED])
def test_a_cancel_committed_while_an_attempt_ends_is_seen(
    ending: Ending, database: Database, table: JobTable, elsewhere: ThreadPoolExecutor
) -> None:
    """The end was sent before the cancel committed: it waits for the row and must judge by what it then finds."""
    (id_,) = table.add()
    (job,) = table.claim(table.worker())
    with database.transaction() as cancelling:
        jobs.cancel(cancelling, [id_], RULES)
        ended = Settlement.of(job.fence, ending, error={"type": "Retry", "message": "no"})
        ending_ = elsewhere.submit(in_transaction, database, lambda c: settle(c, [ended], RULES))
        until_it_waits(database, ending_)
    assert ending_.result() == {id_: "cancelled"}


def test_a_cancel_that_waits_for_a_success_finds_it_finished(
    database: Database, table: JobTable, elsewhere: ThreadPoolExecutor
) -> None:
    (id_,) = table.add()
    (job,) = table.claim(table.worker())
    with database.transaction() as recording:
        settle(recording, [Settlement.of(job.fence, Ending.SUCCEEDED, result={})], RULES)
        cancelling = elsewhere.submit(in_transaction, database, lambda c: jobs.cancel(c, [id_], RULES))
        until_it_waits(database, cancelling)
    assert cancelling.result() == {id_: jobs.CancelAnswer.FINISHED}


def test_two_claims_at_once_share_the_jobs(database: Database, table: JobTable) -> None:
    table.add(10)
    one, two = table.worker(), table.worker()
    with database.transaction() as first:
        mine = claim(first, one, [Want("interactive", "test.noop", 6)], [])
        theirs = table.claim(two, 10)
    assert (len(mine), len(theirs)) == (6, 4)
    assert len({job.fence.id for job in (*mine, *theirs)}) == 10


def test_settlements_in_opposite_orders_do_not_deadlock(
    database: Database, table: JobTable, elsewhere: ThreadPoolExecutor
) -> None:
    table.add(60)
    claimed = table.claim(table.worker(), 60)
    start = threading.Barrier(2)

    def end(part: list[ClaimedJob]) -> dict[uuid.UUID, str]:
        start.wait()
        return in_transaction(
            database, lambda c: settle(c, [Settlement.of(job.fence, Ending.INTERRUPTED) for job in part], RULES)
        )

    halves = [elsewhere.submit(end, claimed), elsewhere.submit(end, claimed[::-1])]
    answers = [half.result() for half in halves]
    assert len(answers[0]) + len(answers[1]) == 60
    assert table.counts() == {"queued": 60}


def test_the_victim_of_a_deadlock_runs_again(
    database: Database, table: JobTable, elsewhere: ThreadPoolExecutor
) -> None:
    first, second = table.add(2)
    both = threading.Barrier(2, timeout=20)
    tries: list[str] = []

    def touch(connection: Connection, name: str, order: list[uuid.UUID]) -> str:
        tries.append(name)
        for id_ in order:
            connection.execute(text("UPDATE jobs SET priority = priority + 1 WHERE id = :id"), {"id": id_})
            if len(tries) <= 2 and id_ == order[0]:
                both.wait()
        return name

    a = elsewhere.submit(database.retrying, lambda c: touch(c, "a", [first, second]))
    b = elsewhere.submit(database.retrying, lambda c: touch(c, "b", [second, first]))
    assert {a.result(), b.result()} == {"a", "b"}
    assert len(tries) >= 3  # a victim may be one again
    assert [table.row(id_)["priority"] for id_ in (first, second)] == [2, 2]


def test_a_deadlock_that_does_not_end_is_an_error_in_the_end(database: Database) -> None:
    def conflict(_: Connection) -> None:
        raise Conflict("again")

    with pytest.raises(Conflict):
        database.retrying(conflict, tries=3)


# --- the recorder ---


class LossyDatabase(PooledDatabase):
    """Loses the answer to a commit that has happened, `losses` times."""

    losses = 0

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with super().transaction() as connection:
            yield connection
        if self.losses:
            self.losses -= 1
            raise Unreachable("the connection was lost after COMMIT was sent")


@pytest.fixture
def lossy(database: Database) -> Iterator[LossyDatabase]:
    lossy = LossyDatabase(database.url)
    yield lossy
    lossy.close()


def recorder(database: Database, worker: uuid.UUID) -> Recorder:
    metrics = Metrics()
    return Recorder(
        database,
        worker,
        rules=RULES,
        metrics=metrics,
        embed_job=embed_job,
        patience=Patience(give_up=lambda: False, metrics=metrics, pause=lambda _: None),
    )


def success(job: ClaimedJob, *pictures: Picture, **more: Any) -> Record:
    artifact = Artifact("captions", "media", f"out/{job.fence.key}.json", "application/json", 2, b"a" * 32)
    settlement = Settlement.of(job.fence, Ending.SUCCEEDED, result={}, artifacts=[artifact], **more)
    return Record(settlement, 0.0, pictures)


def test_a_record_whose_answer_was_lost_is_a_success_and_is_written_once(table: JobTable, lossy: LossyDatabase) -> None:
    (id_,) = table.add(message={"callback": "https://example.com/"})
    worker = table.worker()
    (job,) = table.claim(worker)
    lossy.losses = 2
    assert recorder(lossy, worker).write([success(job)]) == ["succeeded"]
    assert lossy.losses == 0
    assert table.events(id_) == ["submitted", "claimed", "succeeded"]
    assert len(table.rows("SELECT * FROM outbox")) == len(table.rows("SELECT * FROM artifacts")) == 1


def test_a_record_whose_connection_broke_before_the_commit_is_written_again(
    table: JobTable, database: Database
) -> None:
    (id_,) = table.add()
    worker = table.worker()
    (job,) = table.claim(worker)
    broken: list[int] = []

    class Breaking(PooledDatabase):
        @contextmanager
        def transaction(self) -> Iterator[Connection]:
            with super().transaction() as connection:
                yield connection
                if not broken:
                    broken.append(1)
                    me = connection.scalar(text("SELECT pg_backend_pid()"))
                    table.rows("SELECT pg_terminate_backend(:pid)", pid=me)

    breaking = Breaking(database.url)
    assert recorder(breaking, worker).write([success(job)]) == ["succeeded"]
    breaking.close()
    assert table.events(id_) == ["submitted", "claimed", "succeeded"]


def test_one_result_that_postgres_refuses_spoils_none_of_its_neighbours(table: JobTable, database: Database) -> None:
    table.add(8)
    worker = table.worker()
    claimed = table.claim(worker, 8)
    records = [success(job) for job in claimed]
    bad = Settlement.of(claimed[5].fence, Ending.SUCCEEDED, result={"text": "nul \0"})
    records[5] = Record(bad, 0.0)
    answers = recorder(database, worker).write(records)
    assert [type(answer).__name__ for answer in answers].count("DataError") == 1
    assert type(answers[5]).__name__ == "DataError"
    assert table.counts() == {"running": 1, "succeeded": 7}


def test_a_record_for_a_row_that_is_no_longer_ours_is_told_so(table: JobTable, database: Database) -> None:
    table.add()
    worker = table.worker()
    (job,) = table.claim(worker)
    with database.transaction() as connection:
        settle(connection, [Settlement.of(job.fence, Ending.INTERRUPTED)], RULES)
    table.claim(worker)
    (answer,) = recorder(database, worker).write([success(job)])
    # Our own settlement of that attempt is what the history has: the job is queued, not succeeded.
    assert answer == "queued"
    stranger = table.worker()
    fence = type(job.fence)(job.fence.id, 7, stranger)
    (answer,) = recorder(database, stranger).write([Record(Settlement.of(fence, Ending.SUCCEEDED, result={}), 0.0)])
    assert isinstance(answer, FenceLost)


def test_a_picture_without_its_embedding_gets_one_job_however_many_jobs_read_it(
    table: JobTable, database: Database, elsewhere: ThreadPoolExecutor
) -> None:
    ensure_space(database, checkpoint="clip", revision="r1", dimension=3)
    table.add(20)
    one, two = table.worker(), table.worker()
    halves = [(one, table.claim(one, 10)), (two, table.claim(two, 10))]
    picture = Picture(b"p" * 32, "s3://media/a.jpg", None, "etag")
    start = threading.Barrier(2)

    def write(worker: uuid.UUID, claimed: list[ClaimedJob]) -> list[str | Exception]:
        start.wait()
        return recorder(database, worker).write([success(job, picture) for job in claimed])

    answers = [elsewhere.submit(write, *half).result for half in halves]
    assert [answer for get in answers for answer in get()] == ["succeeded"] * 20
    (job,) = table.rows(
        "SELECT checkpoints, dedupe_key FROM jobs JOIN (SELECT job_id AS id, key AS dedupe_key FROM "
        "job_dedupe) AS d USING (id) WHERE type = 'image.embed'"
    )
    assert job["checkpoints"] == ["space:1"]
    assert table.claim(one, type_="image.embed", lane="backfill") == []
    assert len(table.claim(one, type_="image.embed", lane="backfill", has=["space:1"])) == 1


# --- submit ---


def new(**more: Any) -> NewJob:
    id_ = more.pop("id", None) or new_id()
    return NewJob(id=id_, type="test.noop", lane="upload", body_sha256=b"b" * 32, message={"type": "test.noop"}, **more)


def test_the_same_id_submitted_by_two_at_once_is_one_job(
    database: Database, table: JobTable, elsewhere: ThreadPoolExecutor
) -> None:
    job = new()
    start = threading.Barrier(4)

    def go() -> Admission:
        start.wait()
        return submit(database, [job])[0].admission

    answers = [future.result() for future in [elsewhere.submit(go) for _ in range(4)]]
    assert sorted(answers) == [Admission.DUPLICATE] * 3 + [Admission.INSERTED]
    assert table.events(job.id) == ["submitted"]


def test_a_dedupe_key_taken_by_two_at_once_is_one_job(
    database: Database, table: JobTable, elsewhere: ThreadPoolExecutor
) -> None:
    batches = [[new(dedupe_key=f"k{n}") for n in order] for order in (range(20), range(19, -1, -1))]
    start = threading.Barrier(2)

    def go(batch: list[NewJob]) -> list[uuid.UUID]:
        start.wait()
        return [answer.job_id for answer in submit(database, batch)]

    one, two = [future.result() for future in [elsewhere.submit(go, batch) for batch in batches]]
    assert one == two[::-1]
    assert table.counts() == {"queued": 20}


def test_a_dedupe_key_whose_holder_rolls_back_goes_to_the_one_that_waits(
    database: Database, table: JobTable, elsewhere: ThreadPoolExecutor
) -> None:
    mine, theirs = new(dedupe_key="k"), new(dedupe_key="k")
    waiting: Future[list[Submitted]] | None = None
    with suppress(ZeroDivisionError), database.transaction() as connection:
        submit_within(connection, [theirs])
        waiting = elsewhere.submit(submit, database, [mine])
        until_it_waits(database, waiting)
        raise ZeroDivisionError  # rolls back
    assert waiting is not None
    assert waiting.result()[0].admission == Admission.INSERTED
    assert table.rows("SELECT job_id FROM job_dedupe") == [{"job_id": mine.id}]
