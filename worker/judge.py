"""What the end of an attempt means for its job."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from handlers.errors import ErrorType, JobError
from handlers.protocol import Outcome
from storage.claim import ClaimedJob
from storage.database import DataError
from storage.objects.errors import ObjectError, StoreUnavailable
from storage.settle import Ending, Settlement
from worker.attempts import Attempt, Stop
from worker.backoff import Backoff
from worker.executor import ExecutorInterrupted, ExecutorLost

#: Characters of an error's texts that are kept, and seconds that a handler may ask to be left alone for.
MOST_WORDS = 20_000
#: Of an `InvalidInput` that names everything it found.
MOST_PROBLEMS = 100
LONGEST_DELAY_S = 7 * 86400.0


def judge(job: ClaimedJob, error: Exception, backoff: Backoff) -> Settlement:
    """What an exception that ended an attempt means for the job."""
    retry_s = backoff.delay_s(job.failures + 1)
    if isinstance(error, AttemptFailed):
        return _judge_failure(job, error.outcome, retry_s)
    if isinstance(error, ExecutorLost):
        return _ended(job, Ending.LOST, ErrorType.EXECUTOR_LOST, str(error))
    if isinstance(error, ExecutorInterrupted):
        return _ended(job, Ending.INTERRUPTED, ErrorType.EXECUTOR_LOST, str(error))
    if isinstance(error, StoreUnavailable):
        # As long as the store asked for: whoever comes sooner is turned away, and makes it worse.
        delay = max(backoff.delay_s(job.fence.attempt), min(error.after or 0.0, LONGEST_DELAY_S))
        return _ended(job, Ending.POSTPONED, ErrorType.RETRY, str(error), delay_s=delay)
    if isinstance(error, OSError):
        # A full or failing disk of this host: no job is to blame, and another worker may do it.
        delay = backoff.delay_s(job.fence.attempt)
        return _ended(job, Ending.POSTPONED, ErrorType.RETRY, f"the worker's disk: {error}", delay_s=delay)
    if isinstance(error, ObjectError):
        return _ended(job, Ending.REFUSED, ErrorType.INVALID_INPUT, str(error))
    if isinstance(error, DataError):
        message = f"Postgres refuses what the handler made: {error}"
        return _ended(job, Ending.FAILED, ErrorType.HANDLER_BUG, message, delay_s=retry_s)
    assert isinstance(error, JobError), error
    ending = Ending.REFUSED if error.permanent else Ending.FAILED
    return _ended(job, ending, error.type, error.message, delay_s=retry_s)


class AttemptFailed(Exception):
    """The executor says that the handler did not succeed."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.key)
        self.outcome = outcome


def _judge_failure(job: ClaimedJob, outcome: Outcome, retry_s: float) -> Settlement:
    failure = outcome.failure
    assert failure is not None
    type_, message, traceback = (words[:MOST_WORDS] for words in (failure.type, failure.message, failure.traceback))
    fingerprint = _fingerprint(type_, traceback or message)
    error = clean({"type": type_, "message": message, "traceback": traceback, "fingerprint": fingerprint})
    if failure.problems:
        error["problems"] = [clean(problem.model_dump()) for problem in failure.problems[:MOST_PROBLEMS]]
    ending, delay = Ending.FAILED, retry_s
    if failure.type in (ErrorType.INVALID_INPUT,):
        ending = Ending.REFUSED
    elif failure.type == ErrorType.DEADLINE_EXCEEDED:
        ending = Ending.EXPIRED
    elif failure.waiting:
        # Its time went to others: it must not pay for that. After two such losses it runs alone, and then nobody
        # else can be to blame.
        ending, delay = Ending.LOST, 0.0
    elif failure.retry_after_s is not None:
        # Infinity is a number of Python's JSON, and a time that far away is none of Postgres's.
        delay = min(max(0.0, failure.retry_after_s), LONGEST_DELAY_S)
    return Settlement.of(job.fence, ending, error=error, delay_s=delay)


def _ended(job: ClaimedJob, ending: Ending, type_: ErrorType, message: str, *, delay_s: float = 0) -> Settlement:
    error = {"type": type_.value, "message": message, "fingerprint": _fingerprint(type_.value, message)}
    return Settlement.of(job.fence, ending, error=clean(error), delay_s=delay_s)


def stopped(attempt: Attempt) -> Settlement | None:
    """What an end from outside means; the deadline is the scope's own."""
    job = attempt.job
    match attempt.stopped:
        case Stop.CANCELLED:
            return _ended(job, Ending.CANCELLED, ErrorType.CANCELLED, "cancelled while it ran")
        case Stop.DRAIN:
            return _ended(job, Ending.INTERRUPTED, ErrorType.WORKER_LOST, "the worker was shut down")
        case Stop.FENCE_LOST:
            return None
        case Stop.DEADLINE | None:
            return _ended(job, Ending.EXPIRED, ErrorType.DEADLINE_EXCEEDED, "the deadline passed while the job ran")


def clean(error: Mapping[str, Any]) -> dict[str, Any]:
    """Words of the executor as Postgres can hold them: no NUL, no lone surrogates, not endless."""
    return {
        key: value[:MOST_WORDS].replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
        for key, value in error.items()
        if isinstance(value, str)
    }


def _fingerprint(type_: str, text: str) -> str:
    """Equal for errors that are the same but for numbers and addresses: groups them in lists."""
    skeleton = "".join("0" if c.isdigit() else c for c in text)
    return hashlib.sha256(f"{type_}\0{skeleton}".encode("utf-8", "replace")).hexdigest()[:16]
