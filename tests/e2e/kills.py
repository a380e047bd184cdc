"""What the tests about deaths share: short leases, a crew of workers, and questions to the history."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.shared import shared_stage, submit_all, until
from tests.e2e.stage import Stage, Worker
from tests.servers.postgres import PostgresServer

LEASE_S, BEAT_S = 3.0, 0.5
#: After a death its jobs are in the queue again within this time: what the design promises.
RECLAIMED_WITHIN_S = LEASE_S + BEAT_S + 5

ENVIRON = {
    "MEDIAMILL_LEASE": f"{LEASE_S}s",
    "MEDIAMILL_BEAT": f"{BEAT_S}s",
    "MEDIAMILL_POLL_INTERVAL_S": "0.3",
    "MEDIAMILL_BACKOFF_BASE_S": "0.2",
}


@contextmanager
def short_leased(folder: Path, server: PostgresServer, template: str, models: Path, **more: str) -> Iterator[Stage]:
    """A deployment with short leases, for a module-scoped fixture."""
    environ = {"MEDIAMILL_MODELS": str(models), **ENVIRON, **more}
    with shared_stage(folder, server, template, environ) as made:
        yield made


def crew(stage: Stage, n: int) -> list[Worker]:
    """Workers that are ready: those of the stage that live, and as many more as are missing."""
    living = [worker for worker in stage.workers if worker.alive]
    living += [stage.worker() for _ in range(n - len(living))]
    return [worker.wait_until_ready() for worker in living]


def fault(kind: str, *, first: int | None = None, params: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A message of `test.fault`; `first` attempts go wrong (None: all). `params` are further ones."""
    given: dict[str, Any] = {"fault": kind, **(params or {})}
    if first is not None:
        given["only_first_attempts"] = first
    return {"type": "test.fault", "params": given, **more}


def sleep(seconds: float, **more: Any) -> dict[str, Any]:
    """A job that does nothing for so long; a second attempt does not even that."""
    return fault("sleep", first=1, params={"seconds": seconds}, **more)


def submitted(stage: Stage, messages: Sequence[dict[str, Any]]) -> list[uuid.UUID]:
    """Submits messages through the command line; their ids in order."""
    answer = submit_all(stage, messages)
    assert not answer["refused"], answer["refused"]
    return [uuid.UUID(one["id"]) for one in answer["submitted"]]


def life(stage: Stage, worker: Worker) -> uuid.UUID:
    """The id that the process works under now."""
    sql = "SELECT id FROM workers WHERE pid = :pid ORDER BY started_at DESC LIMIT 1"
    [row] = stage.table.rows(sql, pid=worker.pid)
    return uuid.UUID(str(row["id"]))


def running_on(stage: Stage, worker: uuid.UUID) -> set[uuid.UUID]:
    """Jobs that a worker has in hand."""
    sql = "SELECT id FROM jobs WHERE state = 'running' AND worker_id = :worker"
    return {row["id"] for row in stage.table.rows(sql, worker=worker)}


def rows(stage: Stage, ids: Sequence[uuid.UUID]) -> list[dict[str, Any]]:
    """Jobs with their details, in the order of the ids."""
    sql = "SELECT * FROM jobs JOIN job_details USING (id) WHERE id = ANY(CAST(:ids AS uuid[]))"
    found = {row["id"]: row for row in stage.table.rows(sql, ids=[str(id_) for id_ in ids])}
    return [found[id_] for id_ in ids]


def history(stage: Stage, id_: uuid.UUID) -> list[dict[str, Any]]:
    """A job's events in order."""
    sql = "SELECT kind, state, at, attempt, worker_id, data FROM job_events WHERE id = :id ORDER BY at"
    return stage.table.rows(sql, id=id_)


def wait_for_state(stage: Stage, ids: Sequence[uuid.UUID], state: str, seconds: float = 60) -> list[dict[str, Any]]:
    """The rows of jobs, once all are in a state."""
    until(lambda: all(row["state"] == state for row in rows(stage, ids)), stage, seconds)
    return rows(stage, ids)


def counters(row: dict[str, Any]) -> dict[str, int]:
    """What counts against a job, without the zeros."""
    return {name: row[name] for name in ("failures", "losses", "crashes", "interruptions") if row[name]}
