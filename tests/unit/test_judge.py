"""What an exception that ended an attempt means for the job."""

from __future__ import annotations

import errno
import random
import uuid

import pytest

from handlers.errors import DeadlineExceeded, HandlerBug, InvalidInput, ResourceExhausted, Retry
from handlers.protocol import Failure, Flaw, Outcome
from storage.claim import ClaimedJob, Fence
from storage.database import DataError
from storage.objects.errors import ObjectChanged, ObjectMissing, StoreUnavailable
from storage.settle import Ending
from worker.backoff import Backoff
from worker.executor import ExecutorInterrupted, ExecutorLost
from worker.judge import AttemptFailed, clean, judge

BACKOFF = Backoff(base_s=2, cap_s=600, rng=random.Random(1))
JOB = ClaimedJob(
    fence=Fence(uuid.UUID(int=1), 1, uuid.UUID(int=2)), type="t", tenant="d", lane="upload", failures=0, losses=0,
    crashes=0, max_attempts=3, deadline=None, timeout_s=None, message={}, resolved=None, queued_s=0,
)  # fmt: skip


def failed(type_: str, **more: object) -> AttemptFailed:
    failure = Failure.model_validate({"type": type_, "message": "m", **more})
    return AttemptFailed(Outcome(key=JOB.fence.key, failure=failure))


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (ExecutorLost("died", alone=False), Ending.LOST),
        (ExecutorInterrupted("killed for another"), Ending.INTERRUPTED),
        (StoreUnavailable("s3://b/k", "is away", "wait"), Ending.POSTPONED),
        (ObjectMissing("s3://b/k", "is not there", "put it there"), Ending.REFUSED),
        (ObjectChanged("s3://b/k", "changed", "submit again"), Ending.REFUSED),
        (OSError(errno.ENOSPC, "No space left on device"), Ending.POSTPONED),
        (DataError("NUL"), Ending.FAILED),
        (HandlerBug("two outputs"), Ending.FAILED),
        (failed("InvalidInput"), Ending.REFUSED),
        (failed("DeadlineExceeded"), Ending.EXPIRED),
        (failed("Retry", retry_after_s=7), Ending.FAILED),
        (failed("ResourceExhausted"), Ending.FAILED),
        (failed("HandlerBug"), Ending.FAILED),
        (failed("Timeout"), Ending.FAILED),
        (failed("Timeout", waiting=True), Ending.LOST),
        (InvalidInput("m"), Ending.REFUSED),
        (DeadlineExceeded("m"), Ending.REFUSED),
        (Retry("m"), Ending.FAILED),
        (ResourceExhausted("m"), Ending.FAILED),
    ],
    ids=lambda value: str(value)[:40],
)
def test_each_error_has_its_ending(error: Exception, ending: Ending) -> None:
    settlement = judge(JOB, error, BACKOFF)
    assert settlement.ending is ending
    assert settlement.error is not None
    assert settlement.error["message"]


def test_a_retry_waits_as_long_as_it_asks_for() -> None:
    assert judge(JOB, failed("Retry", retry_after_s=7), BACKOFF).delay_s == 7
    assert 0 <= judge(JOB, failed("Retry"), BACKOFF).delay_s <= 2


def test_what_others_are_to_blame_for_comes_back_at_once() -> None:
    assert judge(JOB, ExecutorLost("died", alone=False), BACKOFF).delay_s == 0
    assert judge(JOB, failed("Timeout", waiting=True), BACKOFF).delay_s == 0


def test_words_of_the_executor_are_made_fit_for_postgres() -> None:
    said = clean({"message": "nul \0, surrogate \ud800, " + "x" * 50_000, "traceback": None})
    assert "\0" not in said["message"]
    said["message"].encode()
    assert len(said["message"]) == 20_000


def test_errors_that_differ_in_numbers_alone_have_one_fingerprint() -> None:
    def fingerprint(error: Exception) -> str:
        judged = judge(JOB, error, BACKOFF).error
        assert judged is not None
        return str(judged["fingerprint"])

    one, two = (fingerprint(ObjectMissing(f"s3://b/{n}", "is not there", "x")) for n in (1, 2))
    assert one == two
    assert fingerprint(ObjectChanged("s3://b/1", "changed", "x")) != one


def test_everything_that_a_job_was_refused_for_stands_in_its_error() -> None:
    flaw = Flaw(pointer="/params/timeline", code="overlap", message="is\0", fix="move it")
    settlement = judge(JOB, failed("InvalidInput", problems=(flaw,)), BACKOFF)
    assert settlement.error is not None
    assert settlement.error["problems"] == [
        {"pointer": "/params/timeline", "code": "overlap", "message": "is\N{REPLACEMENT CHARACTER}", "fix": "move it"}
    ]
