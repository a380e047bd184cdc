"""Messages from a real broker into a real Postgres: what becomes of each kind."""

from __future__ import annotations

import json
import time
import uuid

import pytest
from kafka import KafkaProducer
from structlog.testing import capture_logs

from config.lanes import Lane
from intake.identity import id_from_record, new_id
from intake.kafka.signals import Outcome
from storage.database import Database
from storage.rejections import headers_of
from tests.integration.ingesting import Stage, noop, with_id
from tests.servers.kafka import Kafka

#: Older records expire at once.
SENT_MS = int(time.time() * 1000) - 60_000
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def stage(kafka: Kafka, database: Database) -> Stage:
    return Stage(kafka, database)


def problems(stage: Stage) -> list[tuple[int, str, str]]:
    """Of each rejection: offset, code and sentence of its first problem."""
    rows = stage.table.rows('SELECT "offset", error FROM rejected_messages ORDER BY "offset"')
    return [(row["offset"], row["error"][0]["code"], row["error"][0]["message"]) for row in rows]


def test_a_message_becomes_a_job_of_its_topics_lane_and_its_offset_is_committed(stage: Stage) -> None:
    stage.send(noop(), with_id(), lane="backfill")
    with stage.ingester() as ingester:
        stage.until_committed("backfill", 2)
        stage.until(lambda: ingester.heard.ok, "a good state")
        stage.until(lambda: ingester.heard.lags.get("backfill") == 0, "a look at a lane that is read to its end")
    assert [row["lane"] for row in stage.table.rows("SELECT lane FROM jobs")] == ["backfill"] * 2
    assert ingester.heard.outcomes == {Outcome.JOB: 2}


def test_a_client_chooses_the_id_of_its_job_and_other_records_get_one_of_where_they_are(stage: Stage) -> None:
    chosen = new_id()
    stage.send(noop(id=str(chosen)), timestamp_ms=SENT_MS)
    stage.send(noop(), timestamp_ms=SENT_MS)
    with stage.ingester():
        stage.until_jobs(2)
    derived = id_from_record(SENT_MS, stage.kafka.server.cluster_id, stage.topics["interactive"], 0, 1, noop())
    assert {row["id"] for row in stage.table.rows("SELECT id FROM jobs")} == {chosen, derived}


def test_tombstones_empty_values_and_garbage_are_rejections_and_cost_their_neighbours_nothing(stage: Stage) -> None:
    stage.send(with_id(), key=b"k")
    stage.send(None, key=b"k")
    stage.send(b"", b"\xff\x00garbage", b"[1]", '{"type": "test.noop", "params": {"output_bytes": "\\u0000"}}')
    stage.send(with_id())
    with stage.ingester() as ingester:
        stage.until_committed("interactive", 7)
    assert stage.count() == 2
    assert [(offset, code) for offset, code, _ in problems(stage)] == [
        (1, "missing"),
        (2, "missing"),
        (3, "not_utf8"),
        (4, "not_an_object"),
        (5, "bad_character"),
    ]
    assert "tombstone" in problems(stage)[0][2]
    assert "0 bytes" in problems(stage)[1][2]
    assert ingester.heard.outcomes == {Outcome.JOB: 2, Outcome.REJECTED: 5}


def test_a_rejection_is_kept_byte_for_byte_under_the_id_derived_from_its_record(stage: Stage) -> None:
    headers = [("a", b"1"), ("a", b"\xff"), ("traceparent", TRACEPARENT.encode())]
    stage.send(b"no job", key=b"\x00key", headers=headers, timestamp_ms=SENT_MS)
    with stage.ingester():
        stage.until_committed("interactive", 1)
    (row,) = stage.table.rows("SELECT * FROM rejected_messages")
    topic = stage.topics["interactive"]
    assert row["id"] == id_from_record(SENT_MS, stage.kafka.server.cluster_id, topic, 0, 0, b"no job")
    assert (bytes(row["body"]), bytes(row["key"])) == (b"no job", b"\x00key")
    assert row["headers"][0] == ["a", "1"]
    assert (row["lane"], row["build"], row["trace"]) == ("interactive", "test", {"traceparent": TRACEPARENT})


def test_a_message_in_the_topic_of_another_lane_than_it_names_is_rejected(stage: Stage) -> None:
    stage.send(noop(lane="upload"), noop(lane="interactive"))
    with stage.ingester():
        stage.until_committed("interactive", 2)
    assert [(offset, code) for offset, code, _ in problems(stage)] == [(0, "contradiction")]
    assert stage.count() == 1


def test_an_event_in_an_envelope_is_the_message_inside_with_its_trace(stage: Stage) -> None:
    event = {"specversion": "1.0", "id": "1", "source": "/t", "type": "job", "traceparent": TRACEPARENT}
    event["data"] = {"type": "test.noop"}  # type: ignore[assignment]
    structured = [("content-type", b"application/cloudevents+json; charset=utf-8")]
    stage.send(json.dumps(event), headers=structured)
    stage.send(json.dumps(event))
    stage.send(noop(), headers=structured)
    with stage.ingester():
        stage.until_committed("interactive", 3)
    rows = stage.table.rows("SELECT message, trace FROM job_details")
    assert rows == [{"message": {"type": "test.noop"}, "trace": {"traceparent": TRACEPARENT}}] * 2
    assert [(offset, code) for offset, code, _ in problems(stage)] == [(2, "bad_envelope")]


def test_an_event_in_headers_is_the_message_of_its_value(stage: Stage) -> None:
    event = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/t"), ("ce_type", b"job")]
    stage.send(noop(), headers=[*event, ("ce_traceparent", TRACEPARENT.encode()), ("ce_tracestate", b"a=1")])
    stage.send(noop(), headers=event[1:])
    with stage.ingester():
        stage.until_committed("interactive", 2)
    (row,) = stage.table.rows("SELECT message, trace FROM job_details")
    assert row == {"message": {"type": "test.noop"}, "trace": {"traceparent": TRACEPARENT, "tracestate": "a=1"}}
    assert [(offset, code) for offset, code, _ in problems(stage)] == [(1, "bad_envelope")]
    assert "ce_specversion" in problems(stage)[0][2]


def test_a_malformed_trace_is_left_out_and_the_job_runs(stage: Stage) -> None:
    stage.send(noop(), headers=[("traceparent", b"00-xyz")])
    with stage.ingester():
        stage.until_jobs(1)
    assert stage.table.rows("SELECT trace FROM job_details") == [{"trace": None}]


def test_the_same_id_with_the_same_body_is_a_duplicate_and_with_another_body_a_rejection(stage: Stage) -> None:
    id_ = str(new_id())
    stage.send(noop(id=id_), noop(id=id_), noop(id=id_, priority=1))
    with stage.ingester() as first:
        stage.until_committed("interactive", 3)
    stage.send(noop(id=id_), noop(id=id_, priority=2))
    with stage.ingester() as second:
        stage.until_committed("interactive", 5)
    assert stage.count() == 1
    assert [(offset, code) for offset, code, _ in problems(stage)] == [(2, "contradiction"), (4, "contradiction")]
    assert first.heard.outcomes == {Outcome.JOB: 1, Outcome.DUPLICATE: 1, Outcome.REJECTED: 1}
    assert second.heard.outcomes == {Outcome.DUPLICATE: 1, Outcome.REJECTED: 1}


def test_a_message_whose_dedupe_key_another_job_holds_is_no_second_job(stage: Stage) -> None:
    stage.send(with_id(dedupe_key="k"), with_id(dedupe_key="k"), with_id(dedupe_key="other"))
    with stage.ingester() as ingester:
        stage.until_committed("interactive", 3)
    assert stage.count() == 2
    assert ingester.heard.outcomes == {Outcome.JOB: 2, Outcome.DEDUPLICATED: 1}


def test_a_row_that_postgres_refuses_becomes_a_rejection_and_its_neighbours_are_stored(stage: Stage) -> None:
    stage.table.rows("ALTER TABLE jobs ADD CONSTRAINT no_thirteen CHECK (priority <> 13)")
    stage.send(*(with_id(priority=13 if n in (3, 40) else 0) for n in range(50)), b"garbage")
    with capture_logs() as logs, stage.ingester() as ingester:
        stage.until_committed("interactive", 51)
    assert stage.count() == 48
    assert [offset for offset, _, _ in problems(stage)] == [3, 40, 50]
    assert "no_thirteen" in problems(stage)[0][2]
    assert ingester.heard.outcomes == {Outcome.JOB: 48, Outcome.REJECTED: 3}
    assert [log["log_level"] for log in logs if "Postgres refuses" in log["event"]] == ["error"] * 2


def test_a_rejection_that_postgres_refuses_is_kept_by_its_bytes_alone(stage: Stage) -> None:
    stage.table.rows("ALTER TABLE rejected_messages ADD CONSTRAINT no_headers CHECK (headers = '[]')")
    stage.send(b"garbage", headers=[("a", b"1")])
    stage.send(with_id())
    with stage.ingester():
        stage.until_committed("interactive", 2)
    (row,) = stage.table.rows("SELECT body, headers FROM rejected_messages")
    assert (bytes(row["body"]), row["headers"]) == (b"garbage", [])
    assert stage.count() == 1


@pytest.mark.parametrize("lane", ["interactive", "upload", "backfill"])
def test_each_lane_has_a_topic(stage: Stage, lane: Lane) -> None:
    id_ = new_id()
    stage.send(noop(id=str(id_)), lane=lane)
    with stage.ingester():
        stage.until_committed(lane, 1)
    assert stage.table.rows("SELECT id, lane FROM jobs") == [{"id": uuid.UUID(int=id_.int), "lane": lane}]


def test_what_transactions_have_taken_back_is_no_job_and_their_marks_are_no_loss(stage: Stage) -> None:
    producer = KafkaProducer(bootstrap_servers=stage.kafka.bootstrap, transactional_id=stage.kafka.name("producer"))
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(stage.topics["interactive"], with_id())
    producer.abort_transaction()
    producer.begin_transaction()
    producer.send(stage.topics["interactive"], with_id())
    producer.commit_transaction()
    producer.close()
    with stage.ingester() as ingester:
        stage.until_jobs(1)
        stage.until(lambda: ingester.heard.lags.get("interactive") == 0, "the end")
    assert stage.count() == 1
    assert stage.count("lost_ranges") == 0


class _NotUtf8(str):
    """A header's name that producers in other languages can write."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"\xff\xfe" + super().encode(encoding, errors)


def test_a_header_whose_name_is_no_utf8_stops_nobody_and_is_kept_byte_for_byte(stage: Stage) -> None:
    odd = (_NotUtf8("name"), b"1")
    stage.send(noop(), headers=[odd])
    stage.send(b"no json", headers=[("plain", b"2"), odd])
    stage.send(noop())
    with stage.ingester() as ingester:
        stage.until_committed("interactive", 3)
    assert ingester.heard.outcomes == {Outcome.JOB: 2, Outcome.REJECTED: 1}
    [row] = stage.table.rows("SELECT headers FROM rejected_messages")
    assert headers_of(row["headers"])[1][0].encode("utf-8", "surrogateescape") == b"\xff\xfename"
