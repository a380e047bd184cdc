"""What counts against a job: each ending and the state that follows, on the real Postgres."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from storage import jobs, workers
from storage.claim import Pin, PinnedInput, mark_alone, pin
from storage.database import Database, DataError
from storage.settle import Artifact, Ending, NewEmbedding, NewText, Rules, Settlement, already_settled, settle
from storage.spaces import ensure_space
from storage.submit import Admission, submit
from tests.fixtures import JobTable

SettleOne = Callable[..., str | None]
ERROR = {"type": "Retry", "message": "not now"}


def test_a_success_writes_everything_in_one_statement(
    database: Database, table: JobTable, settle_one: SettleOne
) -> None:
    space = ensure_space(database, checkpoint="clip", revision="r1", dimension=3)
    (id_,) = table.add(message={"callback": "https://example.com/hook"}, labels={"set": "a"})
    (job,) = table.claim(table.worker())
    content = b"c" * 32
    state = settle_one(
        job,
        Ending.SUCCEEDED,
        result={"captions": []},
        timings={"infer": 0.5},
        artifacts=[Artifact("captions", "media", "out/captions.json", "application/json", 12, b"a" * 32)],
        texts=[NewText(content, "caption", "a red circle")],
        embeddings=[NewEmbedding(content, space.id, "[1,0,0]")],
        probes={content: {"mime": "image/png", "width": 3}},
    )
    assert state == "succeeded"
    row = table.row(id_)
    assert (row["state"], row["result"], row["timings"], row["error"]) == (
        "succeeded",
        {"captions": []},
        {"infer": 0.5},
        None,
    )
    assert row["finished_at"] is not None
    assert [a["key"] for a in table.rows("SELECT * FROM artifacts")] == ["out/captions.json"]
    assert [t["text"] for t in table.rows("SELECT text FROM texts")] == ["a red circle"]
    assert len(table.rows("SELECT * FROM embeddings")) == 1
    assert {c["mime"] for c in table.rows("SELECT mime FROM contents")} == {"image/png", "application/json"}
    (event,) = table.rows("SELECT kind, target, payload FROM outbox")
    assert (event["kind"], event["target"]) == ("mediamill.job.succeeded", "https://example.com/hook")
    assert event["payload"]["artifacts"][0]["uri"] == "s3://media/out/captions.json"
    assert table.events(id_) == ["submitted", "claimed", "succeeded"]
    assert table.counts() == {"succeeded": 1}


def test_a_failed_attempt_writes_none_of_what_it_made(table: JobTable, settle_one: SettleOne) -> None:
    table.add()
    (job,) = table.claim(table.worker())
    artifact = Artifact("captions", "media", "out/captions.json", "application/json", 12, b"a" * 32)
    settle_one(job, Ending.FAILED, error=ERROR, artifacts=[artifact], texts=[NewText(b"c" * 32, "caption", "x")])
    assert table.rows("SELECT * FROM artifacts UNION ALL SELECT * FROM artifacts") == []
    assert table.rows("SELECT * FROM texts") == []


def test_failures_lead_to_failed_at_max_attempts_and_not_before(table: JobTable, settle_one: SettleOne) -> None:
    (id_,) = table.add(max_attempts=3)
    worker = table.worker()
    states = []
    for _ in range(3):
        (job,) = table.claim(worker)
        states.append(settle_one(job, Ending.FAILED, error=ERROR))
    assert states == ["queued", "queued", "failed"]
    assert table.row(id_)["failures"] == 3
    assert table.row(id_)["error"] == ERROR


def test_a_retry_waits_for_its_back_off(table: JobTable, settle_one: SettleOne) -> None:
    (id_,) = table.add()
    worker = table.worker()
    (job,) = table.claim(worker)
    settle_one(job, Ending.FAILED, error=ERROR, delay_s=60)
    assert table.claim(worker) == []
    table.rows("UPDATE jobs SET run_after = now() WHERE id = :id", id=id_)
    assert [j.fence.attempt for j in table.claim(worker)] == [2]


def test_a_permanent_error_fails_at_the_first_attempt(table: JobTable, settle_one: SettleOne) -> None:
    table.add(max_attempts=10)
    (job,) = table.claim(table.worker())
    assert settle_one(job, Ending.REFUSED, error=ERROR) == "failed"


def test_losses_never_use_up_attempts_and_the_second_makes_a_job_run_alone(
    table: JobTable, settle_one: SettleOne
) -> None:
    table.add(max_attempts=1)
    worker = table.worker()
    alone = []
    for _ in range(5):
        (job,) = table.claim(worker)
        alone.append(job.runs_alone)
        assert settle_one(job, Ending.LOST) == "queued"
    assert alone == [False, False, True, True, True]
    (job,) = table.claim(worker)
    assert (job.failures, job.losses, job.crashes) == (0, 5, 0)


def test_a_job_marked_as_alone_whose_process_dies_twice_is_quarantined(
    database: Database, table: JobTable, settle_one: SettleOne
) -> None:
    (id_,) = table.add()
    worker = table.worker()
    states = []
    for _ in range(2):
        (job,) = table.claim(worker)
        with database.transaction() as connection:
            assert mark_alone(connection, job.fence)
        states.append(settle_one(job, Ending.LOST))
    assert states == ["queued", "quarantined"]
    row = table.row(id_)
    assert (row["crashes"], row["losses"], row["alone"]) == (2, 0, False)


def test_an_interruption_is_free_and_raises_the_priority(table: JobTable, settle_one: SettleOne) -> None:
    first, second = table.add(2, max_attempts=1)
    worker = table.worker()
    jobs_ = table.claim(worker, 2)
    assert settle_one(jobs_[1], Ending.INTERRUPTED) == "queued"
    assert settle_one(jobs_[0], Ending.POSTPONED) == "queued"
    assert [job.fence.id for job in table.claim(worker, 2)] == [second, first]
    row = table.row(second)
    assert (row["interruptions"], row["failures"], row["losses"]) == (1, 0, 0)


@pytest.mark.parametrize("ending", [Ending.FAILED, Ending.LOST, Ending.INTERRUPTED, Ending.POSTPONED])
def test_no_way_back_to_the_queue_leads_past_a_cancel(
    ending: Ending, database: Database, table: JobTable, settle_one: SettleOne
) -> None:
    (id_,) = table.add()
    (job,) = table.claim(table.worker())
    with database.transaction() as connection:
        assert jobs.cancel(connection, [id_], Rules()) == {id_: jobs.CancelAnswer.REQUESTED}
    assert settle_one(job, ending, error=ERROR) == "cancelled"
    assert table.claim(table.worker()) == []


@pytest.mark.parametrize("ending", [Ending.FAILED, Ending.LOST, Ending.INTERRUPTED, Ending.POSTPONED])
def test_no_way_back_to_the_queue_leads_past_the_deadline(
    ending: Ending, table: JobTable, settle_one: SettleOne
) -> None:
    (id_,) = table.add(deadline=datetime.now(UTC) + timedelta(hours=1))
    (job,) = table.claim(table.worker())
    table.rows("UPDATE jobs SET deadline = now() - interval '1 second' WHERE id = :id", id=id_)
    assert settle_one(job, ending, error=ERROR) == "failed"
    error = table.row(id_)["error"]
    assert error["type"] == "DeadlineExceeded"
    assert error["before"] == ERROR


def test_a_committed_success_beats_a_cancel(database: Database, table: JobTable, settle_one: SettleOne) -> None:
    (id_,) = table.add()
    (job,) = table.claim(table.worker())
    with database.transaction() as connection:
        jobs.cancel(connection, [id_], Rules())
    assert settle_one(job, Ending.SUCCEEDED, result={}) == "succeeded"
    with database.transaction() as connection:
        assert jobs.cancel(connection, [id_], Rules()) == {id_: jobs.CancelAnswer.FINISHED}


def test_a_queued_job_is_cancelled_at_once(database: Database, table: JobTable) -> None:
    (id_,) = table.add()
    stranger = uuid.uuid4()
    with database.transaction() as connection:
        answers = jobs.cancel(connection, [id_, stranger], Rules())
    assert answers == {id_: jobs.CancelAnswer.CANCELLED, stranger: jobs.CancelAnswer.UNKNOWN}
    assert table.row(id_)["state"] == "cancelled"
    assert table.counts() == {"cancelled": 1}


def test_a_deadline_passes_in_the_queue(database: Database, table: JobTable) -> None:
    (id_,) = table.add(deadline=datetime.now(UTC) + timedelta(hours=1))
    table.rows("UPDATE jobs SET deadline = now() - interval '1 second' WHERE id = :id", id=id_)
    assert table.claim(table.worker()) == []
    with database.transaction() as connection:
        assert jobs.expire(connection, Rules()) == {id_: "failed"}
    assert table.row(id_)["error"]["type"] == "DeadlineExceeded"


def test_of_two_settlements_of_one_attempt_the_second_touches_nothing(table: JobTable, settle_one: SettleOne) -> None:
    (id_,) = table.add()
    (job,) = table.claim(table.worker())
    assert settle_one(job, Ending.SUCCEEDED, result={"n": 1}) == "succeeded"
    assert settle_one(job, Ending.FAILED, error=ERROR) is None
    assert table.row(id_)["result"] == {"n": 1}
    assert table.counts() == {"succeeded": 1}


def test_another_attempt_of_the_same_worker_does_not_pass_the_fence(table: JobTable, settle_one: SettleOne) -> None:
    table.add()
    worker = table.worker()
    (first,) = table.claim(worker)
    settle_one(first, Ending.LOST)
    (second,) = table.claim(worker)
    assert settle_one(first, Ending.SUCCEEDED, result={}) is None
    assert settle_one(second, Ending.SUCCEEDED, result={}) == "succeeded"


def test_after_an_ambiguous_commit_the_success_under_my_fence_is_found(database: Database, table: JobTable) -> None:
    """The record commits, its answer is lost, and the same settlement is written again."""
    table.add()
    (job,) = table.claim(table.worker())
    mine = Settlement.of(job.fence, Ending.SUCCEEDED, result={})
    with database.transaction() as connection:
        settle(connection, [mine], Rules())
    with database.transaction() as connection:
        assert settle(connection, [mine], Rules()) == {}
        assert already_settled(connection, [mine]) == {job.fence.id: "succeeded"}


def test_a_success_of_another_worker_is_not_taken_for_mine(
    table: JobTable, settle_one: SettleOne, database: Database
) -> None:
    table.add()
    (mine,) = table.claim(table.worker())
    settle_one(mine, Ending.LOST)
    (other,) = table.claim(table.worker())
    settle_one(other, Ending.SUCCEEDED, result={})
    with database.transaction() as connection:
        late = Settlement.of(mine.fence, Ending.SUCCEEDED, result={})
        assert settle(connection, [late], Rules()) == {}
        assert already_settled(connection, [late]) == {mine.fence.id: "queued"}


def test_a_result_that_postgres_refuses_is_a_data_error_and_changes_nothing(
    table: JobTable, settle_one: SettleOne
) -> None:
    (id_,) = table.add()
    (job,) = table.claim(table.worker())
    with pytest.raises(DataError):
        settle_one(job, Ending.SUCCEEDED, result={"text": "nul \0"})
    with pytest.raises(DataError):
        settle_one(job, Ending.SUCCEEDED, result={"score": float("nan")})
    with pytest.raises(DataError):
        settle_one(job, Ending.SUCCEEDED, texts=[NewText(b"too short for no check", "poem", "x")])
    assert table.row(id_)["state"] == "running"


def test_a_failed_job_frees_its_dedupe_key_and_a_succeeded_one_keeps_it_for_a_time(
    database: Database, table: JobTable, settle_one: SettleOne
) -> None:
    worker = table.worker()
    table.add(dedupe_key="k", max_attempts=1)
    (job,) = table.claim(worker)
    settle_one(job, Ending.FAILED, error=ERROR)
    (second,) = table.add(dedupe_key="k")
    (job,) = table.claim(worker)
    settle_one(job, Ending.SUCCEEDED, result={})
    (third,) = table.add(dedupe_key="k")
    assert table.rows("SELECT id FROM jobs WHERE id = :id", id=third) == []
    table.rows("UPDATE job_dedupe SET until = now() - interval '1 second'")
    (fourth,) = table.add(dedupe_key="k")
    assert table.rows("SELECT job_id FROM job_dedupe")[0]["job_id"] == fourth
    assert second != fourth


def test_a_retry_by_command_starts_with_clean_counters(
    database: Database, table: JobTable, settle_one: SettleOne
) -> None:
    (id_,) = table.add(max_attempts=1, dedupe_key="k", message={"dedupe_key": "k"})
    worker = table.worker()
    (job,) = table.claim(worker)
    settle_one(job, Ending.FAILED, error=ERROR)
    with database.transaction() as connection:
        assert jobs.retry(connection, [id_]) == {id_}
    row = table.row(id_)
    assert (row["state"], row["failures"], row["attempt"], row["error"]) == ("queued", 0, 1, None)
    assert table.events(id_) == ["submitted", "claimed", "failed", "retried"]
    assert table.counts() == {"queued": 1}


@pytest.mark.parametrize(("hours", "stays"), [(1, True), (-1, False)])
def test_a_retry_keeps_a_deadline_that_has_not_passed(
    hours: int, stays: bool, database: Database, table: JobTable, settle_one: SettleOne
) -> None:
    (id_,) = table.add(max_attempts=1)
    (job,) = table.claim(table.worker())
    settle_one(job, Ending.FAILED, error=ERROR)
    deadline = datetime.now(UTC) + timedelta(hours=hours)
    table.rows("UPDATE jobs SET deadline = :deadline WHERE id = :id", deadline=deadline, id=id_)
    with database.transaction() as connection:
        assert jobs.retry(connection, [id_]) == {id_}
    assert table.row(id_)["deadline"] == (deadline if stays else None)


def test_a_retry_is_refused_while_another_job_holds_its_dedupe_key(
    database: Database, table: JobTable, settle_one: SettleOne
) -> None:
    (id_,) = table.add(max_attempts=1, dedupe_key="k", message={"dedupe_key": "k"})
    (job,) = table.claim(table.worker())
    settle_one(job, Ending.FAILED, error=ERROR)
    table.add(dedupe_key="k", message={"dedupe_key": "k"})
    with database.transaction() as connection:
        assert jobs.retry(connection, [id_]) == set()
    assert table.row(id_)["state"] == "failed"


def test_submitting_the_same_batch_again_adds_nothing(database: Database, table: JobTable) -> None:
    from intake.identity import new_id
    from storage.submit import NewJob

    batch = [
        NewJob(id=new_id(), type="test.noop", lane="upload", body_sha256=bytes([n]) * 32, message={"type": "test.noop"})
        for n in range(5)
    ]
    assert {s.admission for s in submit(database, batch)} == {Admission.INSERTED}
    assert {s.admission for s in submit(database, [*batch, batch[0]])} == {Admission.DUPLICATE}
    other = NewJob(id=batch[0].id, type="test.noop", lane="upload", body_sha256=b"other" + b"x" * 27, message={})
    assert [s.admission for s in submit(database, [other])] == [Admission.CONFLICT]
    assert table.counts() == {"queued": 5}


def test_keys_and_workers_that_have_had_their_time_are_forgotten(
    database: Database, table: JobTable, settle_one: SettleOne
) -> None:
    old, living = table.worker(), table.worker()
    table.add(dedupe_key="done")
    (job,) = table.claim(living)
    settle_one(job, Ending.SUCCEEDED, result={})
    table.add(dedupe_key="live")
    table.rows("UPDATE job_dedupe SET until = now() - interval '1 second' WHERE until IS NOT NULL")
    table.rows("UPDATE workers SET retired_at = now() - interval '91 days', retired_why = 'x' WHERE id = :id", id=old)
    with database.transaction() as connection:
        jobs.forget(connection, kept=timedelta(days=90))
    assert [row["key"] for row in table.rows("SELECT key FROM job_dedupe")] == ["live"]
    assert [row["id"] for row in table.rows("SELECT id FROM workers")] == [living]


def test_a_running_job_shows_what_its_worker_last_said_of_it(database: Database, table: JobTable) -> None:
    id_, other = table.add(2)
    worker = table.worker()
    table.claim(worker)
    said = {"id": str(id_), "stage": "execute", "seconds": 4.5, "progress": 0.25, "note": "page 3"}
    with database.transaction() as connection:
        workers.beat(connection, worker, {"jobs": 1, "oldest": [said]})
        shown, queued = jobs.show(connection, id_), jobs.show(connection, other)
    assert shown is not None
    assert shown.doing == [{"stage": "execute", "seconds": 4.5, "progress": 0.25, "note": "page 3"}]
    assert queued is not None
    assert queued.doing == []


def test_a_retry_by_command_reads_anew_and_another_pin_takes_the_place_of_the_old(
    database: Database, table: JobTable, settle_one: SettleOne
) -> None:
    (id_,) = table.add(max_attempts=1)
    worker = table.worker()
    for etag in ("old", "new"):
        (job,) = table.claim(worker)
        assert job.resolved is None
        pinned = PinnedInput("image", "", "media", "a.jpg", None, etag, 5, etag.encode().ljust(32))
        with database.transaction() as connection:
            assert pin(connection, [Pin(job.fence, [pinned])]) == {id_}
        if etag == "old":
            settle_one(job, Ending.REFUSED, error=ERROR)
            with database.transaction() as connection:
                jobs.retry(connection, [id_])
    assert [row["version"] for row in table.rows("SELECT version FROM job_inputs")] == ["new"]
