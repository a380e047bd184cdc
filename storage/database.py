"""One database: connections, transactions, and what its errors mean.

Statements are written as SQL in the modules of this room. Lists of rows travel as one JSON parameter and are unpacked
by `jsonb_to_recordset`: one statement for many jobs.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypedDict, TypeVar, Unpack

import psycopg2
from psycopg2 import errors as pg
from psycopg2 import extras
from psycopg2.extensions import connection as Driver  # noqa: N812 a class, whatever its name

from storage.sql import Connection as Connection  # for those who take part in a transaction

T = TypeVar("T")
Item = TypeVar("Item")


class DatabaseError(Exception):
    """Base of what can go wrong with a statement, sorted by what to do about it."""


class Unreachable(DatabaseError):
    """The connection is lost or cannot be made. If it broke during a commit, whether that happened is unknown."""


class TooSlow(Unreachable):
    """The statement took longer than its limit: fewer rows at a time, or a lock that is freed, may let it pass."""


class DataError(DatabaseError):
    """Postgres refuses a value (SQLSTATE class 22), a constraint (23) or a size (54): the same rows fail again."""


class Conflict(DatabaseError):
    """A deadlock or a serialisation failure: nothing has happened, the same transaction may be run again."""


class LockTimeout(DatabaseError):
    """A lock was not to be had in time: nothing has happened."""


class Limits(TypedDict, total=False):
    """How long things may take, in seconds."""

    connect_timeout_s: int
    """5 where it is not said."""
    statement_timeout_s: float
    """Of every statement, so that a stuck server shows as an error and not as a hung worker; 60."""
    idle_timeout_s: float
    """Of every pause within a transaction: a process that is stopped there keeps its connection, and its locks would
    stop the others; 10."""


class Database(ABC):
    """One Postgres: `storage.pooled` for processes that stay, `storage.direct` for commands that are soon over."""

    def __init__(self, url: str, **limits: Unpack[Limits]) -> None:
        """`url` is a libpq URL."""
        self.url = url
        self._connect_timeout_s = limits.get("connect_timeout_s", 5)
        self._settings = f"""
            SET statement_timeout = {int(limits.get("statement_timeout_s", 60) * 1000)};
            SET idle_in_transaction_session_timeout = {int(limits.get("idle_timeout_s", 10) * 1000)};
            SET timezone = 'UTC';
            SET jit = off
        """

    def connect(self) -> Driver:
        """A connection for the caller alone, with the limits. Raises psycopg2.Error."""
        driver = psycopg2.connect(
            self.url,  # libpq reads it, so that everything it knows (sockets, several hosts, sslmode) works
            connect_timeout=self._connect_timeout_s,
            application_name="mediamill",
            # Notices a dead peer in seconds, where TCP alone takes many minutes.
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=10_000,
        )
        driver.autocommit = True
        extras.register_uuid(None, driver)  # type: ignore[no-untyped-call]
        # SET and not a start-up option: transaction poolers refuse those. All in one round trip.
        with driver.cursor() as cursor:
            cursor.execute(self._settings)
        driver.autocommit = False
        return driver

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Connection]:
        """A transaction: committed at the end, rolled back on an exception. Raises one of the classes above."""

    @abstractmethod
    def autocommit(self) -> AbstractContextManager[Connection]:
        """A connection outside of transactions, for what cannot run inside one (`CREATE INDEX CONCURRENTLY`)."""

    @abstractmethod
    def close(self) -> None:
        """Closes what is idle. It may be used again, by new connections."""

    def retrying(
        self,
        transaction: Callable[[Connection], T],
        *,
        tries: int = 5,
        conflict: Callable[[], None] = lambda: None,
    ) -> T:
        """Runs `transaction` in a transaction, again when it was the victim of a deadlock (told to `conflict`)."""
        for _ in range(tries - 1):
            try:
                with self.transaction() as connection:
                    return transaction(connection)
            except Conflict:
                conflict()
        with self.transaction() as connection:
            return transaction(connection)


#: The server takes no writes (a standby, or a primary that is handed over); it ended a session that stood still.
AWAY = ("25006", "25P03")


def sorted_out(error: psycopg2.Error, *, lost: bool = False) -> DatabaseError | None:
    """One of the classes above for an error of the driver; None for a defect of ours.

    `lost` says that it was the connection's end.
    """
    code, message = error.pgcode or "", str(error).strip()
    if isinstance(error, pg.QueryCanceled):
        return TooSlow(f"the statement took longer than its limit: {message}")
    if isinstance(error, pg.LockNotAvailable):
        return LockTimeout(message)
    if code in ("40P01", "40001"):
        return Conflict(message)
    if code.startswith(("22", "23", "54")) or (not code and isinstance(error, psycopg2.DataError)):
        return DataError(message)
    if lost or not code or code in AWAY or code.startswith(("08", "57", "53")):
        # No SQLSTATE: the connection was lost before the server could answer.
        # 57: the server shuts down or starts up; 53: it is out of connections, memory or disk.
        return Unreachable(message)
    return None


def rows_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as the JSON parameter of `jsonb_to_recordset`.

    Raises DataError for NaN and infinities, which JSON has no word for.
    """
    try:
        return json.dumps(rows, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=str)
    except ValueError as error:
        raise DataError(str(error)) from error


def bisected(items: Sequence[Item], write: Callable[[Sequence[Item]], Sequence[T]]) -> list[T | DataError]:
    """Writes all items with as few calls as possible; answers for each what `write` says, or why Postgres refuses it.

    `write` must be one transaction. Among n items one bad one costs about 2 * log2(n) more calls. Items that are too
    much for one statement's time limit are written in smaller parts; raises TooSlow where one alone is.
    """
    try:
        return list(write(items))
    except (DataError, TooSlow) as error:
        if len(items) == 1:
            if isinstance(error, TooSlow):
                raise
            return [error]
        middle = len(items) // 2
        return bisected(items[:middle], write) + bisected(items[middle:], write)
