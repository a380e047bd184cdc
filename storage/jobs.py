"""What people ask of jobs: list, show, cancel, retry; and the end of those whose deadline passed in the queue."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from storage.settle import Ending, Rules, Settlement, settle
from storage.sql import Connection, text
from storage.submit import NEW_JOBS_CHANNEL
from storage.workers import CANCEL_CHANNEL


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs to list; every part that is given narrows. Ages count from `created_at`."""

    states: Sequence[str] = ()
    types: Sequence[str] = ()
    lanes: Sequence[str] = ()
    tenants: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    newer_than: timedelta | None = None
    older_than: timedelta | None = None
    ids: Sequence[uuid.UUID] = ()

    def sql(self) -> tuple[str, dict[str, Any]]:
        """The WHERE clause over `jobs j` and `job_details d`, and its parameters."""
        clauses, values = ["true"], dict[str, Any]()
        for column, wanted in (
            ("state", self.states),
            ("type", self.types),
            ("lane", self.lanes),
            ("tenant", self.tenants),
        ):
            if wanted:
                clauses.append(f"j.{column} = ANY(:{column})")
                values[column] = list(wanted)
        if self.ids:
            clauses.append("j.id = ANY(CAST(:ids AS uuid[]))")
            values["ids"] = [str(id_) for id_ in self.ids]
        if self.labels:
            clauses.append("d.labels @> jsonb_object(CAST(:label_keys AS text[]), CAST(:label_values AS text[]))")
            values |= {"label_keys": list(self.labels), "label_values": list(self.labels.values())}
        if self.newer_than is not None:
            clauses.append("j.created_at > now() - CAST(:newer AS interval)")
            values["newer"] = f"{self.newer_than.total_seconds()} seconds"
        if self.older_than is not None:
            clauses.append("j.created_at < now() - CAST(:older AS interval)")
            values["older"] = f"{self.older_than.total_seconds()} seconds"
        return " AND ".join(clauses), values


COLUMNS = """
    j.id, j.type, j.tenant, j.lane, j.priority, j.state, j.attempt, j.max_attempts, j.failures, j.losses, j.crashes,
    j.interruptions, j.worker_id, j.cancel_requested, j.run_after, j.deadline, j.created_at, j.claimed_at,
    j.finished_at, d.labels, d.error, d.timings
"""


def find(
    connection: Connection, wanted: Filter, *, limit: int = 50, before: uuid.UUID | None = None
) -> list[dict[str, Any]]:
    """Jobs, newest first; `before` is the last id of the page before."""
    where, values = wanted.sql()
    if before is not None:
        where += " AND j.id < :before"
        values["before"] = before
    rows = connection.execute(
        text(
            f"SELECT {COLUMNS} FROM jobs j JOIN job_details d ON d.id = j.id WHERE {where}"
            " ORDER BY j.id DESC LIMIT :limit"
        ),
        values | {"limit": limit},
    )
    return [dict(row) for row in rows.mappings()]


@dataclass(frozen=True, slots=True)
class JobRecord:
    """All that is known of a job."""

    job: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]
    inputs: Sequence[Mapping[str, Any]]
    artifacts: Sequence[Mapping[str, Any]]
    texts: Sequence[Mapping[str, Any]]
    embeddings: Sequence[Mapping[str, Any]]
    #: What its worker said of it with its last beat: stage, seconds, progress, note; empty unless it runs.
    doing: Sequence[Mapping[str, Any]]


def show(connection: Connection, id_: uuid.UUID) -> JobRecord | None:
    """Everything about one job, or None."""

    def rows(sql: str) -> list[dict[str, Any]]:
        return [dict(row) for row in connection.execute(text(sql), {"id": id_}).mappings()]

    job = rows(f"""
        SELECT {COLUMNS}, j.timeout_s, j.checkpoints, d.message, d.resolved, d.result
        FROM jobs j JOIN job_details d ON d.id = j.id WHERE j.id = :id
    """)
    if not job:
        return None
    return JobRecord(
        job=job[0],
        events=rows("SELECT at, kind, state, attempt, worker_id, data FROM job_events WHERE id = :id ORDER BY at"),
        inputs=rows("""
            SELECT role, name, 's3://' || bucket || '/' || key AS uri, version, encode(content, 'hex') AS sha256
            FROM job_inputs WHERE job_id = :id ORDER BY role, name
        """),
        artifacts=rows("""
            SELECT role, name, 's3://' || bucket || '/' || key AS uri, media_type, size,
                   encode(content, 'hex') AS sha256
            FROM artifacts WHERE job_id = :id ORDER BY role, name
        """),
        texts=rows("SELECT kind, language, text, segments FROM texts WHERE job_id = :id ORDER BY seq"),
        embeddings=rows("""
            SELECT encode(e.content, 'hex') AS sha256, s.checkpoint, s.dimension, e.kind, e.t0, e.t1
            FROM embeddings e JOIN embedding_spaces s ON s.id = e.space WHERE e.job_id = :id
        """),
        doing=rows("""
            SELECT said ->> 'stage' AS stage, (said ->> 'seconds')::float AS seconds,
                   (said ->> 'progress')::float AS progress, said ->> 'note' AS note
            FROM jobs j JOIN workers w ON w.id = j.worker_id
            CROSS JOIN jsonb_array_elements(w.doing -> 'oldest') AS said
            WHERE j.id = :id AND j.state = 'running' AND said ->> 'id' = j.id::text
        """),
    )


# Primary keys. Locked first, so that the state each is judged by is the state it is in.
LOCK = text("""
    SELECT id, attempt, state FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE
""")
ASK_TO_CANCEL = text(f"""
    WITH asked AS (
        UPDATE jobs SET cancel_requested = true
        WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'running' AND NOT cancel_requested
        RETURNING id, attempt, worker_id
    ),
    events AS (
        INSERT INTO job_events (id, kind, state, attempt, worker_id)
        SELECT id, 'cancel requested', 'running', attempt, worker_id FROM asked
    )
    SELECT id, pg_notify('{CANCEL_CHANNEL}', id::text) FROM asked
""")


class CancelAnswer(StrEnum):
    """What a cancel did."""

    CANCELLED = "cancelled"
    """It was waiting or queued: it ended at once."""
    REQUESTED = "cancel requested"
    """It is running: its worker is told."""
    FINISHED = "already finished"
    UNKNOWN = "unknown"


def cancel(connection: Connection, ids: Sequence[uuid.UUID], rules: Rules) -> dict[uuid.UUID, CancelAnswer]:
    """Ends jobs that nobody wants any more."""
    states = {row.id: row for row in connection.execute(LOCK, {"ids": [str(id_) for id_ in ids]})}
    still = [row for row in states.values() if row.state in ("waiting", "queued")]
    error = {"type": "Cancelled", "message": "cancelled before it ran"}
    settle(
        connection,
        [Settlement(row.id, row.attempt, Ending.CANCELLED, from_state=row.state, error=error) for row in still],
        rules,
    )
    running = [str(row.id) for row in states.values() if row.state == "running"]
    if running:
        connection.execute(ASK_TO_CANCEL, {"ids": running})
    answers = {"waiting": CancelAnswer.CANCELLED, "queued": CancelAnswer.CANCELLED, "running": CancelAnswer.REQUESTED}
    return {
        id_: answers.get(states[id_].state, CancelAnswer.FINISHED) if id_ in states else CancelAnswer.UNKNOWN
        for id_ in ids
    }


# Primary keys. What counted against the job is forgotten; its history is not.
RETRY = text(f"""
    WITH wanted AS (
        SELECT j.id, j.lane, j.type, j.tenant, j.state, j.attempt, d.message ->> 'dedupe_key' AS key
        FROM jobs j JOIN job_details d ON d.id = j.id
        WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.state IN ('failed', 'cancelled', 'quarantined')
        ORDER BY j.id FOR UPDATE OF j
    ),
    keys AS (
        INSERT INTO job_dedupe AS k (tenant, key, job_id)
        SELECT DISTINCT ON (tenant, key) tenant, key, id FROM wanted WHERE key IS NOT NULL ORDER BY tenant, key, id
        ON CONFLICT (tenant, key) DO UPDATE SET job_id = excluded.job_id, until = NULL WHERE k.until < now()
        RETURNING job_id
    ),
    again AS (
        UPDATE jobs j SET state = 'queued', failures = 0, losses = 0, crashes = 0, cancel_requested = false,
            worker_id = NULL, finished_at = NULL, run_after = now(),
            deadline = CASE WHEN deadline > now() THEN deadline END
        FROM wanted w WHERE j.id = w.id AND (w.key IS NULL OR w.id IN (SELECT job_id FROM keys))
        RETURNING j.id
    ),
    details AS (
        UPDATE job_details d SET error = NULL, resolved = NULL FROM again WHERE d.id = again.id
    ),
    events AS (
        INSERT INTO job_events (id, kind, state, attempt)
        SELECT id, 'retried', 'queued', attempt FROM wanted WHERE id IN (SELECT id FROM again)
    ),
    counts AS (
        INSERT INTO job_counts (lane, type, tenant, state, delta)
        SELECT lane, type, tenant, c.state, sum(c.delta)
        FROM wanted CROSS JOIN LATERAL (VALUES (state, -1), ('queued', 1)) AS c(state, delta)
        WHERE id IN (SELECT id FROM again)
        GROUP BY lane, type, tenant, c.state
    ),
    told AS (
        SELECT pg_notify('{NEW_JOBS_CHANNEL}', lane) FROM (
            SELECT DISTINCT lane FROM wanted WHERE id IN (SELECT id FROM again)) AS lanes
    )
    SELECT id, (SELECT count(*) FROM told) FROM again
""")


def retry(connection: Connection, ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Puts failed, cancelled and quarantined jobs back into the queue with clean counters; returns their ids.

    What an earlier attempt read is no longer pinned: who retries may have put a better object there.

    A deadline that has passed is dropped: whoever retries wants the result. A job whose dedupe key another job has
    taken since stays as it is.
    """
    return set(connection.scalars(RETRY, {"ids": [str(id_) for id_ in ids]}))


# jobs_deadline
OVERDUE = text("""
    SELECT id, attempt, state FROM jobs
    WHERE state IN ('queued', 'waiting') AND deadline <= now()
    ORDER BY deadline LIMIT 1000 FOR UPDATE SKIP LOCKED
""")


def expire(connection: Connection, rules: Rules) -> dict[uuid.UUID, str]:
    """Fails queued jobs whose deadline has passed (1,000 at most a call)."""
    error = {"type": "DeadlineExceeded", "message": "the deadline passed while the job was queued"}
    overdue = connection.execute(OVERDUE).all()
    return settle(
        connection,
        [Settlement(row.id, row.attempt, Ending.EXPIRED, from_state=row.state, error=error) for row in overdue],
        rules,
    )


# The one row that is left of many deltas; jobs_counts' primary key gives the order.
FOLD = text("""
    WITH old AS (
        DELETE FROM job_counts WHERE seq IN (SELECT seq FROM job_counts ORDER BY seq LIMIT :most)
        RETURNING lane, type, tenant, state, delta
    )
    INSERT INTO job_counts (lane, type, tenant, state, delta)
    SELECT lane, type, tenant, state, sum(delta) FROM old
    GROUP BY lane, type, tenant, state HAVING sum(delta) <> 0
""")
ONE_FOLDER = text("SELECT pg_try_advisory_xact_lock(hashtext('mediamill.job_counts'))")


def fold_counts(connection: Connection, *, most: int = 50_000) -> bool:
    """Sums up the appended deltas; False when another maintainer is at it."""
    if not connection.scalar(ONE_FOLDER):
        return False
    connection.execute(FOLD, {"most": most})
    return True


# job_dedupe_until
FORGET_KEYS = text("DELETE FROM job_dedupe WHERE until < now()")
# A worker's row is of use as long as the history that names it.
FORGET_WORKERS = text("DELETE FROM workers WHERE retired_at < now() - CAST(:kept AS interval)")


def forget(connection: Connection, *, kept: timedelta) -> None:
    """Deletes dedupe keys whose time has passed, and workers that were retired longer than `kept` ago."""
    connection.execute(FORGET_KEYS)
    connection.execute(FORGET_WORKERS, {"kept": f"{kept.total_seconds()} seconds"})


def counts(connection: Connection) -> list[dict[str, Any]]:
    """Jobs by lane, type, tenant and state, without counting any."""
    return [
        dict(row) for row in connection.execute(text("SELECT * FROM ops.job_counts ORDER BY 1, 2, 3, 4")).mappings()
    ]


def finished_at(connection: Connection, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, tuple[str, datetime | None]]:
    """State and time of end of the given jobs (primary keys): what a waiting client polls."""
    rows = connection.execute(
        text("SELECT id, state, finished_at FROM jobs WHERE id = ANY(CAST(:ids AS uuid[]))"),
        {"ids": [str(id_) for id_ in ids]},
    )
    return {row.id: (row.state, row.finished_at) for row in rows}
