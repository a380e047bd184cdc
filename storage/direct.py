"""A database for commands that are soon over: psycopg2 alone, and one connection that is used again.

SQLAlchemy, which `storage.pooled` goes by, takes longer to import than a short command does altogether.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, Unpack

import psycopg2
from psycopg2.extensions import connection as Driver  # noqa: N812 a class, whatever its name

from storage.database import Database, DataError, Limits, sorted_out
from storage.sql import Connection, Result, Statement


class DirectConnection(Connection):
    """A connection of psycopg2."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def execute(self, statement: Statement, values: Mapping[str, Any] | None = None) -> Result:
        try:
            with _sorted(self._driver), self._driver.cursor() as cursor:
                cursor.execute(_of_psycopg2(statement.text), values or {})
                if cursor.description is None:
                    return Result([], [], cursor.rowcount)
                return Result(cursor.fetchall(), [column[0] for column in cursor.description], cursor.rowcount)
        except ValueError as error:  # a NUL or half a surrogate pair, which psycopg2 does not send
            raise DataError(str(error)) from error

    def rollback(self) -> None:
        with _sorted(self._driver):
            self._driver.rollback()


class DirectDatabase(Database):
    """Keeps one idle connection; threads that want one at the same time make further ones, which are not kept."""

    def __init__(self, url: str, **limits: Unpack[Limits]) -> None:
        super().__init__(url, **limits)
        self._lock = threading.Lock()
        self._idle: Driver | None = None

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self._driver() as driver:
            yield DirectConnection(driver)
            with _sorted(driver):
                driver.commit()

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        with self._driver() as driver:
            driver.autocommit = True
            yield DirectConnection(driver)

    @contextmanager
    def _driver(self) -> Iterator[Driver]:
        with self._lock:
            kept, self._idle = self._idle, None
        with _sorted(kept):
            driver = kept or self.connect()
        try:
            yield driver
        finally:
            self._give_back(driver)

    def _give_back(self, driver: Driver) -> None:
        with suppress(psycopg2.Error):  # a connection that is lost cannot be rolled back, and is not kept
            driver.rollback()
            driver.autocommit = False
            with self._lock:
                if self._idle is None and not driver.closed:
                    self._idle = driver
                    return
        driver.close()

    def close(self) -> None:
        with self._lock:
            kept, self._idle = self._idle, None
        if kept is not None:
            kept.close()


@contextmanager
def _sorted(driver: Driver | None) -> Iterator[None]:
    """psycopg2's errors as `storage.database` sorts them; a defect of a statement stays what it is."""
    try:
        yield
    except psycopg2.Error as error:
        sorted_error = sorted_out(error, lost=driver is not None and bool(driver.closed))
        if sorted_error is None:
            raise
        raise sorted_error from error


# As SQLAlchemy's `text` reads them: not the colons of `a::type` and of `array[1:2]`, and not one that is escaped.
_NAME = re.compile(r"(?<![:\w\\]):(\w+)(?![:\w])")
_ESCAPED = re.compile(r"\\(:\w*)(?![:\w])")


@lru_cache(maxsize=1024)
def _of_psycopg2(sql: str) -> str:
    """`:name` as psycopg2 writes it, `%(name)s`."""
    return _ESCAPED.sub(r"\1", _NAME.sub(r"%(\1)s", sql.replace("%", "%%")))
