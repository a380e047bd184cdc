"""What both ways to the database have in common: transactions, statements, rows, and what errors mean."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pytest

from storage.database import Conflict, Database, DataError, LockTimeout, TooSlow, Unreachable
from storage.direct import DirectDatabase
from storage.pooled import PooledDatabase
from storage.sql import Connection, text
from tests.servers.leashed import free_port, wait_until
from tests.servers.postgres import PostgresServer

PID = text("SELECT pg_backend_pid()")

#: An implementation on a database: `make(url, **limits)`.
Make = Callable[..., Database]


@pytest.fixture(params=[PooledDatabase, DirectDatabase], ids=["pooled", "direct"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[Database] = []

    def one(url: str, **limits: Any) -> Database:
        made.append(request.param(url, **limits))
        return made[-1]

    yield one
    for database in made:
        database.close()


@pytest.fixture
def bare(make: Make, empty_database: str) -> Database:
    """There is nothing in it."""
    return make(empty_database)


@pytest.fixture(scope="module", params=[PooledDatabase, DirectDatabase], ids=["pooled", "direct"])
def shared(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[Database]:
    """One for all tests that leave nothing behind."""
    with postgres_server.database() as url:
        database: Database = request.param(url)
        yield database
        database.close()


@pytest.fixture
def aside(empty_database: str) -> Iterator[Database]:
    """Another process on the same database."""
    database = PooledDatabase(empty_database)
    yield database
    database.close()


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


# --- errors ---


def test_a_server_that_is_not_there_is_unreachable(make: Make) -> None:
    with pytest.raises(Unreachable, match="refused"):
        pid(make(f"postgresql://postgres@127.0.0.1:{free_port()}/postgres"))


def test_a_database_that_does_not_exist_is_unreachable(make: Make, postgres_server: PostgresServer) -> None:
    with pytest.raises(Unreachable, match="does not exist"):
        pid(make(f"{postgres_server.url}_that_is_not_there"))


def test_a_session_that_is_ended_within_a_transaction_is_unreachable_and_replaced(
    bare: Database, aside: Database
) -> None:
    def goes_on() -> None:
        with bare.transaction() as connection:
            end(aside, before)
            for _ in range(2):
                with pytest.raises(Unreachable):
                    connection.execute(PID)

    before = pid(bare)
    with pytest.raises(Unreachable):
        goes_on()
    assert pid(bare) != before


def test_a_session_that_is_ended_before_the_commit_is_unreachable(bare: Database, aside: Database) -> None:
    with pytest.raises(Unreachable), bare.transaction() as connection:
        end(aside, connection.scalar(PID))
    with bare.autocommit() as connection:
        assert connection.scalar(PID) > 0


def test_one_error_tells_that_idle_connections_are_gone_not_one_for_each(bare: Database, aside: Database) -> None:
    with bare.transaction() as one, bare.transaction() as other:
        idle = [int(one.scalar(PID)), int(other.scalar(PID))]
    for backend in idle:
        end(aside, backend)
    with pytest.raises(Unreachable):
        pid(bare)
    assert pid(bare) not in idle


def test_a_statement_that_takes_too_long_is_too_slow(make: Make, empty_database: str) -> None:
    database = make(empty_database, statement_timeout_s=0.1)
    before = pid(database)
    with pytest.raises(TooSlow, match="longer than its limit"):
        run(database, "SELECT pg_sleep(10)")
    assert pid(database) == before


def test_a_pause_within_a_transaction_that_takes_too_long_is_unreachable(
    make: Make, empty_database: str, aside: Database
) -> None:
    gone = text("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = :pid)")
    database = make(empty_database, idle_timeout_s=0.1)

    def pauses() -> None:
        with database.transaction() as connection, aside.autocommit() as other:
            assert connection.scalar(PID) == before
            wait_until(lambda: other.scalar(gone, {"pid": before}), 10, "the end of the session")
            connection.execute(PID)

    before = pid(database)
    with pytest.raises(Unreachable):
        pauses()
    assert pid(database) != before


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 / 0",
        "SELECT 'x'::int",
        "SELECT '[1'::jsonb",
        "CREATE TABLE t (n int NOT NULL); INSERT INTO t VALUES (NULL)",
        "CREATE TABLE t (n int UNIQUE); INSERT INTO t VALUES (1), (1)",
        "CREATE TABLE t (n text); CREATE INDEX ON t (n);"
        " INSERT INTO t SELECT string_agg(md5(n::text), '') FROM generate_series(1, 1000) AS n",
    ],
)
def test_a_value_that_postgres_refuses_is_a_data_error(shared: Database, sql: str) -> None:
    with pytest.raises(DataError):
        run(shared, sql)


@pytest.mark.parametrize("value", ["a\0b", "half a pair \ud800"], ids=["NUL", "surrogate"])
def test_a_text_that_cannot_be_sent_is_a_data_error(shared: Database, value: str) -> None:
    before = pid(shared)
    with pytest.raises(DataError), shared.transaction() as connection:
        connection.execute(text("SELECT CAST(:value AS text)"), {"value": value})
    assert pid(shared) == before


def test_a_lock_that_is_not_had_in_time_is_a_lock_timeout(bare: Database, aside: Database) -> None:
    run(aside, "CREATE TABLE t ()")
    with aside.transaction() as other:
        other.execute(text("LOCK TABLE t"))
        with pytest.raises(LockTimeout):
            run(bare, "SET LOCAL lock_timeout = '50ms'", "LOCK TABLE t")
        with pytest.raises(LockTimeout):
            run(bare, "LOCK TABLE t NOWAIT")


def test_two_changes_of_the_same_at_once_are_a_conflict_and_run_again(bare: Database, aside: Database) -> None:
    run(aside, "CREATE TABLE t AS SELECT 1 AS n")
    conflicts: list[float] = []

    def change(connection: Connection) -> int:
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        seen = int(connection.scalar(text("SELECT n FROM t")))
        if not conflicts:
            run(aside, "UPDATE t SET n = n + 10")
        connection.execute(text("UPDATE t SET n = n + 1"))
        return seen

    assert bare.retrying(change, conflict=lambda: conflicts.append(time.monotonic())) == 11
    assert len(conflicts) == 1
    conflicts.clear()
    with pytest.raises(Conflict, match="serialize"):
        bare.retrying(change, tries=1)


def test_a_deadlock_is_a_conflict(bare: Database, aside: Database) -> None:
    run(aside, "CREATE TABLE a ()", "CREATE TABLE b ()")
    waits = text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'a'::regclass)")

    def other_way() -> None:
        with aside.transaction() as other:
            other.execute(text("SET LOCAL deadlock_timeout = '10s'"))
            other.execute(text("LOCK TABLE b"))
            locked.set()
            assert go_on.wait(10)
            other.execute(text("LOCK TABLE a"))

    def one_way() -> None:
        with bare.transaction() as connection:
            # Who waits for so long looks for a deadlock, and is its victim.
            connection.execute(text("SET LOCAL deadlock_timeout = '50ms'"))
            connection.execute(text("LOCK TABLE a"))
            assert locked.wait(10)
            go_on.set()
            with aside.autocommit() as looking:
                wait_until(lambda: looking.scalar(waits), 10, "the other to wait for this one")
            connection.execute(text("LOCK TABLE b"))

    locked, go_on = threading.Event(), threading.Event()
    thread = threading.Thread(target=other_way)
    thread.start()
    with pytest.raises(Conflict, match="deadlock"):
        one_way()
    thread.join(10)
    assert not thread.is_alive()


def test_a_statement_that_is_wrong_is_an_error_of_the_program(shared: Database) -> None:
    before = pid(shared)
    with pytest.raises(psycopg2.ProgrammingError, match='relation "nothing" does not exist') as raised:
        run(shared, "SELECT * FROM nothing")
    assert raised.value.__cause__ is None
    with shared.transaction() as connection:
        with pytest.raises(DataError):
            connection.execute(text("SELECT 1 / 0"))
        with pytest.raises(psycopg2.InternalError, match="transaction is aborted"):
            connection.execute(PID)
    assert pid(shared) == before


def test_a_server_that_was_restarted_is_found_again(make: Make) -> None:
    """Takes two seconds: a server of its own."""
    with PostgresServer() as server:
        database = make(server.url)
        pid(database)
        server.kill()
        with pytest.raises(Unreachable):
            pid(database)
        with pytest.raises(Unreachable, match="refused"):
            pid(database)
        server.start()
        assert pid(database) > 0
        database.close()


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
