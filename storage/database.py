"""One database: connections, transactions, and what its errors mean.

Statements are written as SQL in the modules of this room. Lists of rows travel as one JSON parameter and are unpacked
by `jsonb_to_recordset`: one statement for many jobs.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg2
from psycopg2 import errors as pg
from psycopg2 import extras
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
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


class Database:
    """A pool of connections to one Postgres.

    `url` is a libpq URL. `pool` connections at most; a thread that wants one more waits `pool_timeout_s` at most.
    `statement_timeout_s` bounds every statement, so that a stuck server shows as an error and not as a hung worker;
    `idle_timeout_s` every pause within a transaction: a process that is stopped there keeps its connection, and its
    locks would stop the others.
    """

    def __init__(
        self,
        url: str,
        *,
        pool: int = 8,
        connect_timeout_s: int = 5,
        statement_timeout_s: float = 60,
        idle_timeout_s: float = 10,
        pool_timeout_s: float = 30,
    ) -> None:
        self.url = url
        self._connect_timeout_s = connect_timeout_s
        self._limits = f"""
            SET statement_timeout = {int(statement_timeout_s * 1000)};
            SET idle_in_transaction_session_timeout = {int(idle_timeout_s * 1000)};
            SET timezone = 'UTC';
            SET jit = off
        """
        self._pool = _Pool(self.connect, pool, patience_s=pool_timeout_s)

    def connect(self) -> Driver:
        """A connection outside of the pool, with the same limits. Raises psycopg2.Error."""
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
            cursor.execute(self._limits)
        driver.autocommit = False
        return driver

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction: committed at the end, rolled back on an exception.

        Raises one of the classes above instead of the driver's errors.
        """
        with self._driver() as driver:
            yield Connection(driver)
            driver.commit()

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """A connection outside of transactions, for what cannot run inside one (`CREATE INDEX CONCURRENTLY`)."""
        with self._driver() as driver:
            driver.autocommit = True
            yield Connection(driver)

    @contextmanager
    def _driver(self) -> Iterator[Driver]:
        with self._pool.connection() as driver:
            try:
                yield driver
            except psycopg2.Error as error:
                raise sorted_out(error, lost=bool(driver.closed)) from error

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
        self._pool.clear()


class _Pool:
    """Connections that are used again, the last one first: no more are made than were needed at a time."""

    def __init__(self, connect: Callable[[], Driver], most: int, *, patience_s: float) -> None:
        self._connect = connect
        self._most = most
        self._patience_s = patience_s
        self._places = threading.BoundedSemaphore(most)
        self._lock = threading.Lock()
        self._idle: list[Driver] = []
        self._cleared = 0

    @contextmanager
    def connection(self) -> Iterator[Driver]:
        """One for the caller alone; what it has left undone at the end is rolled back. Raises Unreachable."""
        if not self._places.acquire(timeout=self._patience_s):
            raise Unreachable(f"all {self._most} connections were in use for {self._patience_s:g} s")
        try:
            with self._lock:
                driver, cleared = self._idle.pop() if self._idle else None, self._cleared
            try:
                driver = driver or self._connect()
            except psycopg2.Error as error:
                raise sorted_out(error) from error
            try:
                yield driver
            finally:
                self._give_back(driver, cleared)
        finally:
            self._places.release()

    def _give_back(self, driver: Driver, cleared: int) -> None:
        if not _is_clean(driver):
            # Whatever ended it has most likely ended the idle ones too: one error tells of it, not one for each.
            self.clear()
        with self._lock:
            if cleared == self._cleared:
                self._idle.append(driver)
                return
        _close(driver)

    def clear(self) -> None:
        """Closes the idle ones, and those in use when they are given back."""
        with self._lock:
            self._cleared += 1
            idle, self._idle = self._idle, []
        for driver in idle:
            _close(driver)


def _is_clean(driver: Driver) -> bool:
    """Whether it can be used again; rolls back what is open."""
    with suppress(psycopg2.Error):
        driver.rollback()
        driver.autocommit = False
        return not driver.closed and driver.info.transaction_status == TRANSACTION_STATUS_IDLE
    return False


def _close(driver: Driver) -> None:
    with suppress(psycopg2.Error):
        driver.close()


#: The server takes no writes (a standby, or a primary that is handed over); it ended a session that stood still.
AWAY = ("25006", "25P03")


def sorted_out(error: psycopg2.Error, *, lost: bool = False) -> Exception:
    """One of the classes above for an error of the driver, itself where it is a defect of ours.

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
