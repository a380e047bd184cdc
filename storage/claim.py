"""Taking jobs: claim, what a claimed job read, and the mark of one that runs alone.

Everything here is fenced by `(id, attempt, worker_id)` with `state = 'running'`, and claims take the worker's row
FOR KEY SHARE: a reaper that retires the worker takes it FOR UPDATE, so that one of the two sees the other.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from storage.database import rows_json
from storage.sql import Connection, text


class WorkerRetired(Exception):
    """A reaper has taken this worker for dead: its jobs are others' now, and it must start over with a new id."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Names one attempt of one job by one worker: no write for it counts unless this still holds."""

    id: uuid.UUID
    attempt: int
    worker_id: uuid.UUID

    @property
    def key(self) -> str:
        """How the executor knows the attempt."""
        return f"{self.id}:{self.attempt}"


@dataclass(frozen=True, slots=True)
class Want:
    """How many jobs of a type to take from a lane."""

    lane: str
    type: str
    n: int


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job that this worker runs now."""

    fence: Fence
    type: str
    tenant: str
    lane: str
    failures: int
    losses: int
    crashes: int
    max_attempts: int
    deadline: datetime | None
    timeout_s: float | None
    message: Mapping[str, Any]
    #: What an earlier attempt read, pinned: `{role: {name: {uri, version_id, etag, size, sha256}}}`.
    resolved: Mapping[str, Any] | None
    queued_s: float

    @property
    def runs_alone(self) -> bool:
        """Twice its process died with others in it, or once with it alone: it may be the killer."""
        return self.losses >= 2 or self.crashes >= 1


HOLD_WORKER = text("SELECT true FROM workers WHERE id = :worker AND retired_at IS NULL FOR KEY SHARE")

# jobs_queued, one range per (lane, type): ordered as wanted, so that LIMIT ends the scan.
CLAIM = text("""
    WITH wanted AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(CAST(:wanted AS jsonb)) AS w(lane text, type text, n integer)
    ),
    picked AS MATERIALIZED (
        SELECT q.id FROM wanted w CROSS JOIN LATERAL (
            SELECT id FROM jobs
            WHERE state = 'queued' AND lane = w.lane AND type = w.type AND run_after <= now()
              AND checkpoints <@ CAST(:checkpoints AS text[]) AND (deadline IS NULL OR deadline > now())
            ORDER BY priority DESC, run_after, id
            LIMIT w.n
            FOR UPDATE SKIP LOCKED
        ) AS q
        LIMIT :most
    ),
    claimed AS (
        UPDATE jobs j SET state = 'running', attempt = attempt + 1, worker_id = :worker, claimed_at = clock_timestamp()
        -- By id alone: they are locked, and with the state too the planner may read all that is queued.
        FROM picked WHERE j.id = picked.id
        RETURNING j.*
    ),
    events AS (
        INSERT INTO job_events (id, kind, state, attempt, worker_id)
        SELECT id, 'claimed', 'running', attempt, worker_id FROM claimed
    ),
    counts AS (
        INSERT INTO job_counts (lane, type, tenant, state, delta)
        SELECT lane, type, tenant, s.state, s.sign * count(*)
        FROM claimed CROSS JOIN (VALUES ('queued', -1), ('running', 1)) AS s(state, sign)
        GROUP BY lane, type, tenant, s.state, s.sign
    )
    SELECT c.id, c.attempt, c.type, c.tenant, c.lane, c.failures, c.losses, c.crashes, c.max_attempts, c.deadline,
           c.timeout_s, d.message, d.resolved,
           greatest(extract(epoch FROM c.claimed_at - greatest(c.run_after, c.created_at)), 0)::float AS queued_s
    FROM claimed c JOIN job_details d ON d.id = c.id
    ORDER BY c.priority DESC, c.run_after, c.id
""")


def hold_worker(connection: Connection, worker: uuid.UUID) -> None:
    """Keeps the worker from being retired until the transaction ends. Raises WorkerRetired when it is already."""
    if not connection.scalar(HOLD_WORKER, {"worker": worker}):
        raise WorkerRetired(str(worker))


def claim(
    connection: Connection, worker: uuid.UUID, wanted: Sequence[Want], checkpoints: Sequence[str], *, most: int = 500
) -> list[ClaimedJob]:
    """Takes runnable jobs, most urgent first within each (lane, type), in the order of `wanted`, `most` in all.

    `checkpoints` are the names that this worker has: a job that names others is left to workers that have them.
    Raises WorkerRetired.
    """
    hold_worker(connection, worker)
    rows = connection.execute(
        CLAIM,
        {
            "worker": worker,
            "wanted": rows_json([{"lane": w.lane, "type": w.type, "n": w.n} for w in wanted]),
            "checkpoints": list(checkpoints),
            "most": most,
        },
    )
    return [
        ClaimedJob(
            fence=Fence(row.id, row.attempt, worker),
            type=row.type,
            tenant=row.tenant,
            lane=row.lane,
            failures=row.failures,
            losses=row.losses,
            crashes=row.crashes,
            max_attempts=row.max_attempts,
            deadline=row.deadline,
            timeout_s=row.timeout_s,
            message=row.message,
            resolved=row.resolved,
            queued_s=row.queued_s,
        )
        for row in rows
    ]


# Primary key. Fenced; committed before the job starts alone, so that a death after it is counted as its own.
MARK_ALONE = text("""
    UPDATE jobs SET alone = true
    WHERE id = :id AND attempt = :attempt AND worker_id = :worker AND state = 'running'
    RETURNING id
""")


def mark_alone(connection: Connection, fence: Fence) -> bool:
    """Marks that the job has its worker for itself, until its attempt is settled. False when the fence is lost."""
    marked = connection.execute(
        MARK_ALONE, {"id": fence.id, "attempt": fence.attempt, "worker": fence.worker_id}
    ).first()
    return marked is not None


@dataclass(frozen=True, slots=True)
class PinnedInput:
    """One object that an attempt really read."""

    role: str
    name: str
    bucket: str
    key: str
    version_id: str | None
    etag: str | None
    size: int
    sha256: bytes

    @property
    def version(self) -> str:
        """Names the bytes behind the key: the version id where the bucket has versions, else the ETag."""
        return self.version_id or self.etag or self.sha256.hex()


@dataclass(frozen=True, slots=True)
class Pin:
    """All that an attempt read."""

    fence: Fence
    inputs: Sequence[PinnedInput]


# Primary keys. Later attempts write the same again, since they read what is pinned; after a retry by hand another.
PIN = text("""
    WITH p AS (
        SELECT * FROM jsonb_to_recordset(CAST(:pins AS jsonb)) AS p(
            id uuid, attempt integer, worker uuid, resolved jsonb)
    ),
    i AS (
        SELECT * FROM jsonb_to_recordset(CAST(:inputs AS jsonb)) AS i(
            job_id uuid, role text, name text, bucket text, key text, version text, version_id text, etag text,
            size bigint, content text)
    ),
    held AS (
        SELECT p.* FROM p JOIN jobs j ON j.id = p.id
        WHERE j.attempt = p.attempt AND j.worker_id = p.worker AND j.state = 'running'
        ORDER BY p.id FOR SHARE OF j
    ),
    details AS (
        UPDATE job_details d SET resolved = held.resolved FROM held WHERE d.id = held.id
    ),
    known AS (
        INSERT INTO contents (sha256, size)
        SELECT DISTINCT ON (content) decode(content, 'hex'), size FROM i JOIN held ON held.id = i.job_id
        ORDER BY content
        ON CONFLICT (sha256) DO NOTHING
    ),
    seen AS (
        INSERT INTO objects AS o (bucket, key, version, version_id, etag, content)
        SELECT DISTINCT ON (bucket, key, version) bucket, key, version, version_id, etag, decode(content, 'hex')
        FROM i JOIN held ON held.id = i.job_id ORDER BY bucket, key, version
        ON CONFLICT (bucket, key, version) DO UPDATE
        SET last_seen = now(), content = excluded.content, gone_at = NULL
        WHERE o.last_seen < now() - interval '1 hour' OR o.content <> excluded.content OR o.gone_at IS NOT NULL
    ),
    inputs AS (
        INSERT INTO job_inputs (job_id, role, name, bucket, key, version, content)
        SELECT job_id, role, name, bucket, key, version, decode(content, 'hex')
        FROM i JOIN held ON held.id = i.job_id ORDER BY job_id, role, name
        ON CONFLICT (job_id, role, name) DO UPDATE
        SET bucket = excluded.bucket, key = excluded.key, version = excluded.version, content = excluded.content
    )
    SELECT id FROM held
""")

# embeddings' unique index.
EMBEDDED = text("""
    SELECT encode(e.content, 'hex') AS content FROM embeddings e
    WHERE e.content = ANY(SELECT decode(c, 'hex') FROM unnest(CAST(:contents AS text[])) AS c)
      AND e.space = :space AND e.kind = 'image' AND e.t0 IS NULL
""")


def pin(connection: Connection, pins: Sequence[Pin]) -> set[uuid.UUID]:
    """Records what attempts read. Returns the ids whose fence holds; the others must end without a word."""
    rows = [
        {"id": p.fence.id, "attempt": p.fence.attempt, "worker": p.fence.worker_id, "resolved": _resolved(p.inputs)}
        for p in pins
    ]
    inputs = [
        {
            "job_id": p.fence.id,
            "role": i.role,
            "name": i.name,
            "bucket": i.bucket,
            "key": i.key,
            "version": i.version,
            "version_id": i.version_id,
            "etag": i.etag,
            "size": i.size,
            "content": i.sha256.hex(),
        }
        for p in pins
        for i in p.inputs
    ]
    return set(connection.scalars(PIN, {"pins": rows_json(rows), "inputs": rows_json(inputs)}))


def embedded(connection: Connection, contents: Sequence[str], space: int) -> set[str]:
    """Which of the contents (sha256, hex) have their picture's embedding in the space."""
    if not contents:
        return set()
    return set(connection.scalars(EMBEDDED, {"contents": list(contents), "space": space}))


def _resolved(inputs: Sequence[PinnedInput]) -> dict[str, dict[str, dict[str, Any]]]:
    resolved: dict[str, dict[str, dict[str, Any]]] = {}
    for i in inputs:
        resolved.setdefault(i.role, {})[i.name] = {
            "uri": f"s3://{i.bucket}/{i.key}",
            "version_id": i.version_id,
            "etag": i.etag,
            "size": i.size,
            "sha256": i.sha256.hex(),
        }
    return resolved
