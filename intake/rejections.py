"""What cannot become a job, as storage keeps it."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from config.lanes import Lane
from handlers.registry import Registry
from intake.message import canonical
from intake.problems import Code, Problem, Refused, safe
from intake.schema import schema
from storage.database import DataError
from storage.rejections import Header, NewRejection

#: What a row keeps of the sentences about what is wrong, in bytes: a message may be built to have long ones.
_MOST_ERROR = 16 << 10
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_000  # of the year 9999
_PRINTABLE = re.compile(r"[\x20-\x7e]{1,8192}")


class Arrival(Protocol):
    """What is known of a message that came from a log."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp_ms(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[Header]: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def lane(self) -> Lane | None: ...


def rejection_of(
    arrived: Arrival, id_: uuid.UUID, refused: Refused, build: str, trace: Mapping[str, str] | None = None
) -> NewRejection:
    """The rejection of a message; `id_` is the id derived from its record, `build` that of `build_of`."""
    return NewRejection(
        id=id_,
        topic=arrived.topic,
        partition=arrived.partition,
        offset=arrived.offset,
        lane=arrived.lane,
        key=arrived.key,
        headers=tuple(arrived.headers),
        sent_at=_moment(arrived.timestamp_ms),
        trace=_trace(trace),
        body=arrived.value,
        error=error_of(refused.problems),
        fingerprint=fingerprint_of(refused.problems),
        build=build,
        may_be_newer=refused.may_be_newer,
    )


def error_of(problems: Sequence[Problem]) -> list[dict[str, str]]:
    """The problems as a row keeps them: the first ones, where all of them would be long."""
    kept, size = list[dict[str, str]](), 0
    for problem in problems:
        said = problem.as_json()
        size += sum(len(words.encode()) for words in said.values())
        if size > _MOST_ERROR and kept:
            more = f"and {len(problems) - len(kept)} problems more"
            return [*kept, Problem("", Code.MORE_PROBLEMS, more, "mend these first").as_json()]
        kept.append(said)
    return kept


def fingerprint_of(problems: Sequence[Problem]) -> str:
    """16 hexadecimal digits, alike for messages with the same kinds of problem at the same places.

    No value is in it. Numbers in places (of an item in a list, in a key that a program counts up) do not tell messages
    apart, nor does how often a problem occurs.
    """
    kinds = sorted({f"{problem.code} {re.sub(r'[0-9]+', '*', problem.pointer)}" for problem in problems})
    return hashlib.sha256("\n".join(kinds).encode()).hexdigest()[:16]


def refused_by_postgres(error: DataError) -> Refused:
    """Of a message that is valid for all that we know, and whose job Postgres does not take."""
    return Refused([Problem("", Code.BAD_VALUE, f"Postgres refuses it: {safe(_first_line(error), 500)}", "")])


def _first_line(error: DataError) -> str:
    return str(error).partition("\n")[0]


def build_of(version: str, registry: Registry, checkpoints: Mapping[str, Collection[str]] | None) -> str:
    """Which build refuses a message: the version, and 8 hexadecimal digits of what it knows.

    Types come from other packages too, and checkpoints from a catalogue: either may know more under the same version.
    """
    known = canonical([schema(registry), {name: sorted(roles) for name, roles in (checkpoints or {}).items()}])
    return f"{version}+{hashlib.sha256(known.encode()).hexdigest()[:8]}"


def _moment(timestamp_ms: int) -> datetime | None:
    """None for a time that no calendar has: producers say what they like, also -1."""
    return _EPOCH + timedelta(milliseconds=timestamp_ms) if 0 <= timestamp_ms <= _LAST_MS else None


def _trace(trace: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """What can be passed on; the headers have it all."""
    found = {name: value for name, value in (trace or {}).items() if _PRINTABLE.fullmatch(value)}
    return found or None
