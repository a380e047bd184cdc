"""What a command's failure means to its caller: exit codes, and the one line that is printed.

The one place where exceptions of all rooms are given an exit code. The rooms' classes are imported only when something
has failed, so that a command that works does not pay for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes; a contract."""

    DONE = 0
    JOB_FAILED = 1
    REFUSED = 2
    """Wrong usage, a wrong setting, or something that was asked for is refused."""
    UNREACHABLE = 3
    """A service that is needed cannot be reached, or is not in a state to be used."""
    BROKEN = 70
    """A defect of ours (EX_SOFTWARE of sysexits.h)."""
    INTERRUPTED = 130


class CommandFailed(Exception):
    """Ends the command with a line (or several) on standard error."""

    def __init__(self, exit_code: Exit, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.exit_code = exit_code
        self.lines = lines


def refused(*lines: str) -> CommandFailed:
    """What was asked for cannot be done, now or later."""
    return CommandFailed(Exit.REFUSED, *lines)


def unreachable(*lines: str) -> CommandFailed:
    """A service is not there."""
    return CommandFailed(Exit.UNREACHABLE, *lines)


@dataclass(frozen=True, slots=True)
class Report:
    """How a command that raised ends."""

    exit_code: Exit
    lines: Sequence[str]


def report(error: BaseException) -> Report:
    """What to tell of an exception that reached the top."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]  # what a task group puts around the one thing that went wrong
    if isinstance(error, CommandFailed):
        return Report(error.exit_code, error.lines)
    return _settings(error) or _services(error) or _objects(error) or Report(Exit.BROKEN, [_defect(error)])


def _settings(error: BaseException) -> Report | None:
    from config.catalogue import CatalogueError
    from config.checkpoints import CheckpointError
    from config.errors import BadSetting
    from handlers.registry import DuplicateType
    from intake.problems import Refused, describe
    from storage.query import BadQuery
    from worker.health_server import CannotListen

    if isinstance(error, BadSetting):
        return Report(Exit.REFUSED, error.lines)
    if isinstance(error, Refused):
        return Report(Exit.REFUSED, describe(error.problems))
    if isinstance(error, DuplicateType | CatalogueError | CheckpointError | BadQuery | CannotListen):
        return Report(Exit.REFUSED, [str(error)])
    return None


def _services(error: BaseException) -> Report | None:
    from intake.kafka.errors import BadTopic, KafkaTrouble
    from storage.database import DatabaseError, DataError, LockTimeout
    from storage.embedded import EmbeddedError
    from storage.schema import SchemaMismatch

    if isinstance(error, EmbeddedError | SchemaMismatch):
        return Report(Exit.UNREACHABLE, [str(error)])
    if isinstance(error, KafkaTrouble):
        return Report(Exit.REFUSED if isinstance(error, BadTopic) else Exit.UNREACHABLE, [str(error)])
    if isinstance(error, LockTimeout):
        line = f"Postgres: a lock was not to be had in time, nothing was changed: {_first(error)}"
        return Report(Exit.UNREACHABLE, [line])
    if isinstance(error, DataError):
        return Report(Exit.REFUSED, [f"Postgres refuses a value: {_first(error)}"])
    if isinstance(error, DatabaseError):
        return Report(Exit.UNREACHABLE, [f"Postgres cannot be reached: {_first(error)}"])
    return None


def _objects(error: BaseException) -> Report | None:
    from storage.objects.errors import ObjectError

    if isinstance(error, ObjectError):
        return Report(Exit.REFUSED if error.permanent else Exit.UNREACHABLE, [f"object store: {error}"])
    return None


def _defect(error: BaseException) -> str:
    return f"a defect, {type(error).__name__}: {_first(error)}; MEDIAMILL_LOG_LEVEL=debug shows the traceback"


def _first(error: BaseException) -> str:
    """Drivers answer with many lines; the first ones say it."""
    return "; ".join(line.strip() for line in str(error).splitlines()[:2] if line.strip())
