"""Events as CloudEvents."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime

from storage.outbox import Event
from worker.events import outgoing

JOB, ID = uuid.UUID(int=7), uuid.UUID(int=8)


def event(data: str = '{"a": null}', traceparent: str | None = None, tracestate: str | None = None) -> Event:
    at = datetime(2030, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)
    return Event(1, ID, JOB, "mediamill.job.succeeded", "results", "ends", at, 0, traceparent, tracestate, data)


def test_an_event_is_a_structured_cloudevent_keyed_by_its_job() -> None:
    record = outgoing(event())
    assert (record.topic, record.key) == ("ends", str(JOB).encode())
    assert record.headers == (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
    assert json.loads(record.value) == {
        "specversion": "1.0",
        "id": str(ID),
        "source": "/mediamill",
        "type": "mediamill.job.succeeded",
        "subject": str(JOB),
        "time": "2030-01-31T12:00:00.250000Z",
        "datacontenttype": "application/json",
        "data": {"a": None},
    }


def test_the_trace_of_a_job_goes_on_in_its_event() -> None:
    value = json.loads(outgoing(event(traceparent="00-a-b-01", tracestate="x=ü")).value)
    assert (value["traceparent"], value["tracestate"]) == ("00-a-b-01", "x=ü")
    assert "tracestate" not in json.loads(outgoing(event(traceparent="00-a-b-01")).value)


def test_the_data_is_what_the_outbox_had_to_the_letter() -> None:
    data = '{"n": 12345678901234567890.10, "s": "\\u2028 ü"}'
    assert outgoing(event(data)).value.endswith(f',"data":{data}}}'.encode())
