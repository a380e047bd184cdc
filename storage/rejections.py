"""Messages that could not become jobs: kept byte for byte, each once, within a budget of bytes.

What came from outside is no text until it is proved to be one: keys and bodies are bytea, a header that JSON cannot say
is base64 in it.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from config.lanes import Lane
from storage.database import rows_json
from storage.destinations import DEAD_LETTER
from storage.sql import Connection, text

#: A header as the log has it: names may come twice, a value may be null.
Header = tuple[str, bytes | None]
#: Kind of the event that tells the dead-letter destination of a rejection.
REJECTED = "mediamill.message.rejected"
#: Longer bodies are left out of that event: topics take a megabyte, and base64 makes a third more of it.
MIRRORED_BYTES = 256 << 10
#: What a header takes beside its name and its value: a record has room for half a million without either.
HEADER_BYTES = 16
#: What one statement carries at most, unless one message alone is more.
STATEMENT_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class BodyPlace:
    """Where in an object of the store the bytes of a message are."""

    uri: str
    at: int
    """Where the body begins."""
    size: int
    """Bytes of the body."""
    rest: int | None = None
    """Bytes of the JSON behind it, with key and headers; None: those are in the row."""


@dataclass(frozen=True)
class NewRejection:
    """A message that cannot become a job. `id`: the one derived from its record, so that a redelivery is the same."""

    id: uuid.UUID
    topic: str | None
    partition: int | None
    offset: int | None
    lane: Lane | None
    key: bytes | None
    headers: Sequence[Header]
    sent_at: datetime | None
    trace: Mapping[str, str] | None
    body: bytes | None
    """None: a tombstone, or it is in the object store."""
    error: Sequence[Mapping[str, str]]
    """Its problems, as JSON."""
    fingerprint: str
    build: str
    """The build that refused it."""
    may_be_newer: bool
    place: BodyPlace | None = None
    """Where the body is, if not in the row; see `storage.rejected_bodies.Overflow`."""

    @cached_property
    def row(self) -> Mapping[str, Any]:
        """As `REJECT` takes it."""
        moved = self.place is not None and self.place.rest is not None
        return {
            "id": str(self.id),
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "lane": self.lane,
            "key": None if self.key is None or moved else base64.b64encode(self.key).decode(),
            "headers": None if moved else headers_json(self.headers),
            "sent_at": self.sent_at.isoformat() if self.sent_at else None,
            "trace": self.trace,
            "size": self.place.size if self.place else len(self.body or b""),
            "body": None if self.body is None or self.place else base64.b64encode(self.body).decode(),
            "body_uri": self.place.uri if self.place else None,
            "body_at": self.place.at if self.place else None,
            "rest": self.place.rest if self.place else None,
            "error": list(self.error),
            "fingerprint": self.fingerprint,
            "build": self.build,
            "may_be_newer": self.may_be_newer,
            "kept": self.kept,
        }

    @cached_property
    def kept(self) -> int:
        """Bytes that its row takes of the budget."""
        own = len(json.dumps(self.error, ensure_ascii=False))
        if self.place is None:
            own += len(self.body or b"")
        if self.place is None or self.place.rest is None:
            own += self.rest_bytes
        return own

    @cached_property
    def rest_bytes(self) -> int:
        """Bytes of key and headers, about as the row keeps them."""
        headers = sum(len(name) + len(value or b"") + HEADER_BYTES for name, value in self.headers)
        return len(self.key or b"") + headers


def headers_json(headers: Sequence[Header]) -> list[list[Any]]:
    """`[[name, value], ...]`: a text as it is, what JSON in Postgres cannot say as `{"base64": ...}`, null as null."""
    return [[said(_name(name)), said(value)] for name, value in headers]


def headers_of(said: Sequence[Sequence[Any]] | None) -> list[Header]:
    """The headers that `headers_json` has written."""
    return [((_bytes(name) or b"").decode("utf-8", "surrogateescape"), _bytes(value)) for name, value in said or ()]


def _name(name: str) -> bytes:
    """Names are UTF-8 by the protocol; bytes that are not come as surrogates (PEP 383)."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")


def said(value: bytes | None) -> Any:
    """A text as it is, what JSON in Postgres cannot say as `{"base64": ...}`, null as null."""
    if value is None:
        return None
    try:
        words = value.decode()
    except UnicodeDecodeError:
        words = "\0"
    return {"base64": base64.b64encode(value).decode()} if "\0" in words else words


def _bytes(said: Any) -> bytes | None:
    if said is None:
        return None
    return base64.b64decode(said["base64"]) if isinstance(said, dict) else str(said).encode()


# rejected_messages' primary key. The mirror: destinations' primary key; no row there, or a disabled one: no event.
REJECT = text(f"""
    WITH r AS (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(
            id uuid, topic text, partition integer, "offset" bigint, lane text, key text, headers jsonb,
            sent_at timestamptz, trace jsonb, size bigint, body text, body_uri text, body_at bigint, rest bigint,
            error jsonb, fingerprint text, build text, may_be_newer boolean, kept bigint)
    ),
    inserted AS (
        INSERT INTO rejected_messages (id, topic, partition, "offset", lane, key, headers, sent_at, trace, size, body,
                                       body_uri, body_at, rest, error, fingerprint, build, may_be_newer, kept)
        SELECT id, topic, partition, "offset", lane, decode(key, 'base64'), headers, sent_at, trace, size,
               decode(body, 'base64'), body_uri, body_at, rest, error, fingerprint, build, may_be_newer, kept
        FROM r ORDER BY id
        ON CONFLICT (id) DO NOTHING
        RETURNING id, fingerprint, lane, topic, kept
    ),
    counts AS (
        INSERT INTO rejected_counts (fingerprint, lane, topic, messages, replayed, bytes)
        SELECT fingerprint, lane, topic, count(*), 0, sum(kept) FROM inserted GROUP BY fingerprint, lane, topic
    ),
    mirrored AS (
        INSERT INTO outbox (event_id, job_id, kind, destination, target, payload)
        SELECT name_based_uuid(concat_ws(' ', r.id, 0, '{REJECTED}', d.name, d.target)), r.id, '{REJECTED}', d.name,
               d.target,
               jsonb_build_object(
                   'id', r.id, 'topic', r.topic, 'partition', r.partition, 'offset', r."offset", 'lane', r.lane,
                   'error', r.error, 'fingerprint', r.fingerprint, 'size', r.size)
               || CASE WHEN r.body_uri IS NOT NULL
                       THEN jsonb_build_object('body_uri', r.body_uri, 'body_at', r.body_at)
                       WHEN r.size <= {MIRRORED_BYTES} THEN jsonb_build_object('body_base64', r.body) ELSE '{{}}' END
               || CASE WHEN length(r.headers::text) <= {MIRRORED_BYTES}
                       THEN jsonb_build_object('headers', r.headers) ELSE '{{}}' END
        FROM inserted i JOIN r USING (id) CROSS JOIN destinations d
        WHERE d.name = '{DEAD_LETTER}' AND d.enabled
        ON CONFLICT (event_id) DO NOTHING
    )
    SELECT count(*) FROM inserted
""")


def reject_within(connection: Connection, rejections: Sequence[NewRejection]) -> int:
    """Keeps rejections within a transaction of the caller's, and says how many were not kept before.

    Their bodies are where `Overflow.place` left them; without it, all in Postgres.
    """
    return sum(
        int(connection.scalar(REJECT, {"rows": rows_json([one.row for one in some])}) or 0)
        for some in _statements(rejections)
    )


def _statements(rejections: Sequence[NewRejection]) -> Iterator[Sequence[NewRejection]]:
    """In parts that one statement carries: many messages of a megabyte would be half a gigabyte of parameter."""
    part, size = list[NewRejection](), 0
    for one in rejections:
        if part and size + one.kept > STATEMENT_BYTES:
            yield part
            part, size = [], 0
        part.append(one)
        size += one.kept
    if part:
        yield part


# rejected_counts, all of it: one row for each fingerprint, lane and topic, and what was appended since the last fold.
USED = text("SELECT coalesce(sum(bytes), 0)::bigint FROM rejected_counts")


def used_bytes(connection: Connection) -> int:
    """Bytes that rejected messages take in Postgres.

    Each transaction that keeps or expires messages appends what it adds or frees, so that nobody waits for a counter
    and nothing is counted that was not committed. A flood of 50,000 messages is some hundred appended rows, which the
    fold sums up. Two processes that look at the same time do not see each other's batch: the budget may be passed by
    as many batches as there are processes.
    """
    return int(connection.scalar(USED) or 0)


# The rows that are left of many deltas; rejected_counts' primary key gives the order.
FOLD = text("""
    WITH old AS (
        DELETE FROM rejected_counts WHERE seq IN (SELECT seq FROM rejected_counts ORDER BY seq LIMIT :most)
        RETURNING fingerprint, lane, topic, messages, replayed, bytes
    )
    INSERT INTO rejected_counts (fingerprint, lane, topic, messages, replayed, bytes)
    SELECT fingerprint, lane, topic, sum(messages), sum(replayed), sum(bytes) FROM old
    GROUP BY fingerprint, lane, topic HAVING sum(messages) <> 0 OR sum(replayed) <> 0 OR sum(bytes) <> 0
""")
ONE_FOLDER = text("SELECT pg_try_advisory_xact_lock(hashtext('mediamill.rejected_counts'))")


def fold_rejected(connection: Connection, *, most: int = 50_000) -> bool:
    """Sums up the appended deltas; False when another maintainer is at it."""
    if not connection.scalar(ONE_FOLDER):
        return False
    connection.execute(FOLD, {"most": most})
    return True


#: Rows of one transaction that forgets.
EXPIRED_AT_ONCE = 5_000
# rejected_received
EXPIRE = text("""
    WITH old AS (
        SELECT id FROM rejected_messages
        WHERE received_at < now() - CAST(:kept AS interval)
        ORDER BY received_at LIMIT :most FOR UPDATE SKIP LOCKED
    ),
    gone AS (
        DELETE FROM rejected_messages m USING old WHERE m.id = old.id
        RETURNING m.fingerprint, m.lane, m.topic, m.replayed_at, m.kept
    ),
    counts AS (
        INSERT INTO rejected_counts (fingerprint, lane, topic, messages, replayed, bytes)
        SELECT fingerprint, lane, topic, -count(*), -count(replayed_at), -sum(kept) FROM gone
        GROUP BY fingerprint, lane, topic
    )
    SELECT count(*) FROM gone
""")


def expire_rejected(connection: Connection, *, kept: timedelta, most: int = EXPIRED_AT_ONCE) -> int:
    """Forgets messages that were rejected longer than `kept` ago, the oldest first; says how many."""
    return int(connection.scalar(EXPIRE, {"kept": f"{kept.total_seconds()} seconds", "most": most}) or 0)
