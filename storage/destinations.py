"""Where events go: a fact of the deployment, in the database, so that a misconfigured process cannot swallow any.

A destination is made by the first process whose settings have it. After that settings change nothing: people do, by
`mediamill outbox`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from storage.sql import Connection, text

#: The topic of the ends of jobs.
RESULTS: Final = "results"
#: The topic that rejected messages are mirrored to; it gets no events of jobs.
DEAD_LETTER: Final = "dead-letter"
#: Not a row here: a job's message says its own (`callback`). Nothing sends these yet; they wait.
WEBHOOK: Final = "webhook"

# Primary key. The cluster is that of the first process that knows it.
ENSURE = text("""
    INSERT INTO destinations AS old (name, kind, target, cluster_id) VALUES (:name, 'topic', :target, :cluster_id)
    ON CONFLICT (name) DO UPDATE SET cluster_id = excluded.cluster_id
    WHERE old.cluster_id IS NULL AND excluded.cluster_id IS NOT NULL
""")
GET = text("SELECT name, kind, target, enabled, cluster_id FROM destinations WHERE name = :name")
SET_ENABLED = text("UPDATE destinations SET enabled = :enabled WHERE name = :name RETURNING name")
MOVE = text("""
    UPDATE destinations SET target = coalesce(:target, target), cluster_id = coalesce(:cluster_id, cluster_id)
    WHERE name = :name RETURNING name
""")

# outbox_due, outbox_dead: only what still waits or is dead is counted, for each destination apart.
OVERVIEW = text(f"""
    SELECT d.name, d.kind, d.target, d.enabled, d.cluster_id, w.waiting, x.dead, w.oldest,
           coalesce(extract(epoch FROM now() - w.oldest), 0)::double precision AS oldest_s
    FROM (
        SELECT name, kind, target, enabled, cluster_id FROM destinations
        UNION ALL
        SELECT '{WEBHOOK}', 'webhook', NULL, false, NULL
        WHERE EXISTS (SELECT FROM outbox WHERE destination = '{WEBHOOK}' AND dead_at IS NULL)
    ) AS d
    CROSS JOIN LATERAL (
        SELECT count(*) AS waiting, min(created_at) AS oldest
        FROM outbox o WHERE o.destination = d.name AND o.dead_at IS NULL
    ) AS w
    CROSS JOIN LATERAL (
        SELECT count(*) AS dead FROM outbox o WHERE o.destination = d.name AND o.dead_at IS NOT NULL
    ) AS x
    ORDER BY d.name
""")


@dataclass(frozen=True, slots=True)
class Destination:
    """A place that events go to."""

    name: str
    kind: str
    target: str | None
    """The topic; None where each event names its own."""
    enabled: bool
    """Off: no event is written for it, and none of those that wait is published."""
    cluster_id: str | None
    """The Kafka cluster that its topic is on; None until a process has seen it."""


@dataclass(frozen=True, slots=True)
class Backlog(Destination):
    """A destination, and what it has not got yet."""

    waiting: int
    dead: int
    oldest: datetime | None
    """When the oldest event that waits was written."""
    oldest_s: float
    """How long ago that was by the database's clock; 0 where none waits."""


def ensure(connection: Connection, name: str, target: str, cluster_id: str | None = None) -> Destination:
    """The destination; made, and switched on, where there is none of that name.

    One that is there stays as it is, on or off and with its own target, which may differ from `target`. Only a cluster
    that nobody knew yet is noted.
    """
    connection.execute(ENSURE, {"name": name, "target": target, "cluster_id": cluster_id})
    return Destination(*connection.execute(GET, {"name": name}).one())


def set_enabled(connection: Connection, name: str, enabled: bool) -> bool:
    """Switches a destination on or off; False where there is none of that name."""
    return connection.execute(SET_ENABLED, {"name": name, "enabled": enabled}).one_or_none() is not None


def move(connection: Connection, name: str, *, target: str | None = None, cluster_id: str | None = None) -> bool:
    """Changes its topic, its cluster or both; False where there is none of that name.

    What waits goes to the new place, too.
    """
    values = {"name": name, "target": target, "cluster_id": cluster_id}
    return connection.execute(MOVE, values).one_or_none() is not None


def overview(connection: Connection) -> list[Backlog]:
    """All destinations, and `webhook` where something waits for it. Takes time in proportion to what waits."""
    return [Backlog(*row) for row in connection.execute(OVERVIEW)]
