"""What people ask of rejected messages: groups of the same problem, single ones, all of one."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from storage.sql import Connection, text


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rejected messages; every part that is given narrows. Times are those of their arrival."""

    ids: Sequence[uuid.UUID] = ()
    fingerprints: Sequence[str] = ()
    lanes: Sequence[str] = ()
    topics: Sequence[str] = ()
    codes: Sequence[str] = ()
    """Kinds of problem: messages that have one of them."""
    since: datetime | None = None
    until: datetime | None = None
    replayed: bool | None = None
    builds: Sequence[str] = ()
    """Builds that refused them."""
    may_be_newer: bool | None = None

    def sql(self) -> tuple[str, dict[str, Any]]:
        """The WHERE clause over `rejected_messages m`, and its parameters."""
        clauses, values = ["true"], dict[str, Any]()
        for column, wanted in (
            ("fingerprint", self.fingerprints),
            ("lane", self.lanes),
            ("topic", self.topics),
            ("build", self.builds),
        ):
            if len(wanted) == 1:
                # With one value an index that goes on with the time gives the rows in its order.
                clauses.append(f"m.{column} = :{column}")
                values[column] = wanted[0]
            elif wanted:
                clauses.append(f"m.{column} = ANY(:{column})")
                values[column] = list(wanted)
        if self.ids:
            clauses.append("m.id = ANY(CAST(:ids AS uuid[]))")
            values["ids"] = [str(id_) for id_ in self.ids]
        if self.codes:
            clauses.append("EXISTS (SELECT FROM jsonb_array_elements(m.error) AS e WHERE e ->> 'code' = ANY(:codes))")
            values["codes"] = list(self.codes)
        if self.since is not None:
            clauses.append("m.received_at >= :since")
            values["since"] = self.since
        if self.until is not None:
            clauses.append("m.received_at <= :until")
            values["until"] = self.until
        if self.replayed is not None:
            clauses.append(f"m.replayed_at IS {'NOT ' if self.replayed else ''}NULL")
        if self.may_be_newer is not None:
            clauses.append(f"{'' if self.may_be_newer else 'NOT '}m.may_be_newer")
        return " AND ".join(clauses), values

    @property
    def of_groups_alone(self) -> bool:
        """Whether it chooses whole groups."""
        return self == Filter(fingerprints=self.fingerprints, lanes=self.lanes, topics=self.topics)


# For each group its newest message, by rejected_fingerprint.
GROUPS = """
    SELECT g.*, e.error FROM ({groups}) AS g
    LEFT JOIN LATERAL (SELECT error FROM rejected_messages m WHERE m.fingerprint = g.fingerprint
                       ORDER BY received_at DESC, id DESC LIMIT 1) AS e ON true
    ORDER BY g.last DESC, g.fingerprint
"""
# Counts that are kept, and the ends of rejected_fingerprint: no message is counted.
KEPT_GROUPS = """
    SELECT fingerprint, lane, topic, messages, replayed, first, last
    FROM ops.rejected m WHERE {where} ORDER BY last DESC, fingerprint LIMIT :limit
"""
# rejected_received for a time, rejected_fingerprint for groups: index-only, unless kinds of problem are asked for.
COUNTED_GROUPS = """
    SELECT fingerprint, lane, topic, count(*) AS messages, count(replayed_at) AS replayed, min(received_at) AS first,
           max(received_at) AS last
    FROM rejected_messages m WHERE {where} GROUP BY fingerprint, lane, topic
    ORDER BY last DESC, fingerprint LIMIT :limit
"""


def groups(connection: Connection, wanted: Filter, *, limit: int = 50) -> list[dict[str, Any]]:
    """Messages with the same problems in the same lane and topic: how many, when, and the newest one's `error`.

    The group with the newest message first. Without times, codes and states, `first` and `last` are of the fingerprint.
    """
    where, values = wanted.sql()
    inner = KEPT_GROUPS if wanted.of_groups_alone else COUNTED_GROUPS
    rows = connection.execute(text(GROUPS.format(groups=inner.format(where=where))), values | {"limit": limit})
    return [dict(row) for row in rows.mappings()]


COLUMNS = """
    m.id, m.received_at, m.topic, m.partition, m."offset", m.lane, m.sent_at, m.size, m.error, m.fingerprint, m.build,
    m.may_be_newer, m.replayed_at, m.job_id
"""


def find(
    connection: Connection, wanted: Filter, *, limit: int = 50, before: tuple[datetime, uuid.UUID] | None = None
) -> list[dict[str, Any]]:
    """Rejected messages, newest first; `before` is the last one (`received_at`, `id`) of the page before.

    By rejected_received or rejected_fingerprint, backwards.
    """
    where, values = wanted.sql()
    if before is not None:
        where += " AND (m.received_at, m.id) < (:before_at, :before_id)"
        values |= {"before_at": before[0], "before_id": before[1]}
    rows = connection.execute(
        text(
            f"SELECT {COLUMNS} FROM rejected_messages m WHERE {where}"
            " ORDER BY m.received_at DESC, m.id DESC LIMIT :limit"
        ),
        values | {"limit": limit},
    )
    return [dict(row) for row in rows.mappings()]


# Primary keys.
SHOW = text(f"""
    SELECT {COLUMNS}, m.trace, m.kept, m.key, m.headers, m.body, m.body_uri, m.body_at, m.rest, j.state AS job_state
    FROM rejected_messages m LEFT JOIN jobs j ON j.id = m.job_id WHERE m.id = :id
""")


def show(connection: Connection, id_: uuid.UUID) -> SimpleNamespace | None:
    """All of one message's row, by the columns' names, and `job_state`; None where there is none."""
    rows = connection.execute(SHOW, {"id": id_}).mappings()
    return next((SimpleNamespace(**row) for row in rows), None)


#: Among how many of the newest messages a suffix is looked for.
RECENT = 200_000
# rejected_received, backwards
BY_SUFFIX = text("""
    SELECT id FROM (SELECT id FROM rejected_messages ORDER BY received_at DESC, id DESC LIMIT :recent) AS newest
    WHERE right(replace(id::text, '-', ''), length(:suffix)) = :suffix
    LIMIT 10
""")


def by_suffix(connection: Connection, suffix: str, *, recent: int = RECENT) -> Sequence[uuid.UUID]:
    """The messages (10 at most) among the newest whose id ends with `suffix`: hexadecimal digits without hyphens."""
    return list(connection.scalars(BY_SUFFIX, {"suffix": suffix, "recent": recent}))


def until_now(connection: Connection, wanted: Filter) -> Filter:
    """The same filter without messages that come later, so that who works through it comes to an end."""
    now = connection.scalar(text("SELECT now()"))
    return replace(wanted, until=min(now, wanted.until) if wanted.until else now)
