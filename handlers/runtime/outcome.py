"""How an attempt's end is told: never in a way that the courier would have to refuse."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator

from pydantic_core import from_json

from handlers.errors import ErrorType, HandlerBug, InvalidInput, JobError, Problem, ResourceExhausted, Retry
from handlers.protocol import MAX_LINE_BYTES, Failure, Flaw, Outcome, may_be_unstorable, too_intricate, unstorable

_MAX_MESSAGE = 8 << 10
#: A full disk, a quota, the limit on a file's size.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MAX_TRACEBACK = 16 << 10
#: Of an `InvalidInput`: who has made so many mistakes needs no longer list.
_MAX_PROBLEMS = 100
#: Half a line: the other half is room for the outcomes that are gathered with it.
MAX_OUTCOME_BYTES = MAX_LINE_BYTES // 2


def encode(outcome: Outcome) -> bytes:
    """An outcome as JSON; one that cannot be sent or kept becomes the failure of its job, and of no other."""
    try:
        line = outcome.model_dump_json().encode()
        if len(line) > MAX_OUTCOME_BYTES:
            raise ValueError(f"it takes {len(line)} bytes as JSON, of {MAX_OUTCOME_BYTES}: write it to an output file")
        if (what := too_intricate(line)) is not None:
            raise ValueError(f"as JSON {what}: write it to an output file")
        if may_be_unstorable(line) and (what := unstorable(outcome.model_dump())) is not None:
            raise ValueError(f"it holds {what}")
        # Read here once as the courier will: too deep a nesting or too long a number shows itself now.
        from_json(line, allow_inf_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        bug = HandlerBug(f"the result cannot be recorded: {error}")
        return Outcome(key=outcome.key, failure=failure_of(bug), timings=outcome.timings).model_dump_json().encode()
    return line


def failure_of(error: BaseException) -> Failure:
    """What an exception that left a handler means for its job. Lets go of the exception's frames."""
    leaf = _meant(error)
    trace = clean("".join(traceback.format_exception(error)))[-_MAX_TRACEBACK:]
    _let_go(error)
    if isinstance(leaf, JobError):
        after = leaf.after if isinstance(leaf, Retry) else None
        flaws = tuple(map(_flaw, leaf.problems[:_MAX_PROBLEMS])) if isinstance(leaf, InvalidInput) else ()
        return Failure(
            type=leaf.type, message=_short(leaf.message), problems=flaws, traceback=trace, retry_after_s=after
        )
    if isinstance(leaf, OSError) and leaf.errno in _NO_ROOM:
        message = f"there is not enough room on the disk, or allowed, for what the job writes ({leaf.strerror})"
        return Failure(type=ResourceExhausted.type, message=message, traceback=trace)
    if isinstance(leaf, MemoryError):
        return Failure(type=ResourceExhausted.type, message="out of memory", traceback=trace)
    words = _short(f"{type(leaf).__name__}: {_words(leaf)}")
    return Failure(type=ErrorType.HANDLER_BUG, message=words, traceback=trace)


def _flaw(problem: Problem) -> Flaw:
    return Flaw(
        pointer=_short(problem.pointer),
        code=_short(problem.code),
        message=_short(problem.message),
        fix=_short(problem.fix),
    )


def clean(text: str) -> str:
    """Text that JSON and Postgres take: without lone surrogates and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")


def _meant(error: BaseException) -> BaseException:
    """In a group, the one that was raised on purpose, else the first."""
    leaves = list(_leaves(error))
    return next((leaf for leaf in leaves if isinstance(leaf, JobError)), leaves[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ of a library should not hide what happened
        return "(its message cannot be shown)"


def _short(text: str) -> str:
    text = clean(str(text))
    return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + " ..."


def _let_go(error: BaseException) -> None:
    # The frames of a traceback hold pictures and tensors, and form cycles: without this they stay until a collection.
    seen: set[int] = set()
    following: list[BaseException | None] = [error]
    while following:
        each = following.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        following += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            following += each.exceptions
        each.__traceback__ = None
