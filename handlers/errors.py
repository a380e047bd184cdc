"""The errors a handler may raise, and what each one leads to.

They are API: a handler says by the class of its exception whether a job is worth another attempt.
Anything else that leaves a handler is a `HandlerBug`.
"""

from __future__ import annotations

from enum import StrEnum


class ErrorType(StrEnum):
    """What stands in `job_details.error.type`."""

    INVALID_INPUT = "InvalidInput"
    RETRY = "Retry"
    RESOURCE_EXHAUSTED = "ResourceExhausted"
    TIMEOUT = "Timeout"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    CANCELLED = "Cancelled"
    HANDLER_BUG = "HandlerBug"
    EXECUTOR_LOST = "ExecutorLost"
    WORKER_LOST = "WorkerLost"


class JobError(Exception):
    """Base of all errors that a handler raises on purpose."""

    type: ErrorType = ErrorType.HANDLER_BUG
    #: A permanent error fails the job at once; any other is tried again up to `max_attempts`.
    permanent: bool = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInput(JobError):
    """The media or the parameters cannot be worked with, now or later: say what is wrong and what would be right."""

    type = ErrorType.INVALID_INPUT
    permanent = True


class Retry(JobError):
    """Something passing is in the way; `after` is the least number of seconds to wait, None for the usual back-off."""

    type = ErrorType.RETRY

    def __init__(self, message: str, *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class ResourceExhausted(JobError):
    """The job alone does not fit into the memory of the device."""

    type = ErrorType.RESOURCE_EXHAUSTED


class Timeout(JobError):
    """The job ran longer than its time limit."""

    type = ErrorType.TIMEOUT


class DeadlineExceeded(JobError):
    """The moment after which nobody wants the result has passed."""

    type = ErrorType.DEADLINE_EXCEEDED
    permanent = True


class Cancelled(JobError):
    """Somebody asked for the job to end."""

    type = ErrorType.CANCELLED
    permanent = True


class HandlerBug(JobError):
    """The handler broke its own contract: an unexpected exception, a missing output, another result than declared."""

    type = ErrorType.HANDLER_BUG
