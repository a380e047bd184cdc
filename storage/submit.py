"""New jobs: one transaction for many, each judged by its identity.

Same id and same body: a duplicate. Same id, another body: a conflict. A `dedupe_key` held by another job: that job.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from storage.database import Conflict, Database, rows_json
from storage.sql import Connection, text

#: Channel that tells idle workers of new work; the payload is the lane.
NEW_JOBS_CHANNEL = "mediamill_jobs"


@dataclass(frozen=True, slots=True)
class NewJob:
    """A validated message, ready to become a row."""

    id: uuid.UUID
    type: str
    lane: str
    body_sha256: bytes
    message: Mapping[str, Any]
    tenant: str = "default"
    priority: int = 0
    run_after: datetime | None = None
    deadline: datetime | None = None
    timeout_s: float | None = None
    max_attempts: int = 3
    dedupe_key: str | None = None
    checkpoints: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    trace: Mapping[str, str] | None = None


class Admission(StrEnum):
    """What became of a submitted job."""

    INSERTED = "inserted"
    DUPLICATE = "duplicate"
    """The same id with the same body is there already."""
    CONFLICT = "conflict"
    """The same id is there with another body: refused."""
    DEDUPLICATED = "deduplicated"
    """Another job holds the dedupe key; its id is given."""
    SENT = "sent"
    """Kafka has it; what it becomes is said when a worker has read it."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """The answer for one submitted job: `job_id` is the job that does the work."""

    admission: Admission
    job_id: uuid.UUID


# Primary key of each partition that the ids fall into.
KNOWN = text("SELECT id, body_sha256 FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))")

# job_dedupe's primary key. A key whose time has passed changes hands; the WHERE leaves one that is held as it is.
TAKE_KEYS = text("""
    INSERT INTO job_dedupe AS d (tenant, key, job_id)
    SELECT tenant, key, job_id FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(tenant text, key text, job_id uuid)
    ORDER BY tenant, key
    ON CONFLICT (tenant, key) DO UPDATE SET job_id = excluded.job_id, until = NULL
    WHERE d.until < now() OR d.job_id = excluded.job_id
    RETURNING tenant, key
""")
HOLDERS = text("""
    SELECT d.tenant, d.key, d.job_id
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(tenant text, key text) JOIN job_dedupe d USING (tenant, key)
    WHERE d.until IS NULL OR d.until >= now()
""")

INSERT = text(f"""
    WITH r AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
            id uuid, type text, tenant text, lane text, priority smallint, run_after timestamptz, deadline timestamptz,
            timeout_s real, max_attempts smallint, checkpoints text[], body_sha256 text, message jsonb, labels jsonb,
            trace jsonb)
    ),
    inserted AS (
        INSERT INTO jobs (id, type, tenant, lane, priority, state, run_after, deadline, timeout_s, max_attempts,
                          checkpoints, body_sha256)
        SELECT id, type, tenant, lane, priority, 'queued', coalesce(run_after, now()), deadline, timeout_s,
               max_attempts, checkpoints, decode(body_sha256, 'hex')
        FROM r ORDER BY id
        ON CONFLICT (id) DO NOTHING
        RETURNING id, lane, type, tenant
    ),
    details AS (
        INSERT INTO job_details (id, message, labels, trace)
        SELECT r.id, r.message, r.labels, r.trace FROM r JOIN inserted USING (id)
    ),
    events AS (
        INSERT INTO job_events (id, kind, state, attempt) SELECT id, 'submitted', 'queued', 0 FROM inserted
    ),
    counts AS (
        INSERT INTO job_counts (lane, type, tenant, state, delta)
        SELECT lane, type, tenant, 'queued', count(*) FROM inserted GROUP BY lane, type, tenant
    ),
    told AS (
        SELECT pg_notify('{NEW_JOBS_CHANNEL}', lane) FROM (SELECT DISTINCT lane FROM inserted) AS lanes
    )
    -- The count is what makes Postgres evaluate `told`.
    SELECT id, (SELECT count(*) FROM told) FROM inserted
""")


def submit(database: Database, jobs: Sequence[NewJob]) -> list[Submitted]:
    """Stores new jobs in one transaction and says what became of each, in their order.

    Raises DataError (nothing stored) when Postgres refuses a value: bisect then.
    """
    return database.retrying(lambda connection: submit_within(connection, jobs))


def submit_within(connection: Connection, jobs: Sequence[NewJob]) -> list[Submitted]:
    """As `submit`, inside a transaction of the caller's. Raises Conflict when it is to be run again."""
    bodies = known(connection, [job.id for job in jobs])
    fresh: dict[uuid.UUID, NewJob] = {}
    for job in jobs:
        if job.id not in bodies:
            fresh.setdefault(job.id, job)
    held = _take_keys(connection, list(fresh.values()))
    rows = [job for job in fresh.values() if job.id not in held]
    inserted = set(connection.scalars(INSERT, {"rows": rows_json([_row(job) for job in rows])})) if rows else set()
    # Another session may have inserted the same ids since the first look.
    bodies |= known(connection, [job.id for job in rows if job.id not in inserted])
    return [_judge(job, fresh, inserted, held, bodies) for job in jobs]


def _judge(
    job: NewJob,
    fresh: Mapping[uuid.UUID, NewJob],
    inserted: set[uuid.UUID],
    held: Mapping[uuid.UUID, uuid.UUID],
    bodies: Mapping[uuid.UUID, bytes],
) -> Submitted:
    first = fresh.get(job.id)
    if first is job and job.id in inserted:
        return Submitted(Admission.INSERTED, job.id)
    if job.id in held:
        return Submitted(Admission.DEDUPLICATED, held[job.id])
    body = bodies.get(job.id) or (first.body_sha256 if first else None)
    return Submitted(Admission.DUPLICATE if body == job.body_sha256 else Admission.CONFLICT, job.id)


def known(connection: Connection, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, bytes]:
    """Of those ids that are jobs: sha256 of the body, 32 bytes."""
    if not ids:
        return {}
    return {id_: bytes(body) for id_, body in connection.execute(KNOWN, {"ids": [str(id_) for id_ in ids]})}


def _take_keys(connection: Connection, jobs: Sequence[NewJob]) -> dict[uuid.UUID, uuid.UUID]:
    """Takes the dedupe keys of `jobs`; returns, for those whose key another job holds, that job."""
    keyed = [job for job in jobs if job.dedupe_key is not None]
    if not keyed:
        return {}
    first: dict[tuple[str, str], NewJob] = {}
    for job in keyed:
        assert job.dedupe_key is not None
        first.setdefault((job.tenant, job.dedupe_key), job)
    rows = [{"tenant": tenant, "key": key, "job_id": job.id} for (tenant, key), job in first.items()]
    taken = {(row.tenant, row.key) for row in connection.execute(TAKE_KEYS, {"rows": rows_json(rows)})}
    holding = {key: first[key].id for key in taken}
    holding |= holders(connection, [key for key in first if key not in taken])
    held = {}
    for job in keyed:
        holder = holding.get((job.tenant, job.dedupe_key or ""))
        if holder is None:
            raise Conflict("a dedupe key was freed between two looks at it")
        if holder != job.id:
            held[job.id] = holder
    return held


def holders(connection: Connection, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], uuid.UUID]:
    """Of those dedupe keys (tenant, key) that a job holds: that job."""
    if not keys:
        return {}
    rows = [{"tenant": tenant, "key": key} for tenant, key in keys]
    return {(row.tenant, row.key): row.job_id for row in connection.execute(HOLDERS, {"rows": rows_json(rows)})}


def _row(job: NewJob) -> dict[str, Any]:
    return {
        "id": job.id,
        "type": job.type,
        "tenant": job.tenant,
        "lane": job.lane,
        "priority": job.priority,
        "run_after": job.run_after.isoformat() if job.run_after else None,
        "deadline": job.deadline.isoformat() if job.deadline else None,
        "timeout_s": job.timeout_s,
        "max_attempts": job.max_attempts,
        "checkpoints": list(job.checkpoints),
        "body_sha256": job.body_sha256.hex(),
        "message": job.message,
        "labels": dict(job.labels),
        "trace": job.trace,
    }
