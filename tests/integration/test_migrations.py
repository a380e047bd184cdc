"""The schema from nothing to head, back, and up again; beside others, under locks, and seen by other builds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage import schema
from storage.database import Database, LockTimeout
from storage.pooled import PooledDatabase
from storage.revision import is_current, newest
from storage.schema import SchemaMismatch, check, current, head, migrate
from storage.sql import text
from tests.fixtures import JobTable


@pytest.fixture
def empty(empty_database: str) -> Iterator[Database]:
    database = PooledDatabase(empty_database)
    yield database
    database.close()


def at(database: Database) -> str | None:
    with database.transaction() as connection:
        return current(connection)


def described(database: Database) -> set[tuple[str, ...]]:
    """Everything that there is outside of Postgres's own schemas, less the extension's."""
    rows = JobTable(database).rows("""
        SELECT 'relation' AS kind, n.nspname AS place, c.relname AS name, c.relkind::text AS more
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        UNION ALL
        SELECT 'column', n.nspname, c.relname || '.' || a.attname,
               format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
               || coalesce(' ' || pg_get_expr(d.adbin, d.adrelid), '')
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v')
        UNION ALL
        SELECT 'index', schemaname, indexname, indexdef FROM pg_indexes
        UNION ALL
        SELECT 'constraint', n.nspname, c.conname, pg_get_constraintdef(c.oid)
        FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace
        UNION ALL
        SELECT 'function', n.nspname, p.proname, pg_get_functiondef(p.oid)
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE p.prokind = 'f' AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
    """)
    own = [row for row in rows if row["place"] not in ("pg_catalog", "information_schema", "pg_toast")]
    return {tuple(row.values()) for row in own}


def test_from_nothing_to_head_and_back_and_up_again(empty: Database) -> None:
    nothing = described(empty)
    migrate(empty)
    assert at(empty) == head() == newest()
    assert is_current(empty)
    whole = described(empty)
    assert {name for kind, place, name, _ in whole if kind == "relation"} >= {"jobs", "job_details", "embeddings"}
    JobTable(empty).add(3)

    migrate(empty, "base")
    assert at(empty) is None
    assert not is_current(empty)
    left = {name for _, _, name, _ in described(empty) - nothing}
    assert [name for name in left if not name.startswith("schema_version")] == []

    migrate(empty)
    assert described(empty) == whole
    assert JobTable(empty).counts() == {}


def test_migrating_again_changes_nothing(database: Database) -> None:
    before = described(database)
    JobTable(database).add(2)
    migrate(database)
    migrate(database, head())
    assert described(database) == before
    assert JobTable(database).counts() == {"queued": 2}


def test_a_schema_made_step_by_step_is_that_which_is_made_at_once(empty: Database, database: Database) -> None:
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(schema._config())
    for revision in reversed(list(script.walk_revisions())):
        migrate(empty, revision.revision)
        assert at(empty) == revision.revision
    assert described(empty) == described(database)


def test_of_two_migrations_at_once_the_second_waits_and_finds_it_done(empty: Database) -> None:
    together = threading.Barrier(3)

    def run() -> None:
        together.wait()
        migrate(empty)

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(run) for _ in range(3)]:
            future.result(60)
    assert is_current(empty)


def test_a_migration_waits_for_one_under_way(empty: Database) -> None:
    with ThreadPoolExecutor() as pool:
        with empty.transaction() as under_way:
            under_way.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": schema.ADVISORY_LOCK})
            second = pool.submit(migrate, empty)
            waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while not JobTable(empty).rows(waiting):
                assert not second.done()
        second.result(60)
    assert is_current(empty)


def test_a_table_that_somebody_holds_stops_a_migration_in_bounded_time_and_nothing_is_changed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "LOCK_TIMEOUT", "100ms")
    before = described(database)
    with database.transaction() as holding:
        holding.execute(text("SELECT * FROM jobs"))
        with pytest.raises(LockTimeout):
            migrate(database, "base")
    assert described(database) == before
    check(database)


def test_a_migration_that_fails_in_the_midst_leaves_what_was_there(empty: Database) -> None:
    nothing = described(empty)
    with empty.transaction() as connection:
        connection.execute(text("CREATE SCHEMA ops"))  # in the way of its last part
    with pytest.raises(Exception, match='schema "ops" already exists'):
        migrate(empty)
    assert described(empty) == nothing
    assert at(empty) is None


# --- other builds ---


def test_an_empty_database_is_told_from_a_migrated_one(empty: Database) -> None:
    with pytest.raises(SchemaMismatch, match="the database is empty: run `mediamill migrate`"):
        check(empty)
    assert not is_current(empty)


def put_at(database: Database, revision: str) -> None:
    with database.transaction() as connection:
        connection.execute(text("UPDATE schema_version SET version_num = :revision"), {"revision": revision})


def test_a_schema_older_than_this_build_is_refused_with_the_command_that_helps(database: Database) -> None:
    put_at(database, "0000")
    with pytest.raises(SchemaMismatch, match=f"at revision 0000, this build needs {head()}: run `mediamill migrate`"):
        check(database)
    assert not is_current(database)


def test_a_schema_newer_than_this_build_is_worked_with(database: Database) -> None:
    put_at(database, "9999")
    check(database)
    assert not is_current(database)
    assert JobTable(database).add(1)


@pytest.mark.parametrize("revision", ["head", "base", "0001"])
def test_a_schema_newer_than_this_build_is_not_migrated_by_it(database: Database, revision: str) -> None:
    put_at(database, "9999")
    before = described(database)
    with pytest.raises(SchemaMismatch, match="at revision 9999, which is newer than this build's"):
        migrate(database, revision)
    assert described(database) == before


def test_a_revision_that_is_not_there_is_refused_by_name(database: Database) -> None:
    with pytest.raises(SchemaMismatch, match=f"no revision '7777'; this build's newest is {head()}"):
        migrate(database, "7777")


def test_a_role_that_may_not_make_the_extension_is_told_what_a_superuser_has_to_run(
    empty_database: str,
) -> None:
    name = empty_database.rpartition("/")[2]
    admin = PooledDatabase(empty_database)
    with admin.transaction() as connection:
        connection.execute(text("CREATE ROLE plain LOGIN"))
        connection.execute(text(f'GRANT ALL ON DATABASE "{name}" TO plain'))
    plain = PooledDatabase(empty_database.replace("postgres@", "plain@"))
    try:
        with pytest.raises(SchemaMismatch, match="a superuser has to run `CREATE EXTENSION vector`"):
            migrate(plain)
        assert at(admin) is None
    finally:
        plain.close()
        with admin.transaction() as connection:
            connection.execute(text("DROP OWNED BY plain"))
            connection.execute(text("DROP ROLE plain"))
        admin.close()
