"""Workers that die, stop and come back: another does their jobs, and nothing is written twice."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.shared import put, shared_stage, submit_all, until
from tests.e2e.stage import Stage, Worker
from tests.servers.leashed import alive, wait_until
from tests.servers.postgres import PostgresServer

LEASE_S, BEAT_S = 3.0, 0.5
#: What the design promises.
RECLAIMED_WITHIN_S = LEASE_S + BEAT_S + 5


@pytest.fixture(scope="module")
def mill(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    migrated_template: str,
    tiny_models: Path,
) -> Iterator[Stage]:
    """A deployment with short leases; each test starts its own workers and ends them."""
    environ = {
        "MEDIAMILL_MODELS": str(tiny_models),
        "MEDIAMILL_LEASE": f"{LEASE_S}s",
        "MEDIAMILL_BEAT": f"{BEAT_S}s",
        "MEDIAMILL_POLL_INTERVAL_S": "0.3",
    }
    with shared_stage(tmp_path_factory.mktemp("kills"), postgres_server, migrated_template, environ) as made:
        yield made


@pytest.fixture(scope="module")
def survivor(mill: Stage) -> Iterator[Worker]:
    """A worker that is there in all tests, so that somebody is watching."""
    yield mill.worker().wait_until_ready()


def sleep(seconds: float = 3600, **more: Any) -> dict[str, Any]:
    """A job whose first attempt sleeps and whose second succeeds at once."""
    return {"type": "test.fault", "params": {"fault": "sleep", "seconds": seconds, "only_first_attempts": 1}, **more}


def submitted(stage: Stage, *messages: dict[str, Any]) -> list[uuid.UUID]:
    answer = submit_all(stage, messages)
    assert not answer["refused"]
    return [uuid.UUID(one["id"]) for one in answer["submitted"]]


def worker_id(stage: Stage, worker: Worker) -> uuid.UUID:
    """Of the life that the process is in."""
    sql = "SELECT id FROM workers WHERE pid = :pid ORDER BY started_at DESC LIMIT 1"
    rows = stage.table.rows(sql, pid=worker.pid)
    assert rows, "it has no row"
    return uuid.UUID(str(rows[0]["id"]))


def running_on(stage: Stage, worker: uuid.UUID) -> set[uuid.UUID]:
    sql = "SELECT id FROM jobs WHERE state = 'running' AND worker_id = :worker"
    return {row["id"] for row in stage.table.rows(sql, worker=worker)}


def events(stage: Stage, id_: uuid.UUID) -> list[dict[str, Any]]:
    return stage.table.rows("SELECT kind, state, at, worker_id, data FROM job_events WHERE id = :id ORDER BY at", id=id_)


def rows(stage: Stage, ids: list[uuid.UUID]) -> list[dict[str, Any]]:
    return [stage.table.row(id_) for id_ in ids]


def all_done(stage: Stage, ids: list[uuid.UUID]) -> bool:
    return all(row["state"] == "succeeded" for row in rows(stage, ids))


def test_the_jobs_of_a_killed_worker_are_done_by_another_and_nothing_of_it_is_left(
    mill: Stage, survivor: Worker
) -> None:
    survivor.signal(signal.SIGSTOP)  # so that the one that is to die has all the jobs
    victim = mill.worker().wait_until_ready()
    ids = submitted(mill, *[sleep(labels={"set": "killed"})] * 12)
    dead = worker_id(mill, victim)
    until(lambda: running_on(mill, dead) == set(ids), mill)
    processes = victim.executors()
    assert processes
    survivor.signal(signal.SIGCONT)
    new_life = mill.table.rows("SELECT id FROM workers WHERE retired_at IS NULL AND id <> :id", id=dead)
    assert new_life
    victim.kill()
    died = time.monotonic()

    wait_until(lambda: not any(map(alive, processes)), 5, "the end of its executor, which dies with its parent")
    until(lambda: all_done(mill, ids), mill, RECLAIMED_WITHIN_S + 5)
    assert time.monotonic() - died < RECLAIMED_WITHIN_S + 5
    for id_, row in zip(ids, rows(mill, ids), strict=True):
        assert mill.table.events(id_) == ["submitted", "claimed", "lost", "claimed", "succeeded"]
        assert (row["failures"], row["losses"], row["attempt"]) == (0, 1, 2)
        first, lost, second = events(mill, id_)[1:4]
        assert first["worker_id"] == lost["worker_id"] == dead != second["worker_id"]
    assert mill.table.rows("SELECT retired_why FROM workers WHERE id = :id", id=dead)[0]["retired_why"]
