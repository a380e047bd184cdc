"""Rejected messages on their way to become jobs after all: taken page by page, locked, marked."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from storage.database import rows_json
from storage.rejected_lookup import Filter
from storage.sql import Connection, text

#: Messages, and bytes of them, that are read at once.
PAGE = 200
PAGE_BYTES = 16 << 20

# rejected_received, rejected_fingerprint or rejected_newer give the order; sizes are looked at before any body is read.
WAITING = """
    SELECT m.id, m.received_at, m.topic, m.lane, m.key, m.headers, m.trace, m.body, m.body_uri, m.body_at, m.size,
           m.rest, m.fingerprint
    FROM (
        SELECT id, sum(bytes) OVER (ORDER BY received_at, id) - bytes AS before
        FROM (
            SELECT m.id, m.received_at, m.size + m.kept AS bytes FROM rejected_messages m
            WHERE {where} AND m.replayed_at IS NULL ORDER BY m.received_at, m.id LIMIT :most
        ) AS oldest
    ) AS page JOIN rejected_messages m ON m.id = page.id
    WHERE page.before < :bytes
    ORDER BY m.received_at, m.id
"""


def waiting(
    connection: Connection, wanted: Filter, *, most: int = PAGE, after: tuple[datetime, uuid.UUID] | None = None
) -> Sequence[Any]:
    """Messages that became no job yet, oldest first: rows for `rejected_bodies.Bodies`, with their columns' names.

    `after`: the last one (`received_at`, `id`) of the page before. At most `most`, fewer where they are large.
    """
    where, values = wanted.sql()
    if after is not None:
        where += " AND (m.received_at, m.id) > (:after_at, :after_id)"
        values |= {"after_at": after[0], "after_id": after[1]}
    values |= {"most": min(most, PAGE), "bytes": PAGE_BYTES}
    return connection.execute(text(WAITING.format(where=where)), values).all()


# Primary key. Rows that another session works on are left to it.
LOCK = text("""
    SELECT id FROM rejected_messages
    WHERE id = ANY(CAST(:ids AS uuid[])) AND replayed_at IS NULL ORDER BY id FOR UPDATE SKIP LOCKED
""")


def lock(connection: Connection, ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Those of the messages that are now this transaction's to replay."""
    return set(connection.scalars(LOCK, {"ids": [str(id_) for id_ in ids]})) if ids else set()


@contextmanager
def undone(connection: Connection) -> Iterator[None]:
    """What is written within is asked for all identities, keys and constraints, and is gone at the end."""
    connection.execute(text("SAVEPOINT trial"))
    yield
    connection.execute(text("ROLLBACK TO SAVEPOINT trial"))


# Primary key.
BECAME = text("""
    WITH done AS (
        UPDATE rejected_messages m SET replayed_at = now(), job_id = r.job_id
        FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(id uuid, job_id uuid) WHERE m.id = r.id
        RETURNING m.fingerprint, m.lane, m.topic
    )
    INSERT INTO rejected_counts (fingerprint, lane, topic, messages, replayed, bytes)
    SELECT fingerprint, lane, topic, 0, count(*), 0 FROM done GROUP BY fingerprint, lane, topic
""")


def became(connection: Connection, jobs: Mapping[uuid.UUID, uuid.UUID]) -> None:
    """Messages, locked before, are jobs now: notes which."""
    if jobs:
        rows = [{"id": id_, "job_id": job_id} for id_, job_id in jobs.items()]
        connection.execute(BECAME, {"rows": rows_json(rows)})


@dataclass(frozen=True, slots=True)
class RefusedAgain:
    """A message that is still no job; `error` is None where it could not be read, and stays what it was."""

    id: uuid.UUID
    build: str
    error: Sequence[Mapping[str, str]] | None = None
    fingerprint: str | None = None
    may_be_newer: bool | None = None


# Primary key. A message with other problems than before is counted elsewhere.
REFUSED_AGAIN = text("""
    WITH r AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
            id uuid, build text, error jsonb, fingerprint text, may_be_newer boolean)
    ),
    moved AS (
        SELECT m.lane, m.topic, m.kept, m.fingerprint AS was, r.fingerprint AS now
        FROM rejected_messages m JOIN r ON r.id = m.id WHERE m.fingerprint <> r.fingerprint
    ),
    noted AS (
        UPDATE rejected_messages m SET build = r.build, error = coalesce(r.error, m.error),
            fingerprint = coalesce(r.fingerprint, m.fingerprint),
            may_be_newer = coalesce(r.may_be_newer, m.may_be_newer)
        FROM r WHERE m.id = r.id
    )
    INSERT INTO rejected_counts (fingerprint, lane, topic, messages, replayed, bytes)
    SELECT c.fingerprint, lane, topic, sum(c.messages), 0, sum(c.messages * kept)
    FROM moved CROSS JOIN LATERAL (VALUES (was, -1), (now, 1)) AS c(fingerprint, messages)
    GROUP BY c.fingerprint, lane, topic
""")


def refused_again(connection: Connection, refusals: Sequence[RefusedAgain]) -> None:
    """Messages, locked before, are still refused: notes by which build, and why."""
    if refusals:
        rows = [
            {
                "id": one.id,
                "build": one.build,
                "error": None if one.error is None else list(one.error),
                "fingerprint": one.fingerprint,
                "may_be_newer": one.may_be_newer,
            }
            for one in refusals
        ]
        connection.execute(REFUSED_AGAIN, {"rows": rows_json(rows)})


# builds' primary key
SEEN = text("INSERT INTO builds (build) VALUES (:build) ON CONFLICT (build) DO NOTHING")
# rejected_newer, once for each build that is in it.
OLDER = text("""
    WITH RECURSIVE refused AS (
        (SELECT build FROM rejected_messages WHERE may_be_newer AND replayed_at IS NULL ORDER BY build LIMIT 1)
        UNION ALL
        SELECT (SELECT m.build FROM rejected_messages m
                WHERE m.may_be_newer AND m.replayed_at IS NULL AND m.build > refused.build ORDER BY m.build LIMIT 1)
        FROM refused WHERE refused.build IS NOT NULL
    )
    SELECT refused.build FROM refused LEFT JOIN builds b USING (build)
    WHERE refused.build <> :build
      AND (b.first_seen IS NULL OR b.first_seen < (SELECT first_seen FROM builds WHERE build = :build))
    ORDER BY 1
""")


def older_builds(connection: Connection, build: str) -> Sequence[str]:
    """Builds that came before `build` and have refused messages that a newer one may know.

    By the order in which the database saw them and not by their names, so that two builds that run side by side during
    a deployment do not validate each other's refusals for ever.
    """
    connection.execute(SEEN, {"build": build})
    return list(connection.scalars(OLDER, {"build": build}))
