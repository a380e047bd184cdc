"""Bringing the schema to a revision: under an advisory lock, with a lock timeout, in one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, NullPool, text

import migrations
from storage.database import Database
from storage.partitions import ensure_partitions
from storage.pooled import engine, sorted_errors
from storage.revision import current as current

#: Two migrations at once would race for the same names; one number for all of mediamill.
ADVISORY_LOCK = 0x6D65_6469_616D_696C
#: A migration that waits for a lock makes every later query wait behind it: rather fail and be run again.
LOCK_TIMEOUT = "5s"


class SchemaMismatch(Exception):
    """The database is not at the revision that this build needs."""


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """The newest revision that this build knows."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


@contextmanager
def _transaction(database: Database) -> Iterator[Connection]:
    """A transaction as Alembic wants it, with SQLAlchemy's connection. Raises what Database's own raise."""
    with sorted_errors(), engine(database, poolclass=NullPool).begin() as connection:
        yield connection


def migrate(database: Database, revision: str = "head") -> None:
    """Brings the schema to `revision` (`head`, `base`, or one by name) and makes the partitions of the months ahead.

    Raises LockTimeout when another transaction holds a table for longer than the lock timeout, and SchemaMismatch for
    a revision that this build does not know, asked for or found: nothing has changed then.
    """
    with _transaction(database) as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        at, config = _at(connection), _config(connection)
        _check_known(at, revision)
        _check_extension(connection)
        if revision == "base" or (at is not None and revision not in ("head", at) and revision < at):
            command.downgrade(config, revision)
        else:
            command.upgrade(config, revision)
    if revision != "base":
        ensure_partitions(database)


def _at(connection: Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": "schema_version"}).get_current_revision()


def _check_known(at: str | None, wanted: str) -> None:
    """Raises SchemaMismatch unless this build has the scripts of both revisions."""
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if wanted not in known | {"head", "base"}:
        raise SchemaMismatch(f"there is no revision {wanted!r}; this build's newest is {head()}")
    if at is not None and at not in known:
        newer = f"the database is at revision {at}, which is newer than this build's {head()}"
        raise SchemaMismatch(f"{newer}: a build that knows it must change it")


def _check_extension(connection: Connection) -> None:
    """Raises SchemaMismatch where pgvector is neither there nor to be had by this role."""
    if connection.scalar(text("SELECT true FROM pg_extension WHERE extname = 'vector'")):
        return
    if not connection.scalar(text("SELECT true FROM pg_available_extensions WHERE name = 'vector'")):
        package = "postgresql-18-pgvector"
        raise SchemaMismatch(f"this Postgres has no pgvector: install the package for its version, such as {package}")
    # An extension that its control file does not call trusted needs a superuser, whoever owns the database.
    may = "SELECT rolsuper OR (SELECT bool_or(trusted) FROM pg_available_extension_versions WHERE name = 'vector')"
    if not connection.scalar(text(f"{may} FROM pg_roles WHERE rolname = current_user")):
        fix = "a superuser has to run `CREATE EXTENSION vector` in this database"
        raise SchemaMismatch(f"the extension vector is missing: {fix}")


def check(database: Database) -> None:
    """Raises SchemaMismatch unless the database is at a revision that this build can work with.

    A newer revision is fine: changes expand first, and the release before runs against the schema after.
    """
    with database.transaction() as connection:
        at = current(connection)
    if at is None:
        raise SchemaMismatch("the database is empty: run `mediamill migrate`")
    if at < head():
        raise SchemaMismatch(f"the database is at revision {at}, this build needs {head()}: run `mediamill migrate`")
