"""Postgres away and back: nothing is lost, nothing is done twice, and the workers recover by themselves."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from storage.pooled import PooledDatabase
from storage.schema import migrate
from tests.e2e.kills import (
    counters,
    crew,
    history,
    life,
    rows,
    running_on,
    short_leased,
    sleep,
    submitted,
    wait_for_state,
)
from tests.e2e.shared import until
from tests.e2e.stage import Stage, Worker
from tests.servers.leashed import alive, wait_until
from tests.servers.postgres import PostgresServer


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One that may be killed."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def template(server: PostgresServer) -> str:
    database = PooledDatabase(server.create_database("migrated"))
    migrate(database)
    database.close()
    return "migrated"


@contextmanager
def away(server: PostgresServer, mill: Stage) -> Iterator[None]:
    """Killed, and started again on the same data whatever happens meanwhile."""
    server.kill()
    mill.database.close()  # the test's own connections
    try:
        yield
    finally:
        server.start()


def said(worker: Worker) -> list[dict[str, Any]]:
    """What the worker has logged."""
    return [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]


def lines(worker: Worker, event: str) -> int:
    """How often it has said something."""
    return sum(line["event"] == event for line in said(worker))


def notices_that_the_database_is_away(worker: Worker) -> None:
    """Returns when it has results that it cannot record, and says that it is not ready, but need not be restarted."""
    trying = 'mediamill_database_errors_total{what="record"}'
    wait_until(lambda: worker.get("/readyz")[0] == 503, 10, "it is not ready any more")
    wait_until(lambda: trying in worker.get("/metrics")[1].decode(), 10, "results that cannot be recorded")
    assert worker.get("/healthz")[0] == 200


def ran_once(stage: Stage, ids: list[uuid.UUID]) -> None:
    for row in wait_for_state(stage, ids, "succeeded"):
        assert (row["attempt"], counters(row)) == (1, {})
        assert [event["kind"] for event in history(stage, row["id"])] == ["submitted", "claimed", "succeeded"]


def test_results_in_hand_are_recorded_when_a_killed_postgres_is_back(
    tmp_path: Path, server: PostgresServer, template: str, tiny_models: Path
) -> None:
    # Both have as many jobs as they take, and so do not claim: what tells them of the outage is not a claim.
    settings = {"MEDIAMILL_LEASE": "20s", "MEDIAMILL_CLAIM_AHEAD_S": "6"}
    with short_leased(tmp_path, server, template, tiny_models, **settings) as mill:
        workers = crew(mill, 2)
        ids = submitted(mill, [sleep(4)] * 88)
        until(lambda: all(row["state"] == "running" for row in rows(mill, ids)), mill)
        lives = [life(mill, worker) for worker in workers]
        assert all(running_on(mill, id_) for id_ in lives)
        with away(server, mill):
            for worker in workers:
                notices_that_the_database_is_away(worker)
        ran_once(mill, ids)
        assert [life(mill, worker) for worker in workers] == lives
        for worker in workers:
            worker.wait_until_ready()


def test_a_worker_that_cannot_beat_for_its_lease_ends_what_it_runs_and_starts_over(
    tmp_path: Path, server: PostgresServer, template: str, tiny_models: Path
) -> None:
    with short_leased(tmp_path, server, template, tiny_models) as mill:
        [worker] = crew(mill, 1)
        ids = submitted(mill, [sleep(3600)] * 30)
        until(lambda: all(row["state"] == "running" for row in rows(mill, ids)), mill)
        old, executors = life(mill, worker), worker.executors()
        with away(server, mill):
            wait_until(lambda: lines(worker, "lease lost: starting over with a new id") > 0, 10, "the end of its lease")
            wait_until(lambda: lines(worker, "waiting for the database") > 1, 10, "more than one try to begin anew")
            assert not any(map(alive, executors))
        done = wait_for_state(mill, ids, "succeeded")
        new = life(mill, worker)
        assert new != old
        for row in done:
            assert (row["worker_id"], row["attempt"], counters(row)) == (new, 2, {"interruptions": 1})
        [retired] = mill.table.rows("SELECT retired_why FROM workers WHERE id = :id", id=old)
        assert retired["retired_why"] == "its lease was lost"
