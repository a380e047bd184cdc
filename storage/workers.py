"""Workers as the database knows them: their row, their beat, and the end of one that fell silent."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.claim import WorkerRetired
from storage.database import rows_json
from storage.settle import Ending, Rules, Settlement, settle
from storage.sql import Connection, text

#: Channel that tells workers of a running job somebody wants ended; the payload is the job's id.
CANCEL_CHANNEL = "mediamill_cancel"

REGISTER = text("""
    INSERT INTO workers (id, host, pid, build, devices) VALUES (:id, :host, :pid, :build, CAST(:devices AS jsonb))
""")

# Primary key. Touches no key column, so that it does not wait for the FOR KEY SHARE of claims and records.
BEAT = text("""
    UPDATE workers SET beat = beat + 1, beat_at = clock_timestamp(), doing = CAST(:doing AS jsonb)
    WHERE id = :id AND retired_at IS NULL
    RETURNING beat
""")

# jobs_running
MINE = text("SELECT id, attempt, cancel_requested FROM jobs WHERE worker_id = :id AND state = 'running'")


@dataclass(frozen=True, slots=True)
class Running:
    """A row that the database thinks a worker is running."""

    id: uuid.UUID
    attempt: int
    cancel_requested: bool


def register(
    connection: Connection, worker: uuid.UUID, *, host: str, pid: int, build: str, devices: Sequence[Mapping[str, Any]]
) -> None:
    """Makes the worker's row: a fresh id for each life of a process, since names of hosts come back."""
    connection.execute(
        REGISTER, {"id": worker, "host": host, "pid": pid, "build": build, "devices": rows_json(devices)}
    )


def beat(connection: Connection, worker: uuid.UUID, doing: Mapping[str, Any]) -> int:
    """Says that the worker lives, and what it is doing. Raises WorkerRetired when nobody believes it any more."""
    count = connection.scalar(BEAT, {"id": worker, "doing": rows_json([doing])[1:-1]})
    if count is None:
        raise WorkerRetired(str(worker))
    return int(count)


def running(connection: Connection, worker: uuid.UUID) -> list[Running]:
    """What the database thinks the worker is running."""
    return [Running(row.id, row.attempt, row.cancel_requested) for row in connection.execute(MINE, {"id": worker})]


# workers_live
BEATS = text("SELECT id, beat FROM workers WHERE retired_at IS NULL")

# jobs_running. A claim can commit just before its worker is retired by hand or by a restore: such rows are found here.
ORPHANS = text("""
    SELECT DISTINCT j.worker_id FROM jobs j LEFT JOIN workers w ON w.id = j.worker_id
    WHERE j.state = 'running' AND (w.id IS NULL OR w.retired_at IS NOT NULL)
""")

RETIRE = text("""
    UPDATE workers SET retired_at = clock_timestamp(), retired_why = :why, doing = '{}'
    WHERE id = :id AND retired_at IS NULL
""")

# FOR UPDATE first: it waits for claims and records under way, and later ones see `retired_at`.
STILL_SILENT = text("SELECT true FROM workers WHERE id = :id AND beat = :seen AND retired_at IS NULL FOR UPDATE")


def beats(connection: Connection) -> dict[uuid.UUID, int]:
    """The beat of each worker that is not retired."""
    return {row.id: row.beat for row in connection.execute(BEATS)}


def orphaned(connection: Connection) -> list[uuid.UUID]:
    """Workers that are retired or unknown and still have running rows."""
    return list(connection.scalars(ORPHANS))


def reclaim(connection: Connection, worker: uuid.UUID, *, seen: int, rules: Rules) -> dict[uuid.UUID, str] | None:
    """Retires a worker whose beat is still `seen` and ends its attempts as lost, in the caller's transaction.

    Returns the state that follows for each of its jobs; None when the worker has beaten since.
    """
    if not connection.scalar(STILL_SILENT, {"id": worker, "seen": seen}):
        return None
    connection.execute(RETIRE, {"id": worker, "why": "silent for longer than the lease"})
    return end_running(connection, worker, Ending.LOST, "the worker that ran the job fell silent", rules)


def retire(connection: Connection, worker: uuid.UUID, why: str) -> None:
    """A worker's own last word."""
    connection.execute(RETIRE, {"id": worker, "why": why})


def end_running(
    connection: Connection, worker: uuid.UUID, ending: Ending, message: str, rules: Rules
) -> dict[uuid.UUID, str]:
    """Ends all attempts that the database thinks the worker is running."""
    error = {"type": "WorkerLost", "message": message}
    return settle(
        connection,
        [Settlement(row.id, row.attempt, ending, worker_id=worker, error=error) for row in running(connection, worker)],
        rules,
    )
