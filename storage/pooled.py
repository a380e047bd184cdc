"""A database for processes that stay: a pool of connections, by SQLAlchemy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Unpack

import psycopg2
import sqlalchemy
from sqlalchemy.exc import DBAPIError, DisconnectionError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from storage.database import Database, DataError, Limits, Unreachable, sorted_out
from storage.sql import Connection, Result, Statement


class PooledConnection(Connection):
    """A connection of SQLAlchemy's."""

    def __init__(self, connection: sqlalchemy.Connection) -> None:
        self._connection = connection

    def execute(self, statement: Statement, values: Mapping[str, Any] | None = None) -> Result:
        try:
            with sorted_errors():
                result = self._connection.execute(_of_sqlalchemy(statement.text), values or {})
                rows = result.fetchall() if result.returns_rows else []
        except ValueError as error:  # a NUL or half a surrogate pair, which psycopg2 does not send
            raise DataError(str(error)) from error
        return Result(rows, list(result.keys()) if result.returns_rows else [], result.rowcount)

    def rollback(self) -> None:
        with sorted_errors():
            self._connection.rollback()


class PooledDatabase(Database):
    """Keeps `pool` connections at most; a thread that wants one more waits, for `pool_timeout_s` at most."""

    def __init__(self, url: str, *, pool: int = 8, pool_timeout_s: float = 30, **limits: Unpack[Limits]) -> None:
        super().__init__(url, **limits)
        self._engine = engine(self, pool_size=pool, max_overflow=0, pool_timeout=pool_timeout_s, pool_use_lifo=True)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with sorted_errors(), self._engine.connect() as connection:
            yield PooledConnection(connection)
            connection.commit()

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        with sorted_errors(), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield PooledConnection(connection)

    def close(self) -> None:
        self._engine.dispose()


def engine(database: Database, **options: Any) -> sqlalchemy.Engine:
    """SQLAlchemy's, of connections of that database; `options` are of its pool."""
    # Nobody here stores an hstore; looking for its type would be a query of every connection.
    return sqlalchemy.create_engine(
        "postgresql+psycopg2://", creator=database.connect, use_native_hstore=False, **options
    )


@contextmanager
def sorted_errors() -> Iterator[None]:
    """SQLAlchemy's errors as `storage.database` sorts them; a defect of a statement as psycopg2's own."""
    try:
        yield
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg2.Error):
            raise
        sorted_error = sorted_out(error.orig, lost=error.connection_invalidated)
        if sorted_error is None:
            raise error.orig from None  # it is the other's cause: a chain of causes must end
        raise sorted_error from error
    except (DisconnectionError, PendingRollbackError, PoolTimeout) as error:
        raise Unreachable(error.args[0]) from error  # str() of it would add a link to SQLAlchemy's pages


@lru_cache(maxsize=1024)
def _of_sqlalchemy(sql: str) -> sqlalchemy.TextClause:
    return sqlalchemy.text(sql)
