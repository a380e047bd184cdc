"""Transactions, the connections that they are made on, and what statements and rows look like."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import pytest

from storage.database import Connection, Database, DataError, Unreachable
from storage.sql import text
from tests.servers.leashed import wait_until

PID = text("SELECT pg_backend_pid()")


@pytest.fixture
def bare(empty_database: str) -> Iterator[Database]:
    """Two connections at most; there is nothing in the database."""
    database = Database(empty_database, pool=2, pool_timeout_s=1)
    yield database
    database.close()


def pid(database: Database) -> int:
    with database.transaction() as connection:
        return int(connection.scalar(PID))


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT :a", 7),
        ("SELECT :a::text || ':a'", None),
        ("SELECT CAST(:a AS text) || '%' || 10 % 4", "7%2"),
        ("SELECT '7'::int + :a", 14),
        ("SELECT (ARRAY[1, 2, 3])[1:2] || :a", [1, 2, 7]),
        (r"SELECT '12\:30' || CAST(:a AS text)", "12:307"),
        ("SELECT 'no values, 100%'", "no values, 100%"),
    ],
)
def test_names_with_a_colon_are_values_and_casts_slices_and_percent_signs_are_not(
    bare: Database, sql: str, expected: object
) -> None:
    with bare.transaction() as connection:
        if expected is None:
            # A name is not followed by a colon: such a cast is written CAST.
            with pytest.raises(Exception, match="syntax error"):
                connection.execute(text(sql), {"a": 7})
            connection.rollback()
        else:
            assert connection.scalar(text(sql), {"a": 7, "not_named": 1}) == expected


def test_rows_are_tuples_whose_columns_have_names(bare: Database) -> None:
    id_ = uuid.uuid4()
    with bare.transaction() as connection:
        result = connection.execute(text("SELECT CAST(:id AS uuid) AS id, '{\"a\": [1]}'::jsonb AS a"), {"id": id_})
        row = result.one()
        assert row.id == id_
        assert row.a == {"a": [1]}
        assert tuple(row) == (id_, {"a": [1]})
        assert result.mappings() == [{"id": id_, "a": {"a": [1]}}]
        with pytest.raises(AttributeError, match="no column 'ident'"):
            _ = row.ident
        assert connection.scalar(text("SELECT 1 WHERE false")) is None
        assert connection.scalars(text("SELECT generate_series(1, 3)")) == [1, 2, 3]


def test_one_row_means_one(bare: Database) -> None:
    with bare.transaction() as connection:
        none, two = text("SELECT 1 WHERE false"), text("SELECT generate_series(1, 2)")
        assert connection.execute(none).first() is None
        assert connection.execute(none).one_or_none() is None
        for statement in (none, two):
            with pytest.raises(LookupError):
                connection.execute(statement).one()
        assert connection.execute(text("CREATE TABLE t AS SELECT generate_series(1, 2) AS n")).mappings() == []
        assert connection.execute(text("UPDATE t SET n = 0")).rowcount == 2


def test_a_transaction_that_raises_has_not_happened_and_leaves_its_connection_usable(bare: Database) -> None:
    before = pid(bare)

    def fails() -> None:
        with bare.transaction() as connection:
            connection.execute(text("CREATE TABLE t AS SELECT 0 AS n"))
            connection.execute(text("SELECT 1 / n FROM t"))

    with pytest.raises(DataError):
        fails()
    with bare.transaction() as connection:
        assert connection.scalar(text("SELECT to_regclass('t')")) is None
    assert pid(bare) == before


def test_outside_of_transactions_each_statement_is_kept_at_once(bare: Database) -> None:
    def fails() -> None:
        with bare.autocommit() as connection:
            connection.execute(text("CREATE TABLE t AS SELECT 0 AS n"))
            connection.execute(text("SELECT 1 / n FROM t"))

    with pytest.raises(DataError):
        fails()
    with bare.transaction() as connection:
        assert connection.scalar(text("SELECT n FROM t")) == 0
        connection.execute(text("UPDATE t SET n = 1"))
        connection.rollback()
    with bare.transaction() as connection:
        assert connection.scalar(text("SELECT n FROM t")) == 0


def end(database: Database, backend: int) -> None:
    with database.transaction() as connection:
        connection.scalar(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": backend})


def test_one_error_tells_that_the_server_has_ended_its_connections_not_one_for_each(
    bare: Database, empty_database: str
) -> None:
    with bare.transaction() as one, bare.transaction() as other:
        idle = [int(one.scalar(PID)), int(other.scalar(PID))]
    other_side = Database(empty_database)
    for backend in idle:
        end(other_side, backend)
    other_side.close()
    with pytest.raises(Unreachable):
        pid(bare)
    assert pid(bare) not in idle


def test_who_wants_one_connection_too_many_waits_and_is_told_after_a_while(bare: Database) -> None:
    with bare.transaction(), bare.transaction():
        with pytest.raises(Unreachable, match="all 2 connections were in use"):
            pid(bare)
        # One that waits gets the first that is given back.
        entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with bare.transaction():
            entered.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert entered.wait(10)
    with bare.transaction():
        threading.Timer(0.05, leave.set).start()
        assert pid(bare) > 0
    holder.join(10)


def test_connections_in_use_at_the_close_are_closed_when_they_are_given_back(
    bare: Database, empty_database: str
) -> None:
    def sessions(connection: Connection) -> int:
        mine = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid = ANY(:pids)")
        return int(connection.scalar(mine, {"pids": backends}))

    with bare.transaction() as kept, bare.transaction() as given_back:
        backends = [int(kept.scalar(PID)), int(given_back.scalar(PID))]
    with bare.transaction() as used:
        bare.close()
        assert used.scalar(PID) in backends
    other_side = Database(empty_database)
    with other_side.autocommit() as connection:
        wait_until(lambda: sessions(connection) == 0, 10, "the end of both sessions")
    other_side.close()
    assert pid(bare) not in backends
