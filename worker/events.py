"""Events as they are published: CloudEvents 1.0, structured, as the Kafka binding has it.

Structured and not binary: the value says all by itself, so that it survives mirrors, sinks and consumers that drop
headers, and is readable where it is printed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from config.lanes import Lane
from storage.outbox import Event

#: `source` of all events. With `id` it names an event; ids are unique by themselves.
SOURCE: Final = "/mediamill"
#: What may be of any size in an event: of a job's end, and of a rejected message.
_DROPPABLE: Final = ("result", "body_base64", "headers")
CONTENT_TYPE: Final = b"application/cloudevents+json; charset=UTF-8"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to publish."""

    topic: str
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]]


def outgoing(event: Event) -> Outgoing:
    """The event as a record: keyed by its job, so that a job's events are on one partition, in their order."""
    attributes = {
        "specversion": "1.0",
        "id": str(event.event_id),
        "source": SOURCE,
        "type": event.kind,
        "subject": str(event.job_id),
        "time": event.created_at.isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
    }
    if event.traceparent is not None:
        attributes["traceparent"] = event.traceparent
        if event.tracestate is not None:
            attributes["tracestate"] = event.tracestate
    head = json.dumps(attributes, ensure_ascii=False, separators=(",", ":"))
    # The data is JSON already: parsing it only to write it again would cost more than all the rest.
    value = f'{head[:-1]},"data":{event.data}}}'.encode()
    return Outgoing(event.target, str(event.job_id).encode(), value, (("content-type", CONTENT_TYPE),))


def without_result(event: Event) -> Event | None:
    """The event for a topic that does not take it whole: that the job has ended is news without its result, too.

    None where there is nothing to leave out.
    """
    data = json.loads(event.data)
    if (dropped := [name for name in _DROPPABLE if name in data]) == []:
        return None
    kept = {name: value for name, value in data.items() if name not in dropped}
    kept |= {f"{name}_omitted": True for name in dropped}
    return replace(event, data=json.dumps(kept, ensure_ascii=False, separators=(",", ":")))


class EventArtifact(BaseModel):
    """An output."""

    role: str = Field(description="What it is of the job's outputs.")
    name: str = Field(description="Which of them, where a role has several; else empty.")
    uri: str = Field(description="Where it is: `s3://bucket/key`.")
    media_type: str = Field(description="Its media type.")
    size: int = Field(description="Bytes.")
    sha256: str = Field(description="Digest of its bytes, 64 hexadecimal digits.")


class EventError(BaseModel):
    """Why a job did not succeed. The traceback is left out; `mediamill jobs show` has it."""

    type: str = Field(description="What kind of error: `InvalidInput`, `Timeout`, ...")
    message: str = Field(description="What was wrong.")
    fingerprint: str | None = Field(default=None, description="The same for errors of the same origin.")


class JobEnded(BaseModel):
    """`data` of `mediamill.job.succeeded`, `.failed`, `.cancelled` and `.quarantined`. More keys may be added."""

    id: UUID = Field(description="The job.")
    type: str = Field(description="Its type.")
    state: Literal["succeeded", "failed", "cancelled", "quarantined"] = Field(description="How it ended.")
    attempt: int = Field(description="The attempt that ended it; grows when a job is tried again.")
    tenant: str = Field(description="Whose it is.")
    lane: Lane = Field(description="The lane it came by.")
    labels: dict[str, str] = Field(description="As the message had them.")
    result: dict[str, Any] | None = Field(default=None, description="What the handler gave; only with success.")
    result_omitted: Literal[True] | None = Field(
        default=None, description="The event with it is larger than the topic takes: `mediamill jobs show` has it."
    )
    error: EventError | None = Field(default=None, description="Why not; only without success.")
    artifacts: list[EventArtifact] | None = Field(default=None, description="The stored outputs, where there are any.")
