"""Whether the schema is this build's, told without Alembic, whose import costs more than most commands take."""

from __future__ import annotations

from importlib.resources import files

from storage.database import Database
from storage.sql import Connection, text


def newest() -> str:
    """The newest revision of this build, by the names of its files: `v0001_core.py` is revision 0001."""
    names = [file.name for file in files("migrations.versions").iterdir() if file.name.startswith("v")]
    return max(names)[1:5]


def current(connection: Connection) -> str | None:
    """The revision that the database is at; None for an empty one."""
    if not connection.scalar(text("SELECT to_regclass('schema_version')")):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM schema_version"))
    return revision


def is_current(database: Database) -> bool:
    """Whether the database is exactly at the newest revision; if not, `storage.schema` says what that means."""
    with database.transaction() as connection:
        return current(connection) == newest()
