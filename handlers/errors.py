"""The errors a handler may raise, and what each one leads to.

They are API: a handler says by the class of its exception whether a job is worth another attempt.
Anything else that leaves a handler is a `HandlerBug`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with what a job asks for."""

    pointer: str
    """Where it stands in the message, as a JSON pointer (RFC 6901): `/params/timeline/tracks/0/items/1/asset`."""
    code: str
    """What kind of problem it is: a stable name for programs, in lower case, as `asset_missing`."""
    message: str
    """What is wrong: the sentence goes on from the pointer, as in `is not among inputs/assets`."""
    fix: str
    """What would be right."""

    def __str__(self) -> str:
        return f"{self.pointer}: {'; '.join(filter(None, (self.message, self.fix)))} [{self.code}]"


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

    def __init__(self, message: str = "", *, problems: Sequence[Problem] = ()) -> None:
        """With `problems`, everything that was found at once; they are the message where there is no other."""
        super().__init__(message or "\n".join(map(str, problems)))
        self.problems = tuple(problems)


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
