"""Events on their way out: leased by a relay, published outside of any transaction, deleted on delivery.

The order of a job's events at a destination is kept: only the oldest that is neither delivered nor dead is ever leased.
One that was refused, or that another relay holds, keeps the younger ones of its job back. A dead one does not: its
reader would hear nothing of the job any more, until somebody looks. Tried again later, it arrives late; readers
tell by the event's `time` and the job's `attempt`.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from storage.database import rows_json
from storage.sql import Connection, text


@dataclass(frozen=True, slots=True)
class Event:
    """A leased event."""

    seq: int
    event_id: uuid.UUID
    job_id: uuid.UUID
    """What it is about: a job, or a rejected message."""
    kind: str
    destination: str
    target: str
    """The destination's topic as it is now."""
    created_at: datetime
    tries: int
    """How often its destination has refused it."""
    traceparent: str | None
    tracestate: str | None
    data: str
    """The payload, as the text of a JSON object, without the trace context."""


@dataclass(frozen=True, slots=True)
class Refused:
    """What a destination said of an event, and what follows."""

    seq: int
    error: str
    delay_s: float
    """Until it is tried again."""
    dead: bool = False
    """It is not, unless somebody asks for it."""


# outbox_due, and outbox_job for each row that it gives. OFFSET 0 keeps the planner from reading all rows for an
# anti-join; `+ 0` and `coalesce` keep it from the other indexes, which look as good to it while it takes the table for
# empty, and cost the square of what waits. What other relays hold is passed over: one batch of each.
LEASE = text("""
    WITH due AS MATERIALIZED (
        SELECT o.seq, d.target, sum(o.size) OVER (PARTITION BY d.name ORDER BY o.next_at, o.seq) - o.size AS before
        FROM destinations d
        CROSS JOIN LATERAL (
            SELECT o.seq, o.next_at, pg_column_size(o.payload) AS size FROM outbox o
            WHERE o.destination = d.name AND o.dead_at IS NULL AND o.next_at <= now()
              AND (o.leased_until IS NULL OR o.leased_until <= now())
              AND NOT EXISTS (
                  SELECT FROM outbox older
                  WHERE older.job_id = o.job_id AND older.destination = o.destination
                    AND older.seq + 0 < o.seq AND coalesce(older.dead_at, 'infinity') = 'infinity'
                  OFFSET 0)
            ORDER BY o.next_at, o.seq LIMIT :most FOR UPDATE SKIP LOCKED
        ) AS o
        WHERE d.kind = 'topic' AND d.enabled AND d.cluster_id = :cluster_id
          AND d.name <> ALL (CAST(:without AS text[]))
    )
    UPDATE outbox o SET leased_by = :relay_id, leased_until = now() + make_interval(secs => :for_s)
    FROM due WHERE o.seq = due.seq AND due.before < :most_bytes
    RETURNING o.seq, o.event_id, o.job_id, o.kind, o.destination, due.target, o.created_at, o.tries,
              o.payload -> 'trace' ->> 'traceparent' AS parent, o.payload -> 'trace' ->> 'tracestate' AS state,
              (o.payload - 'trace')::text AS data
""")

# outbox_pkey. Who has lost the lease meanwhile writes nothing: the event is another's, who will publish it again.
DELIVERED = text("DELETE FROM outbox WHERE seq = ANY(CAST(:seqs AS bigint[])) AND leased_by = :relay_id")
POSTPONE = text("""
    UPDATE outbox SET leased_by = NULL, leased_until = NULL, next_at = now() + make_interval(secs => :delay_s)
    WHERE seq = ANY(CAST(:seqs AS bigint[])) AND leased_by = :relay_id
""")
REFUSED = text("""
    UPDATE outbox o SET leased_by = NULL, leased_until = NULL, tries = o.tries + 1, last_error = r.error,
        next_at = now() + make_interval(secs => r.delay_s), dead_at = CASE WHEN r.dead THEN now() END
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(seq bigint, error text, delay_s double precision, dead boolean)
    WHERE o.seq = r.seq AND o.leased_by = :relay_id
""")


def lease(
    connection: Connection,
    relay_id: uuid.UUID,
    cluster_id: str,
    *,
    most: int = 1000,
    most_bytes: int = 8 << 20,
    for_s: float = 120,
    without: Sequence[str] = (),
) -> list[Event]:
    """Takes events that are due at the destinations on a cluster that are switched on, oldest first; none of those
    that `without` names.

    `most` and `most_bytes` (of payload, as Postgres keeps it; one event may be more) bound each destination apart.
    Leases that have expired are taken over.
    """
    values = {
        "relay_id": relay_id,
        "cluster_id": cluster_id,
        "most": most,
        "most_bytes": most_bytes,
        "for_s": for_s,
        "without": list(without),
    }
    return sorted((Event(*row) for row in connection.execute(LEASE, values)), key=lambda event: event.seq)


def delivered(connection: Connection, relay_id: uuid.UUID, seqs: Sequence[int]) -> int:
    """Forgets events that have arrived; returns how many were still this relay's."""
    if not seqs:
        return 0
    return connection.execute(DELIVERED, {"relay_id": relay_id, "seqs": list(seqs)}).rowcount


def refused(connection: Connection, relay_id: uuid.UUID, refusals: Sequence[Refused]) -> None:
    """Counts refusals: the events are due again after their delay, or dead."""
    if refusals:
        rows = [{"seq": r.seq, "error": r.error, "delay_s": r.delay_s, "dead": r.dead} for r in refusals]
        connection.execute(REFUSED, {"relay_id": relay_id, "rows": rows_json(rows)})


def postpone(connection: Connection, relay_id: uuid.UUID, seqs: Sequence[int], *, delay_s: float) -> None:
    """Hands leased events back, due again after the delay: nothing is known against them."""
    if seqs:
        connection.execute(POSTPONE, {"relay_id": relay_id, "seqs": list(seqs), "delay_s": delay_s})


class EventState(StrEnum):
    """What an event in the outbox waits for."""

    WAITING = "waiting"
    """Its turn."""
    LEASED = "leased"
    """A relay has it in hand."""
    REFUSED = "refused"
    """Its destination did not take it: it is tried again."""
    DEAD = "dead"
    """It is not tried again, unless somebody asks for it."""


_STATE = """
    CASE WHEN o.dead_at IS NOT NULL THEN 'dead' WHEN o.leased_until > now() THEN 'leased'
         WHEN o.tries > 0 THEN 'refused' ELSE 'waiting' END
"""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events; every part that is given narrows. Ages count from `created_at`."""

    seqs: Sequence[int] = ()
    states: Sequence[EventState] = ()
    destinations: Sequence[str] = ()
    kinds: Sequence[str] = ()
    job_ids: Sequence[uuid.UUID] = ()
    newer_than: timedelta | None = None
    older_than: timedelta | None = None

    def sql(self) -> tuple[str, dict[str, Any]]:
        """The WHERE clause over `outbox o`, and its parameters."""
        clauses, values = ["true"], dict[str, Any]()
        for column, type_, wanted in (
            ("o.seq", "bigint", self.seqs),
            (_STATE, "text", [state.value for state in self.states]),
            ("o.destination", "text", self.destinations),
            ("o.kind", "text", self.kinds),
            ("o.job_id", "uuid", [str(id_) for id_ in self.job_ids]),
        ):
            if wanted:
                name = f"list_{len(values)}"
                clauses.append(f"{column} = ANY(CAST(:{name} AS {type_}[]))")
                values[name] = list(wanted)
        if tuple(self.states) == (EventState.DEAD,):
            clauses.append("o.dead_at IS NOT NULL")  # so that outbox_dead is seen to be enough
        if self.newer_than is not None:
            clauses.append("o.created_at > now() - CAST(:newer AS interval)")
            values["newer"] = f"{self.newer_than.total_seconds()} seconds"
        if self.older_than is not None:
            clauses.append("o.created_at < now() - CAST(:older AS interval)")
            values["older"] = f"{self.older_than.total_seconds()} seconds"
        return " AND ".join(clauses), values


def find(connection: Connection, wanted: Filter, *, limit: int, after: int = 0) -> list[dict[str, Any]]:
    """Events, oldest first; `after` is the last `seq` of the page before."""
    where, values = wanted.sql()
    # outbox_pkey: a page is read in the order of seq.
    rows = connection.execute(
        text(f"""
            SELECT o.seq, o.event_id, o.job_id, o.kind, o.destination, coalesce(d.target, o.target) AS target,
                   {_STATE} AS state, o.tries, o.created_at, o.next_at, o.leased_by, o.leased_until, o.dead_at,
                   o.last_error
            FROM outbox o LEFT JOIN destinations d ON d.name = o.destination
            WHERE {where} AND o.seq > :after ORDER BY o.seq LIMIT :limit
        """),
        values | {"after": after, "limit": limit},
    )
    return [dict(row) for row in rows.mappings()]


# outbox_pkey.
RETRY = text(f"""
    WITH wanted AS (
        SELECT o.seq, {_STATE} AS state FROM outbox o
        WHERE o.seq = ANY(CAST(:seqs AS bigint[])) ORDER BY o.seq FOR UPDATE
    ),
    again AS (
        UPDATE outbox o SET dead_at = NULL, tries = 0, next_at = now() FROM wanted w
        WHERE o.seq = w.seq AND w.state IN ('dead', 'refused')
    )
    SELECT seq, state FROM wanted
""")


def retry(connection: Connection, seqs: Sequence[int]) -> dict[int, EventState]:
    """Makes dead and refused events due now, with all their tries; others are left as they are.

    Returns the state each was in; one that is missing from the answer is not in the outbox (any more).
    """
    return {row.seq: EventState(row.state) for row in connection.execute(RETRY, {"seqs": list(seqs)})}
