"""The forms of a message in a record, the trace beside it, and where a partition is read from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from config.settings import Settings
from intake.kafka.judge import Judge
from intake.kafka.positions import Committed, Extent, Partition, Positions, Why, begin
from intake.kafka.record import Arrived, Header, envelope_trace, message_in, trace_of
from intake.kafka.watch import Stuck, StuckWatch
from intake.message import Rules
from intake.problems import Code, Refused
from storage.rejections import NewRejection
from tests.unit.message_types import REGISTRY, RULES

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
EVENT = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/t"), ("ce_type", b"job")]
ENVELOPE = {"specversion": "1.0", "id": "1", "source": "/t", "type": "job", "data": {}}
STRUCTURED = ("content-type", b"application/cloudevents+json")
TOPIC, OTHER = "6e9a4c4e-57a5-4c6b-9a43-0d8a3e8f0001", "6e9a4c4e-57a5-4c6b-9a43-0d8a3e8f0002"
HERE = Partition("jobs", 0)


@pytest.fixture(scope="module")
def rules() -> Rules:
    return Rules.of(Settings.load(environ={}, files=[]).settings)


def arrived(value: bytes | None = b"{}", headers: Sequence[Header] = ()) -> Arrived:
    return Arrived("upload", "jobs", 0, 0, 1, None, headers, value)


def refusal(rules: Rules, value: bytes | None, headers: Sequence[Header] = ()) -> list[tuple[str, str]]:
    with pytest.raises(Refused) as refused:
        message_in(arrived(value, headers), rules)
    return [(problem.code, problem.message) for problem in refused.value.problems]


def test_a_bare_message_is_the_value(rules: Rules) -> None:
    assert message_in(arrived(b'{"a": 1}'), rules) == b'{"a": 1}'
    assert message_in(arrived(b'{"a": 1}', [("content-type", b"text/plain"), ("x", None)]), rules) == b'{"a": 1}'


def test_tombstones_and_empty_values_are_refused_in_words(rules: Rules) -> None:
    assert refusal(rules, None) == [(Code.MISSING, "has no value (a tombstone), and jobs are not deleted so")]
    assert refusal(rules, b"") == [(Code.MISSING, "is empty: a value of 0 bytes")]


def test_a_structured_event_is_its_envelope(rules: Rules) -> None:
    value = json.dumps(ENVELOPE).encode()
    assert message_in(arrived(value, [STRUCTURED]), rules) == ENVELOPE
    assert message_in(arrived(value, [("Content-Type", b"application/CloudEvents+json; charset=UTF-8")]), rules)


@pytest.mark.parametrize("value", [b"{}", b"[]", b'"specversion"'])
def test_what_is_called_a_structured_event_must_be_one(rules: Rules, value: bytes) -> None:
    assert [code for code, _ in refusal(rules, value, [STRUCTURED])] == [Code.BAD_ENVELOPE]


def test_a_structured_event_that_is_no_json_or_that_postgres_cannot_hold_is_refused(rules: Rules) -> None:
    assert refusal(rules, b"{", [STRUCTURED])[0][0] is Code.NOT_JSON
    assert refusal(rules, b'{"specversion": "\\u0000"}', [STRUCTURED])[0][0] is Code.BAD_CHARACTER


@pytest.mark.parametrize("media_type", [b"application/cloudevents+avro", b"application/cloudevents-batch+json"])
def test_other_formats_of_events_are_refused_by_name(rules: Rules, media_type: bytes) -> None:
    ((code, message),) = refusal(rules, b"{}", [("content-type", media_type)])
    assert code is Code.BAD_ENVELOPE
    assert media_type.decode() in message


def test_a_binary_event_is_its_value(rules: Rules) -> None:
    assert message_in(arrived(b"{}", EVENT), rules) == b"{}"
    assert message_in(arrived(b"{}", [*EVENT, ("content-type", b"application/json")]), rules) == b"{}"


@pytest.mark.parametrize("missing", range(4))
def test_a_binary_event_without_one_of_its_attributes_is_refused_by_its_name(rules: Rules, missing: int) -> None:
    headers = [header for n, header in enumerate(EVENT) if n != missing]
    assert refusal(rules, b"{}", headers) == [(Code.BAD_ENVELOPE, f"the header {EVENT[missing][0]} is missing")]


def test_everything_that_is_wrong_with_a_binary_event_is_said_at_once(rules: Rules) -> None:
    headers = [("ce_specversion", b"0.3"), ("ce_id", b""), ("ce_source", b"\xff"), ("ce_type", b"a")]
    assert [message for _, message in refusal(rules, b"{}", [*headers, ("content-type", b"text/plain")])] == [
        'the header ce_specversion is "0.3"',
        "the header ce_id is empty or not UTF-8",
        "the header ce_source is empty or not UTF-8",
        'the header content-type is "text/plain"',
    ]


@pytest.mark.parametrize(
    "parent",
    [PARENT, PARENT.replace("-01", "-00"), "01" + PARENT[2:], "cc" + PARENT[2:] + "-what-will-be"],
)
def test_a_trace_is_kept(parent: str) -> None:
    assert trace_of(arrived(headers=[("traceparent", parent.encode())])) == {"traceparent": parent[:55]}


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00",
        PARENT.upper(),
        "ff" + PARENT[2:],
        PARENT + "-more",
        "01" + PARENT[2:] + "more",
        PARENT[:3] + "0" * 32 + PARENT[35:],
        PARENT[:36] + "0" * 16 + PARENT[52:],
        PARENT[:-1],
        PARENT + "\n",
        " " + PARENT,
        "\xff" + PARENT,
    ],
)
def test_a_trace_that_w3c_would_not_take_is_left_out(parent: str) -> None:
    assert trace_of(arrived(headers=[("traceparent", parent.encode("latin-1"))])) is None


def test_two_traces_are_none() -> None:
    assert trace_of(arrived(headers=[("traceparent", PARENT.encode())] * 2)) is None


def test_the_state_of_a_trace_goes_with_it_and_a_malformed_one_is_left_out() -> None:
    def state(*texts: str) -> Any:
        headers = [("traceparent", PARENT.encode()), *(("tracestate", text.encode()) for text in texts)]
        found = trace_of(arrived(headers=headers))
        assert found is not None
        return found.get("tracestate")

    assert state("a=1, b@c=2") == "a=1,b@c=2"
    assert state("a=1", "", "b=2") == "a=1,b=2"
    assert state("") is None
    assert state("A=1") is None
    assert state("a=\x00") is None
    assert state(",".join(f"a{n}=1" for n in range(33))) is None
    assert trace_of(arrived(headers=[("tracestate", b"a=1")])) is None


def test_a_header_goes_before_the_extension_of_an_event() -> None:
    other = PARENT.replace("0af7", "1af7")
    headers = [("ce_traceparent", other.encode()), ("traceparent", PARENT.encode())]
    assert trace_of(arrived(headers=headers)) == {"traceparent": PARENT}
    assert trace_of(arrived(headers=headers[:1])) == {"traceparent": other}


def test_an_envelope_may_have_a_trace() -> None:
    envelope = {**ENVELOPE, "traceparent": PARENT, "tracestate": "a=1"}
    found = {"traceparent": PARENT, "tracestate": "a=1"}
    assert envelope_trace(envelope) == found
    assert envelope_trace(json.dumps(envelope).encode()) == found
    assert envelope_trace({**ENVELOPE, "traceparent": 1}) is None
    assert envelope_trace(json.dumps({"labels": {"traceparent": PARENT, "specversion": "1.0"}}).encode()) is None
    assert envelope_trace(b'"traceparent" "specversion"') is None
    assert envelope_trace(b'{"traceparent": "specversion"}') is None


@pytest.mark.parametrize(
    ("committed", "extent", "offset", "why"),
    [
        (None, Extent(TOPIC, 3, 9), 3, Why.FIRST),
        (Committed(5, TOPIC), Extent(TOPIC, 3, 9), 5, Why.GOES_ON),
        (Committed(9, TOPIC), Extent(TOPIC, 3, 9), 9, Why.GOES_ON),
        (Committed(5, ""), Extent(TOPIC, 3, 9), 5, Why.GOES_ON),
        (Committed(5, TOPIC), Extent("", 3, 9), 5, Why.GOES_ON),
        (Committed(2, TOPIC), Extent(TOPIC, 3, 9), 3, Why.EXPIRED),
        (Committed(2, TOPIC), Extent(TOPIC, 9, 9), 9, Why.EXPIRED),
        (Committed(5, OTHER), Extent(TOPIC, 0, 9), 0, Why.ANEW),
        (Committed(5, OTHER), Extent(TOPIC, 0, 2), 0, Why.ANEW),
        (Committed(5, ""), Extent(TOPIC, 0, 2), 0, Why.ANEW),
    ],
)
def test_a_partition_is_read_from_where_nothing_is_passed_over(
    committed: Committed | None, extent: Extent, offset: int, why: Why
) -> None:
    beginning = begin(committed, extent)
    assert (beginning.offset, beginning.why) == (offset, why)


def test_what_others_write_beside_an_offset_is_no_topic_id() -> None:
    assert Committed.read(5, TOPIC) == Committed(5, TOPIC)
    assert Committed.read(5, None) == Committed.read(5, "by hand") == Committed(5, "")


def test_gaps_before_and_between_records_are_found() -> None:
    positions = Positions()
    positions.begin(HERE, TOPIC, 3)
    assert positions.read(HERE, [3, 4, 5]) == []
    assert positions.read(HERE, [8, 9, 12]) == [(6, 8), (10, 12)]
    assert positions[HERE].next == 13
    assert positions.read(HERE, [0, 1]) == []
    assert positions[HERE].next == 2


def test_a_partition_is_stuck_when_nothing_stops_it_and_it_does_not_move() -> None:
    watch = StuckWatch(60)
    watch.look(HERE, 5, 9, free=True, now=0)
    watch.look(HERE, 5, 9, free=True, now=59)
    with pytest.raises(Stuck, match="jobs/0 stands at 5 of 9 for 60 s"):
        watch.look(HERE, 5, 9, free=True, now=60)


@pytest.mark.parametrize(("next_", "free"), [(6, True), (5, False), (9, True)], ids=["moved", "paused", "at the end"])
def test_a_partition_that_moved_was_paused_or_had_no_more_begins_its_time_anew(next_: int, free: bool) -> None:
    watch = StuckWatch(60)
    watch.look(HERE, 5, 9, free=True, now=0)
    watch.look(HERE, next_, 9, free=free, now=50)
    watch.look(HERE, 6, 9, free=True, now=100)
    watch.forget()
    watch.look(HERE, 6, 9, free=True, now=1000)
    watch.look(HERE, 6, 9, free=True, now=1059)
    with pytest.raises(Stuck, match="stands at 6 of 9"):
        watch.look(HERE, 6, 9, free=True, now=1060)


def test_a_record_whose_type_cannot_be_checked_for_a_fault_in_it_is_kept_as_a_rejection() -> None:
    judge = Judge(REGISTRY, {"upload": RULES}, "1")
    value = b'{"type": "test.careless", "inputs": {"assets": {"one": "s3://media/a"}}}'
    kept = judge(arrived(value), "cluster")
    assert isinstance(kept, NewRejection)
    assert "check_failed" in str(kept)
