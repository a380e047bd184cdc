"""The views `ops.*` are a contract: dashboards of others read them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from storage.database import Database
from storage.jobs import counts, fold_counts
from storage.pooled import PooledDatabase
from storage.schema import migrate
from storage.sql import text
from tests.integration.library import Library, Piece
from tests.servers.postgres import PostgresServer

# A column may be added at the end of a view; none may change its name or type, or go, without an entry in the release
# notes.
COLUMNS = {
    "job_counts": ["lane text", "type text", "tenant text", "state text", "jobs bigint"],
    "queue": ["lane text", "type text", "runnable bigint", "oldest timestamp with time zone"],
    "jobs": [
        "id uuid",
        "type text",
        "tenant text",
        "lane text",
        "priority smallint",
        "state text",
        "attempt integer",
        "failures smallint",
        "losses smallint",
        "crashes smallint",
        "interruptions smallint",
        "worker_id uuid",
        "run_after timestamp with time zone",
        "deadline timestamp with time zone",
        "created_at timestamp with time zone",
        "claimed_at timestamp with time zone",
        "finished_at timestamp with time zone",
        "labels jsonb",
        "error jsonb",
        "timings jsonb",
    ],
    "workers": [
        "id uuid",
        "host text",
        "pid integer",
        "build text",
        "devices jsonb",
        "doing jsonb",
        "beat bigint",
        "started_at timestamp with time zone",
        "beat_at timestamp with time zone",
        "retired_at timestamp with time zone",
        "retired_why text",
    ],
    "outbox": [
        "destination text",
        "kind text",
        "events bigint",
        "oldest timestamp with time zone",
        "dead bigint",
    ],
    "rejected": [
        "fingerprint text",
        "lane text",
        "topic text",
        "messages bigint",
        "replayed bigint",
        "first timestamp with time zone",
        "last timestamp with time zone",
    ],
    "lost_ranges": [
        "topic text",
        "partition integer",
        "first_offset bigint",
        "end_offset bigint",
        "messages bigint",
        "found_at timestamp with time zone",
        "acknowledged_at timestamp with time zone",
    ],
}


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    with postgres_server.database() as url:
        database = PooledDatabase(url)
        migrate(database)
        library = Library(database)
        library.add(Piece("dog", labels={"set": "animals"}))
        library.add(Piece("cat"))
        yield database
        database.close()


def test_the_views_are_those_of_the_contract_and_no_others(database: Database) -> None:
    with database.transaction() as connection:
        views = connection.scalars(text("SELECT viewname FROM pg_views WHERE schemaname = 'ops'"))
    assert sorted(views) == sorted(COLUMNS)


@pytest.mark.parametrize("view", COLUMNS)
def test_a_view_begins_with_the_columns_of_the_contract(database: Database, view: str) -> None:
    with database.transaction() as connection:
        columns = connection.scalars(
            text("""
                SELECT column_name || ' ' || data_type FROM information_schema.columns
                WHERE table_schema = 'ops' AND table_name = :view ORDER BY ordinal_position
            """),
            {"view": view},
        )
        connection.execute(text(f"SELECT * FROM ops.{view}"))
    assert list(columns[: len(COLUMNS[view])]) == COLUMNS[view]


def plan(database: Database, sql: str) -> str:
    with database.transaction() as connection:
        return "\n".join(connection.scalars(text(f"EXPLAIN {sql}")))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM ops.job_counts",
        "SELECT state, sum(jobs) FROM ops.job_counts GROUP BY state",
        "SELECT * FROM ops.job_counts WHERE lane = 'upload'",
    ],
)
def test_counting_jobs_reads_no_history(database: Database, sql: str) -> None:
    lines = plan(database, sql)
    assert " on job_counts" in lines
    for table in ("jobs", "job_details", "job_events", "job_inputs"):
        assert f" on {table}" not in lines


def test_the_queue_is_read_by_its_own_index_and_not_by_all_jobs(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        lines = list(connection.scalars(text("EXPLAIN SELECT * FROM ops.queue")))
    scans = [line for line in lines if " on jobs_" in line]
    assert scans
    assert all("_lane_type_priority_run_after_id_idx" in line for line in scans if "Bitmap Heap" not in line)


def test_counts_are_the_same_before_and_after_they_are_folded(database: Database) -> None:
    expected = [
        {"lane": "upload", "type": "image.caption", "tenant": "default", "state": "succeeded", "jobs": 2},
    ]
    with database.transaction() as connection:
        assert counts(connection) == expected
        assert connection.scalar(text("SELECT count(*) FROM job_counts")) > 1
        assert fold_counts(connection)
        assert counts(connection) == expected
        assert connection.scalar(text("SELECT count(*) FROM job_counts")) == 1


def test_the_view_of_jobs_shows_labels_and_states(database: Database) -> None:
    with database.transaction() as connection:
        rows = connection.execute(text("SELECT state, labels FROM ops.jobs ORDER BY labels DESC")).all()
    assert rows == [("succeeded", {"set": "animals"}), ("succeeded", {})]
