"""What errors mean, whichever way to the database they come."""

from __future__ import annotations

import threading
import time

import psycopg2
import pytest

from storage.database import Conflict, Database, DataError, LockTimeout, TooSlow, Unreachable
from storage.sql import Connection, text
from tests.contract.databases import PID, Make, end, pid, run
from tests.servers.leashed import free_port, wait_until
from tests.servers.postgres import PostgresServer


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
