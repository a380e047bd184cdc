"""One database: connections, transactions, and what its errors mean.

Statements are written as SQL in the modules of this room. Lists of rows travel as one JSON parameter and are unpacked
by `jsonb_to_recordset`: one statement for many jobs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg2
import psycopg2.extensions
from psycopg2 import errors as pg
from sqlalchemy import Connection as Connection  # for those who take part in a transaction
from sqlalchemy import create_engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout

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


class Database:
    """A pool of connections to one Postgres.

    `url` is a libpq URL. `pool` connections at most; a thread that wants one more waits. `statement_timeout_s` bounds
    every statement, so that a stuck server shows as an error and not as a hung worker; `idle_timeout_s` every pause
    within a transaction: a process that is stopped there keeps its connection, and its locks would stop the others.
    """

    def __init__(
        self,
        url: str,
        *,
        pool: int = 8,
        connect_timeout_s: int = 5,
        statement_timeout_s: float = 60,
        idle_timeout_s: float = 10,
    ) -> None:
        self.url = url
        self._engine = create_engine(
            "postgresql+psycopg2://",
            # libpq reads the URL, so that everything it knows (sockets, several hosts, sslmode) works.
            creator=lambda: psycopg2.connect(
                url,
                connect_timeout=connect_timeout_s,
                application_name="mediamill",
                # Notices a dead peer in seconds, where TCP alone takes many minutes.
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
                tcp_user_timeout=10_000,
            ),
            pool_size=pool,
            max_overflow=0,
            pool_timeout=30,
            pool_use_lifo=True,
        )
        timeout_ms, idle_ms = int(statement_timeout_s * 1000), int(idle_timeout_s * 1000)

        @event.listens_for(self._engine, "connect")
        def prepare(connection: psycopg2.extensions.connection, _record: object) -> None:
            # SET and not a start-up option: transaction poolers refuse those.
            with connection.cursor() as cursor:
                cursor.execute(f"SET statement_timeout = {timeout_ms}")
                cursor.execute(f"SET idle_in_transaction_session_timeout = {idle_ms}")
                cursor.execute("SET timezone = 'UTC'")
                cursor.execute("SET jit = off")
            connection.commit()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction: committed at the end, rolled back on an exception.

        Raises one of the classes above instead of the driver's errors.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except (DBAPIError, DisconnectionError, PoolTimeout) as error:
            raise _sorted(error) from error

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """A connection outside of transactions, for what cannot run inside one (`CREATE INDEX CONCURRENTLY`)."""
        try:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                yield connection
        except (DBAPIError, DisconnectionError, PoolTimeout) as error:
            raise _sorted(error) from error

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

    def close(self) -> None:
        """Closes idle connections; those in use are closed when they are given back."""
        self._engine.dispose()


#: The server takes no writes (a standby, or a primary that is handed over); it ended a session that stood still.
AWAY = ("25006", "25P03")


def _sorted(error: DBAPIError | DisconnectionError | PoolTimeout) -> Exception:
    if not isinstance(error, DBAPIError):
        return Unreachable(str(error))
    original = error.orig
    code = getattr(original, "pgcode", None) or ""
    message = str(original).strip()
    if isinstance(original, pg.QueryCanceled):
        return TooSlow(f"the statement took longer than its limit: {message}")
    if isinstance(original, pg.LockNotAvailable):
        return LockTimeout(message)
    if code in ("40P01", "40001"):
        return Conflict(message)
    if code.startswith(("22", "23", "54")):
        return DataError(message)
    if error.connection_invalidated or not code or code in AWAY or code.startswith(("08", "57", "53")):
        # No SQLSTATE: the connection was lost before the server could answer.
        # 57: the server shuts down or starts up; 53: it is out of connections, memory or disk.
        if isinstance(original, psycopg2.DataError | ValueError):
            return DataError(message)
        return Unreachable(message)
    return error


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
