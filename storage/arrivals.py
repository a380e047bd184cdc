"""What became of messages that were sent by Kafka: jobs, duplicates of other jobs, rejections, or nothing yet."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.sql import Connection, text
from storage.submit import holders, known


@dataclass(frozen=True, slots=True)
class Expected:
    """A message that is on its way."""

    id: uuid.UUID
    """Of the job that it asks for."""
    record_id: uuid.UUID
    """Derived from its record: the id of its rejection, should there be one."""
    body_sha256: bytes
    tenant: str
    dedupe_key: str | None


@dataclass(frozen=True, slots=True)
class Arrived:
    """The job that does the work: its own, or the one that holds its dedupe key."""

    job_id: uuid.UUID


@dataclass(frozen=True, slots=True)
class Refused:
    """It could not become a job."""

    problems: Sequence[Mapping[str, Any]]


# Primary key.
REJECTED = text("SELECT id, error FROM rejected_messages WHERE id = ANY(CAST(:ids AS uuid[]))")


def arrivals(connection: Connection, expected: Sequence[Expected]) -> dict[uuid.UUID, Arrived | Refused]:
    """What is known already, by `record_id`.

    A job with the id and another body is somebody else's: the message will be rejected, but may not be yet.
    """
    if not expected:
        return {}
    bodies = known(connection, [one.id for one in expected])
    keys = [(one.tenant, one.dedupe_key) for one in expected if one.dedupe_key is not None and one.id not in bodies]
    held = holders(connection, keys)
    rows = connection.execute(REJECTED, {"ids": [str(one.record_id) for one in expected]})
    rejected = {row.id: row.error for row in rows}
    found: dict[uuid.UUID, Arrived | Refused] = {}
    for one in expected:
        if bodies.get(one.id) == one.body_sha256:
            # Before the rejection: what one build has refused a newer one may have taken since.
            found[one.record_id] = Arrived(one.id)
        elif one.record_id in rejected:
            found[one.record_id] = Refused(rejected[one.record_id])
        elif one.dedupe_key is not None and (holder := held.get((one.tenant, one.dedupe_key))) is not None:
            found[one.record_id] = Arrived(holder)
    return found
