"""What tests of both ways to the database do with one."""

from __future__ import annotations

from collections.abc import Callable

from storage.database import Database
from storage.sql import text

PID = text("SELECT pg_backend_pid()")

#: An implementation on a database: `make(url, **limits)`.
Make = Callable[..., Database]


def pid(database: Database) -> int:
    with database.transaction() as connection:
        return int(connection.scalar(PID))


def run(database: Database, *statements: str) -> None:
    """In one transaction."""
    with database.transaction() as connection:
        for statement in statements:
            connection.execute(text(statement))


def end(database: Database, backend: int) -> None:
    with database.transaction() as connection:
        connection.scalar(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": backend})
