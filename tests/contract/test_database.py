"""What both ways to the database have in common: transactions, statements and rows; and the pool of one of them."""

from __future__ import annotations

import threading
import uuid
from datetime import UTC, datetime

import psycopg2
import pytest

from storage.database import Database, DataError, Unreachable
from storage.direct import DirectDatabase
from storage.pooled import PooledDatabase
from storage.sql import text
from tests.contract.databases import PID, Make, pid, run
from tests.servers.leashed import wait_until

# --- statements and rows ---


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT :a", 7),
        ("SELECT CAST(:a AS text) || '%' || 10 % 4", "7%2"),
        ("SELECT '7'::int + :a", 14),
        ("SELECT (:a)::text", "7"),
        ("SELECT (ARRAY[1, 2, 3])[1:2] || :a", [1, 2, 7]),
        (r"SELECT '12\:30' || CAST(:a AS text)", "12:307"),
        (r"SELECT '\:a' || CAST(:a AS text)", ":a7"),
        ("SELECT 'a: b' || CAST(:a AS text)", "a: b7"),
        ("SELECT 'no values, 100%'", "no values, 100%"),
        ("SELECT '%(a)s %s' || CAST(:a AS text)", "%(a)s %s7"),
        ("SELECT :a + :a + :b_2", 15),
        (r"SELECT 'a\\b' || CAST(:a AS text)", r"a\\b7"),
    ],
)
def test_names_with_a_colon_are_values_and_casts_slices_and_percent_signs_are_not(
    shared: Database, sql: str, expected: object
) -> None:
    with shared.transaction() as connection:
        assert connection.scalar(text(sql), {"a": 7, "b_2": 1, "not_named": 1}) == expected


@pytest.mark.parametrize("sql", ["SELECT :a::text", "SELECT :name::text"])
def test_a_value_is_cast_by_cast_and_not_by_colons(shared: Database, sql: str) -> None:
    with shared.transaction() as connection, pytest.raises(psycopg2.ProgrammingError, match="syntax error"):
        connection.execute(text(sql), {"a": 7, "name": 7})


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("SELECT CAST(:value AS uuid)", uuid.uuid4()),
        ("SELECT CAST(:value AS uuid[])", [uuid.uuid4(), uuid.uuid4()]),
        ("SELECT CAST(:value AS bytea)", b"\x00\xff%:a"),
        ("SELECT CAST(:value AS timestamptz)", datetime(2024, 2, 29, 12, 30, 0, 5, tzinfo=UTC)),
        ("SELECT CAST(:value AS text[])", ["a", "%", ":b", "\\:", None]),
        ("SELECT CAST(:value AS bigint[])", [1, 2**40]),
        ("SELECT CAST(:value AS bigint[])", []),
        ("SELECT CAST(:value AS float8)", 0.1),
        ("SELECT CAST(:value AS boolean)", True),
        ("SELECT CAST(:value AS text)", "100% :a \\: 'quoted' 西湖"),
        ("SELECT CAST(:value AS text)", None),
    ],
)
def test_values_come_back_as_they_were_given(shared: Database, sql: str, value: object) -> None:
    with shared.transaction() as connection:
        found = connection.scalar(text(sql), {"value": value})
    found = bytes(found) if isinstance(found, memoryview) else found
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("""SELECT '{"a": [1, null, "b"]}'::jsonb""", {"a": [1, None, "b"]}),
        ("SELECT '[1.5]'::json", [1.5]),
        ("SELECT '{}'::jsonb", {}),
        ("SELECT 'null'::jsonb", None),
        ("SELECT '2024-02-29 12:30+02'::timestamptz", datetime(2024, 2, 29, 10, 30, tzinfo=UTC)),
        ("SELECT sum(n)::bigint FROM generate_series(1, 3) AS n", 6),
        ("SELECT '\\x00ff'::bytea", b"\x00\xff"),
        ("SELECT ARRAY[ARRAY[1, 2], ARRAY[3, 4]]", [[1, 2], [3, 4]]),
    ],
)
def test_types_of_postgres_are_the_same_types_here(shared: Database, sql: str, expected: object) -> None:
    with shared.transaction() as connection:
        found = connection.scalar(text(sql))
    found = bytes(found) if isinstance(found, memoryview) else found
    assert found == expected


def test_rows_are_tuples_whose_columns_have_names(shared: Database) -> None:
    id_ = uuid.uuid4()
    with shared.transaction() as connection:
        result = connection.execute(
            text("SELECT CAST(:id AS uuid) AS id, jsonb_build_object('a', 1) AS a"), {"id": id_}
        )
        row = result.one()
        with pytest.raises(AttributeError, match="no column 'ident'"):
            _ = row.ident
        assert (row.id, row.a) == (id_, {"a": 1})
        first, second = row
        assert row == (first, second) == (id_, {"a": 1})
        assert issubclass(type(row), tuple)
        assert result.mappings() == [{"id": id_, "a": {"a": 1}}]
        assert result.all() == list(result) == [row]
        assert result.rowcount == 1
        assert connection.execute(text("SELECT 1 AS n, 2 AS n")).one().n == 2
        assert connection.scalar(text("SELECT 1 WHERE false")) is None
        assert connection.scalars(text("SELECT generate_series(1, 3)")) == [1, 2, 3]


def test_one_row_means_one(shared: Database) -> None:
    with shared.transaction() as connection:
        none, two = text("SELECT 1 WHERE false"), text("SELECT generate_series(1, 2)")
        assert connection.execute(none).first() is None
        assert connection.execute(none).one_or_none() is None
        for statement in (none, two):
            with pytest.raises(LookupError):
                connection.execute(statement).one()
            with pytest.raises(LookupError):
                connection.execute(statement).scalar_one()
        with pytest.raises(LookupError):
            connection.execute(two).one_or_none()
        assert connection.execute(text("SELECT 7")).scalar_one() == 7


def test_statements_that_give_nothing_back_say_how_many_rows_they_changed(bare: Database) -> None:
    with bare.transaction() as connection:
        assert connection.execute(text("CREATE TABLE t AS SELECT generate_series(1, 2) AS n")).mappings() == []
        result = connection.execute(text("UPDATE t SET n = n + 1"))
        assert (result.rowcount, result.all(), result.first()) == (2, [], None)
        assert connection.execute(text("UPDATE t SET n = 0 WHERE n > :n RETURNING n"), {"n": 2}).rowcount == 1
        assert connection.execute(text("DELETE FROM t WHERE n > 99")).rowcount == 0


def test_every_session_has_the_limits_and_speaks_utc(make: Make, empty_database: str) -> None:
    database = make(empty_database, statement_timeout_s=7, idle_timeout_s=3)
    names = ("statement_timeout", "idle_in_transaction_session_timeout", "TimeZone", "jit", "application_name")
    with database.transaction() as connection:
        found = [connection.scalar(text(f"SHOW {name}")) for name in names]
    assert found == ["7s", "3s", "UTC", "off", "mediamill"]


# --- transactions ---


def test_what_a_transaction_has_done_is_there_after_it(bare: Database, aside: Database) -> None:
    with bare.transaction() as connection:
        connection.execute(text("CREATE TABLE t AS SELECT 1 AS n"))
        with aside.transaction() as other:
            assert other.scalar(text("SELECT to_regclass('t')")) is None
    with aside.transaction() as other:
        assert other.scalar(text("SELECT n FROM t")) == 1


def test_a_transaction_that_raises_has_not_happened_and_leaves_its_connection_usable(bare: Database) -> None:
    def fails() -> None:
        with bare.transaction() as connection:
            connection.execute(text("CREATE TABLE t AS SELECT 0 AS n"))
            raise KeyError("of the caller")

    before = pid(bare)
    with pytest.raises(DataError, match="division by zero"):
        run(bare, "CREATE TABLE t AS SELECT 0 AS n", "SELECT 1 / n FROM t")
    with pytest.raises(KeyError, match="of the caller"):
        fails()
    with bare.transaction() as connection:
        assert connection.scalar(text("SELECT to_regclass('t')")) is None
    assert pid(bare) == before


def test_after_a_rollback_the_next_statement_begins_another_transaction(bare: Database) -> None:
    with bare.transaction() as connection:
        connection.execute(text("CREATE TABLE undone ()"))
        connection.rollback()
        connection.execute(text("CREATE TABLE kept ()"))
    with bare.transaction() as connection:
        assert connection.scalar(text("SELECT to_regclass('undone')")) is None
        assert connection.scalar(text("SELECT to_regclass('kept')")) == "kept"


def test_outside_of_transactions_each_statement_is_kept_at_once(bare: Database) -> None:
    def fails() -> None:
        with bare.autocommit() as connection:
            connection.execute(text("CREATE TABLE t AS SELECT 0 AS n"))
            connection.execute(text("SELECT 1 / n FROM t"))

    with pytest.raises(DataError):
        fails()
    with bare.autocommit() as connection:
        connection.execute(text("CREATE INDEX CONCURRENTLY t_n ON t (n)"))
    with bare.transaction() as connection:  # the same connection, and a transaction again
        assert connection.scalar(text("SELECT n FROM t")) == 0
        connection.execute(text("UPDATE t SET n = 1"))
        connection.rollback()
    with bare.transaction() as connection:
        assert connection.scalar(text("SELECT n FROM t")) == 0


def test_threads_have_connections_of_their_own(shared: Database) -> None:
    with shared.transaction() as one, shared.transaction() as other:
        pids = {one.scalar(PID), other.scalar(PID)}
        assert len(pids) == 2
    assert pid(shared) in pids


def test_after_it_is_closed_nothing_is_left_and_it_can_be_used_again(bare: Database, aside: Database) -> None:
    sessions = text("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(:pids)")
    with bare.transaction() as one, bare.transaction() as other:
        backends = [one.scalar(PID), other.scalar(PID)]
    bare.close()
    with aside.autocommit() as connection:
        wait_until(lambda: connection.scalar(sessions, {"pids": backends}) == 0, 10, "the end of both sessions")
    assert pid(bare) not in backends


# --- the pool, which only one of them has ---


def test_who_wants_one_connection_too_many_waits_and_is_told_after_a_while(empty_database: str) -> None:
    pool = PooledDatabase(empty_database, pool=2, pool_timeout_s=1)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with pool.transaction():
            entered.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert entered.wait(10)
    with pool.transaction():
        with pytest.raises(Unreachable, match="limit of size 2"):
            pid(pool)
        # One that waits gets the first that is given back.
        threading.Timer(0.05, leave.set).start()
        assert pid(pool) > 0
    holder.join(10)
    pool.close()


def test_the_connection_that_was_used_last_is_used_next(empty_database: str) -> None:
    pool = PooledDatabase(empty_database)
    with pool.transaction() as one:
        first = one.scalar(PID)
        with pool.transaction() as other:
            second = other.scalar(PID)
    assert first != second
    assert [pid(pool) for _ in range(3)] == [first] * 3
    pool.close()


def test_a_command_keeps_one_connection_of_those_that_were_open_at_the_same_time(
    empty_database: str, aside: Database
) -> None:
    database = DirectDatabase(empty_database)
    with database.transaction() as one, database.transaction() as other, database.transaction() as third:
        backends = [connection.scalar(PID) for connection in (one, other, third)]
    left = text("SELECT array_agg(pid) FROM pg_stat_activity WHERE pid = ANY(:pids)")
    with aside.autocommit() as connection:
        wait_until(lambda: connection.scalar(left, {"pids": backends}) == [backends[2]], 10, "the end of two")
    assert pid(database) == backends[2]
    database.close()
