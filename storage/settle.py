"""How an attempt ends: the one statement through which every job leaves `running` (or leaves the queue unrun).

The rule of what counts against a job stands here once, in SQL, because workers, reapers, cancels and deadlines all end
attempts, and must look at the row's counters, `cancel_requested` and `deadline` under the same lock.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

from config.settings import Settings
from storage.claim import Fence
from storage.database import DataError, rows_json
from storage.destinations import DEAD_LETTER, WEBHOOK
from storage.segment import searchable
from storage.sql import Connection, text

#: Characters of JSON that one statement may carry. Postgres refuses a literal of 512 MiB, and a message of 1 GiB by
#: closing the connection, which would look like an outage, for ever.
MOST_JSON = 64 << 20

FINISHED = ("succeeded", "failed", "cancelled", "quarantined")


class Ending(StrEnum):
    """How an attempt ended. What state follows is decided by the statement."""

    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    """A permanent error: no attempt will go better."""
    FAILED = "failed"
    """The handler said no: counts in `failures`, again until `max_attempts`."""
    LOST = "lost"
    """Its process died: counts in `losses`, or in `crashes` when it was marked as alone."""
    INTERRUPTED = "interrupted"
    """A drain or a deploy: free, and its priority rises."""
    POSTPONED = "postponed"
    """A service that everyone needs was away (the object store): free, tried again after a while."""
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """Its deadline passed."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """An output that is stored."""

    role: str
    bucket: str
    key: str
    media_type: str
    size: int
    sha256: bytes
    name: str = ""
    version_id: str | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class NewText:
    """A searchable text about a content."""

    content: bytes
    kind: str
    text: str
    language: str | None = None
    segments: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class NewEmbedding:
    """A vector of a content; `vector` is pgvector's text form `[x,y,...]`."""

    content: bytes
    space: int
    vector: str
    kind: str = "image"
    t0: float | None = None
    t1: float | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of one attempt, or of a job that is not running (`from_state` says which)."""

    id: uuid.UUID
    attempt: int
    ending: Ending
    worker_id: uuid.UUID | None = None
    from_state: str = "running"
    delay_s: float = 0
    error: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    timings: Mapping[str, float] | None = None
    derivation_key: bytes | None = None
    artifacts: Sequence[Artifact] = ()
    texts: Sequence[NewText] = ()
    embeddings: Sequence[NewEmbedding] = ()
    #: Facts about contents that were found out by decoding: sha256 -> {"mime": ..., "width": ..., ...}.
    probes: Mapping[bytes, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, fence: Fence, ending: Ending, **more: Any) -> Settlement:
        """The end of a running attempt."""
        return cls(fence.id, fence.attempt, ending, worker_id=fence.worker_id, **more)


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that decide what follows an ending."""

    crash_limit: int = 2
    dedupe_ttl: timedelta = timedelta(days=30)
    #: When the outputs of an attempt without success are deleted: by then no upload of it can be under way.
    sweep_after: timedelta = timedelta(hours=1)

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        """As the settings say."""
        return cls(settings.crash_limit, timedelta(seconds=settings.dedupe_ttl))


# `state` after an attempt. Order matters: a success beats a cancel, a cancel beats every way back to the queue.
NEXT_STATE = """
    CASE
        WHEN what = 'succeeded' THEN 'succeeded'
        WHEN what IN ('refused', 'expired') THEN 'failed'
        WHEN what = 'cancelled' OR cancel_requested THEN 'cancelled'
        WHEN what = 'failed' AND failures + 1 >= max_attempts THEN 'failed'
        WHEN what = 'crashed' AND crashes + 1 >= :crash_limit THEN 'quarantined'
        WHEN deadline <= now() THEN 'failed'
        ELSE 'queued'
    END
"""

# Primary keys throughout; rows are locked in the order of their ids, so that two settlements cannot deadlock.
SETTLE = text(f"""
    WITH r AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
            id uuid, attempt integer, worker_id uuid, from_state text, ending text, delay_s double precision,
            error jsonb, result jsonb, timings jsonb, derivation_key text)
    ),
    held AS MATERIALIZED (
        SELECT j.id, j.attempt, j.worker_id, j.type, j.tenant, j.lane, j.failures, j.crashes, j.max_attempts,
               j.cancel_requested, j.deadline, r.from_state, r.delay_s, r.error, r.result, r.timings, r.derivation_key,
               CASE WHEN r.ending = 'lost' AND j.alone THEN 'crashed' ELSE r.ending END AS what
        FROM r JOIN jobs j ON j.id = r.id
        WHERE j.attempt = r.attempt AND j.state = r.from_state AND j.worker_id IS NOT DISTINCT FROM r.worker_id
        ORDER BY j.id FOR UPDATE OF j
    ),
    judged AS MATERIALIZED (
        SELECT held.*, {NEXT_STATE} AS next_state FROM held
    ),
    told AS MATERIALIZED (
        -- `ended_at` is part of the event's id: cancelled, retried and cancelled, a job ends twice within one attempt.
        SELECT judged.*, clock_timestamp() AS ended_at,
               CASE WHEN next_state = 'failed' AND what NOT IN ('refused', 'expired')
                         AND NOT (what = 'failed' AND failures + 1 >= max_attempts)
                    THEN jsonb_build_object('type', 'DeadlineExceeded', 'message',
                             'the deadline passed before another attempt could start', 'before', error)
                    ELSE error END AS final_error
        FROM judged
    ),
    jobs_ AS (
        UPDATE jobs j SET
            state = t.next_state,
            failures = j.failures + (what = 'failed')::int,
            losses = j.losses + (what = 'lost')::int,
            crashes = j.crashes + (what = 'crashed')::int,
            interruptions = j.interruptions + (what = 'interrupted')::int,
            priority = least(j.priority + (what = 'interrupted')::int, 1000),
            alone = false,
            worker_id = CASE WHEN t.next_state = 'queued' THEN NULL ELSE j.worker_id END,
            run_after = CASE WHEN t.next_state = 'queued'
                             THEN now() + make_interval(secs => t.delay_s) ELSE j.run_after END,
            derivation_key = coalesce(decode(t.derivation_key, 'hex'), j.derivation_key),
            finished_at = CASE WHEN t.next_state = 'queued' THEN NULL ELSE t.ended_at END
        FROM told t WHERE j.id = t.id
        RETURNING j.id, t.next_state
    ),
    details AS (
        UPDATE job_details d SET
            result = CASE WHEN t.next_state = 'succeeded' THEN t.result END,
            error = t.final_error,
            timings = coalesce(t.timings, d.timings)
        FROM told t WHERE d.id = t.id
        -- All that the outbox needs: the planner takes `told` for one row, so that a join would be a loop in a loop.
        RETURNING t.*, d.message, d.labels, d.trace
    ),
    events AS (
        INSERT INTO job_events (id, kind, state, attempt, worker_id, data)
        SELECT id, what, next_state, attempt, worker_id,
               nullif(jsonb_strip_nulls(jsonb_build_object(
                   'error', final_error ->> 'type', 'message', left(final_error ->> 'message', 500),
                   'delay_s', CASE WHEN next_state = 'queued' AND delay_s > 0 THEN round(delay_s::numeric, 3) END
               )), '{{}}')
        FROM told
    ),
    counts AS (
        INSERT INTO job_counts (lane, type, tenant, state, delta)
        SELECT lane, type, tenant, c.state, sum(c.delta)
        FROM told CROSS JOIN LATERAL (VALUES (from_state, -1), (next_state, 1)) AS c(state, delta)
        GROUP BY lane, type, tenant, c.state
    ),
    freed AS (
        DELETE FROM job_dedupe d USING told t
        WHERE d.job_id = t.id AND t.next_state IN ('failed', 'cancelled', 'quarantined')
    ),
    kept AS (
        UPDATE job_dedupe d SET until = now() + CAST(:dedupe_ttl AS interval) FROM told t
        WHERE d.job_id = t.id AND t.next_state = 'succeeded'
    ),
    sweeps_ AS (
        INSERT INTO sweeps (job_id, attempt, worker_id, due_at)
        SELECT id, attempt, worker_id, now() + CAST(:sweep_after AS interval) FROM told
        WHERE from_state = 'running' AND next_state <> 'succeeded'
        ON CONFLICT (job_id, attempt) DO NOTHING
    ),
    a AS MATERIALIZED (
        SELECT a.*, t.attempt FROM jsonb_to_recordset(CAST(:artifacts AS jsonb)) AS a(
            job_id uuid, role text, name text, bucket text, key text, version_id text, etag text, media_type text,
            size bigint, content text)
        JOIN told t ON t.id = a.job_id AND t.next_state = 'succeeded'
    ),
    artifacts_ AS (
        INSERT INTO artifacts (job_id, role, name, attempt, bucket, key, version_id, etag, media_type, size, content)
        SELECT job_id, role, name, attempt, bucket, key, version_id, etag, media_type, size, decode(content, 'hex')
        FROM a
    ),
    c AS (
        SELECT content, max(size) AS size, max(mime) AS mime, (max(probe::text))::jsonb AS probe FROM (
            SELECT p.content, NULL::bigint AS size, p.probe ->> 'mime' AS mime, p.probe
            FROM jsonb_to_recordset(CAST(:probes AS jsonb)) AS p(job_id uuid, content text, probe jsonb)
            JOIN told t ON t.id = p.job_id AND t.next_state = 'succeeded'
            UNION ALL
            SELECT content, size, media_type, NULL FROM a
        ) AS all_ GROUP BY content
    ),
    contents_ AS (
        INSERT INTO contents AS old (sha256, size, mime, probe)
        SELECT decode(content, 'hex'), coalesce(size, 0), mime, probe FROM c ORDER BY content
        ON CONFLICT (sha256) DO UPDATE SET mime = coalesce(excluded.mime, old.mime), probe = excluded.probe
        WHERE old.probe IS NULL AND excluded.probe IS NOT NULL
    ),
    texts_ AS (
        INSERT INTO texts (content, job_id, kind, language, text, words, segments)
        SELECT decode(x.content, 'hex'), x.job_id, x.kind, x.language, x.text,
               to_tsvector(CASE WHEN coalesce(x.language, 'en') = 'en' THEN 'english' ELSE 'simple' END::regconfig,
                           x.words),
               x.segments
        FROM jsonb_to_recordset(CAST(:texts AS jsonb)) AS x(
            job_id uuid, content text, kind text, language text, text text, words text, segments jsonb)
        JOIN told t ON t.id = x.job_id AND t.next_state = 'succeeded'
        ON CONFLICT (job_id, content, kind) DO NOTHING
    ),
    embeddings_ AS (
        INSERT INTO embeddings (content, space, kind, t0, t1, vector, job_id)
        SELECT decode(e.content, 'hex'), e.space, e.kind, e.t0, e.t1, CAST(e.vector AS halfvec), e.job_id
        FROM jsonb_to_recordset(CAST(:embeddings AS jsonb)) AS e(
            job_id uuid, content text, space integer, kind text, t0 double precision, t1 double precision, vector text)
        JOIN told t ON t.id = e.job_id AND t.next_state = 'succeeded'
        ORDER BY e.content, e.space, e.kind, e.t0, e.t1
        ON CONFLICT (content, space, kind, t0, t1) DO NOTHING
    ),
    outgoing AS (
        SELECT d.*, 'mediamill.job.' || d.next_state AS kind, to_.name, to_.target
        FROM details d
        CROSS JOIN LATERAL (
            SELECT name, target FROM destinations WHERE enabled AND name <> '{DEAD_LETTER}'
            UNION ALL
            SELECT '{WEBHOOK}', d.message ->> 'callback' WHERE d.message ->> 'callback' IS NOT NULL
        ) AS to_
        WHERE d.next_state <> 'queued'
    ),
    outbox_ AS (
        INSERT INTO outbox (event_id, job_id, kind, destination, target, payload)
        SELECT name_based_uuid(concat_ws(' ', o.id, o.attempt, o.kind, o.name, o.target, o.ended_at)), o.id, o.kind,
               o.name, o.target,
               jsonb_strip_nulls(jsonb_build_object(
                   'id', o.id, 'type', o.type, 'state', o.next_state, 'attempt', o.attempt, 'tenant', o.tenant,
                   'lane', o.lane, 'labels', o.labels, 'trace', o.trace,
                   'error', o.final_error - 'traceback',
                   'artifacts', (SELECT jsonb_agg(jsonb_build_object(
                       'role', a.role, 'name', a.name, 'uri', 's3://' || a.bucket || '/' || a.key,
                       'media_type', a.media_type, 'size', a.size, 'sha256', a.content))
                       FROM a WHERE a.job_id = o.id)))
               -- as the handler gave it: a null within it means something
               || CASE WHEN o.next_state = 'succeeded' AND o.result IS NOT NULL
                       THEN jsonb_build_object('result', o.result) ELSE '{{}}' END
        FROM outgoing o
    )
    SELECT id, next_state FROM jobs_
""")

# job_events_id. The fence failed: was it because an earlier try of the same write had been committed?
MY_SUCCESS = text("""
    SELECT e.id, e.state FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id uuid, attempt integer, worker_id uuid)
    JOIN job_events e ON e.id = r.id AND e.attempt = r.attempt AND e.worker_id IS NOT DISTINCT FROM r.worker_id
    WHERE e.state <> 'running' AND e.kind <> 'submitted'
""")


def settle(connection: Connection, settlements: Sequence[Settlement], rules: Rules) -> dict[uuid.UUID, str]:
    """Ends attempts, with everything that they made, in one statement.

    Returns the state that follows for each job whose fence held. A job that is missing from the answer was not
    touched: it is no longer ours. Raises DataError when Postgres refuses a value, or all together are more than
    MOST_JSON: nothing has happened then.
    """
    if not settlements:
        return {}
    ordered = sorted(settlements, key=lambda s: s.id)
    lists = {
        "rows": rows_json([_row(s) for s in ordered]),
        "artifacts": rows_json([_artifact(s, a) for s in ordered for a in s.artifacts]),
        "probes": rows_json(
            [{"job_id": s.id, "content": c.hex(), "probe": p} for s in ordered for c, p in s.probes.items()]
        ),
        "texts": rows_json([_text(s, t) for s in ordered for t in s.texts]),
        "embeddings": rows_json([_embedding(s, e) for s in ordered for e in s.embeddings]),
    }
    if (length := sum(map(len, lists.values()))) > MOST_JSON:
        raise DataError(f"it takes {length:,} characters of JSON, the limit is {MOST_JSON:,}: write an output file")
    rows = connection.execute(
        SETTLE,
        {
            "crash_limit": rules.crash_limit,
            "sweep_after": f"{rules.sweep_after.total_seconds()} seconds",
            "dedupe_ttl": f"{rules.dedupe_ttl.total_seconds()} seconds",
            **lists,
        },
    )
    return {row.id: row.next_state for row in rows}


def already_settled(connection: Connection, settlements: Sequence[Settlement]) -> dict[uuid.UUID, str]:
    """What an earlier, unanswered try of these settlements has written: id -> the state that it gave the job."""
    if not settlements:
        return {}
    rows = rows_json([{"id": s.id, "attempt": s.attempt, "worker_id": s.worker_id} for s in settlements])
    return {row.id: row.state for row in connection.execute(MY_SUCCESS, {"rows": rows})}


def _row(s: Settlement) -> dict[str, Any]:
    return {
        "id": s.id,
        "attempt": s.attempt,
        "worker_id": s.worker_id,
        "from_state": s.from_state,
        "ending": s.ending.value,
        "delay_s": s.delay_s,
        "error": s.error,
        "result": s.result,
        "timings": s.timings,
        "derivation_key": s.derivation_key.hex() if s.derivation_key else None,
    }


def _artifact(s: Settlement, a: Artifact) -> dict[str, Any]:
    return {
        "job_id": s.id,
        "role": a.role,
        "name": a.name,
        "bucket": a.bucket,
        "key": a.key,
        "version_id": a.version_id,
        "etag": a.etag,
        "media_type": a.media_type,
        "size": a.size,
        "content": a.sha256.hex(),
    }


def _text(s: Settlement, t: NewText) -> dict[str, Any]:
    return {
        "job_id": s.id,
        "content": t.content.hex(),
        "kind": t.kind,
        "language": t.language,
        "text": t.text,
        "words": searchable(t.text),
        "segments": list(t.segments),
    }


def _embedding(s: Settlement, e: NewEmbedding) -> dict[str, Any]:
    return {
        "job_id": s.id,
        "content": e.content.hex(),
        "space": e.space,
        "kind": e.kind,
        "t0": e.t0,
        "t1": e.t1,
        "vector": e.vector,
    }
