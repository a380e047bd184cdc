"""Messages that expired unread, topics that are made anew, and reading again since a time."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata
from structlog.testing import capture_logs

from config.lanes import Lane
from intake.kafka.backlog import Backlog
from intake.kafka.errors import BadTopic
from intake.kafka.options import KafkaOptions
from intake.kafka.rewind import GroupHasMembers, rewind
from storage.database import Database
from storage.ingest import acknowledge, lost, unacknowledged
from tests.integration.ingesting import Ingester, Stage, noop, with_id
from tests.servers.kafka import Kafka

LANE: Lane = "interactive"


@pytest.fixture
def stage(kafka: Kafka, database: Database) -> Stage:
    return Stage(kafka, database)


def ranges(stage: Stage) -> list[tuple[int, int]]:
    with stage.database.transaction() as connection:
        return [(one.range.first_offset, one.range.end_offset) for one in lost(connection)]


def read(stage: Stage, n: int) -> None:
    """So many messages are sent and become jobs; nobody reads afterwards."""
    stage.send(*(with_id() for _ in range(n)))
    with stage.ingester():
        stage.until_committed(LANE, n)


def full(stage: Stage) -> Ingester:
    """An ingester whose lane is at its cap: it has 5 jobs of the 5 messages that are there."""
    stage.send(*(with_id() for _ in range(5)))
    ingester = stage.ingester(lane_cap=5).start()
    stage.until(lambda: (LANE, "cap") in ingester.heard.pauses, "a pause")
    stage.until_committed(LANE, 5)
    return ingester


def make_room(stage: Stage) -> None:
    stage.table.rows("UPDATE jobs SET run_after = now() + interval '1 hour'")


# --- what expired


def test_messages_that_expired_while_nobody_read_are_a_lost_range_and_an_alarm(stage: Stage) -> None:
    read(stage, 3)
    topic = stage.topics[LANE]
    stage.send(*(with_id() for _ in range(7)))
    stage.kafka.delete_records(topic, before=8)
    with capture_logs() as logs, stage.ingester() as ingester:
        stage.until_committed(LANE, 10)
    assert ranges(stage) == [(3, 8)]
    assert stage.count() == 5
    assert ingester.heard.lost_messages == {LANE: 5}
    assert [log["log_level"] for log in logs if "expired" in log["event"]] == ["error"]
    with stage.database.transaction() as connection:
        assert lost(connection)[0].range.topic_id == str(stage.kafka.admin.describe_topics([topic])[0]["topic_id"])


def test_messages_that_expire_while_the_lane_is_full_are_a_lost_range(stage: Stage) -> None:
    ingester = full(stage)
    try:
        stage.send(*(with_id() for _ in range(20)))
        stage.kafka.delete_records(stage.topics[LANE], before=15)
        make_room(stage)
        stage.until_committed(LANE, 25)
    finally:
        ingester.stop()
    lost_messages = sum(end - first for first, end in ranges(stage))
    assert lost_messages == ingester.heard.lost_messages[LANE]
    assert stage.count() + lost_messages == 25
    assert lost_messages > 0


def test_messages_that_all_expire_while_the_lane_is_full_are_noticed_without_a_new_one(stage: Stage) -> None:
    ingester = full(stage)
    try:
        stage.send(*(with_id() for _ in range(20)))
        stage.kafka.delete_records(stage.topics[LANE], before=25)
        stage.until(lambda: ingester.heard.lost_messages[LANE] > 0, "the loss")
        stage.until_committed(LANE, 25)
    finally:
        ingester.stop()
    lost_messages = sum(end - first for first, end in ranges(stage))
    assert stage.count() + lost_messages == 25


def test_a_lost_range_is_an_alarm_until_somebody_acknowledges_it(stage: Stage) -> None:
    read(stage, 1)
    stage.send(*(with_id() for _ in range(4)))
    stage.kafka.delete_records(stage.topics[LANE], before=3)
    with stage.ingester():
        stage.until_committed(LANE, 5)
    with stage.database.transaction() as connection:
        assert unacknowledged(connection) == 1
        assert acknowledge(connection, "another topic") == 0
        assert acknowledge(connection, stage.topics[LANE]) == 1
        assert unacknowledged(connection) == 0
        assert len(lost(connection, acknowledged=True)) == 1


# --- made anew


@pytest.mark.parametrize("messages", [2, 9], ids=["shorter than what was read", "longer than what was read"])
def test_a_topic_that_is_made_anew_while_ingest_runs_is_read_from_its_start(stage: Stage, messages: int) -> None:
    stage.send(*(noop() for _ in range(5)))
    with stage.ingester():
        stage.until_committed(LANE, 5)
        stage.kafka.delete(stage.topics[LANE])
        stage.kafka.create_named(stage.topics[LANE])
        stage.send(*(noop(priority=n) for n in range(messages)))
        stage.until_jobs(5 + messages)
        stage.until_committed(LANE, messages)
    assert stage.count() == 5 + messages
    assert stage.count("rejected_messages") == 0
    assert stage.count("lost_ranges") == 0


@pytest.mark.parametrize("messages", [2, 9], ids=["shorter than what was read", "longer than what was read"])
def test_a_topic_that_is_made_anew_while_nobody_reads_is_read_from_its_start(stage: Stage, messages: int) -> None:
    topic = stage.topics[LANE]
    stage.send(*(noop() for _ in range(5)))
    with stage.ingester():
        stage.until_committed(LANE, 5)
    old = stage.kafka.admin.describe_topics([topic])[0]["topic_id"]
    stage.kafka.delete(topic)
    stage.kafka.create_named(topic)
    stage.send(*(noop(priority=n) for n in range(messages)))
    # Brokers forget the offsets of a topic that is deleted; a commit that was under way then is there afterwards.
    late = {TopicPartition(topic, 0): OffsetAndMetadata(5, str(old), -1)}
    stage.kafka.admin.alter_group_offsets(stage.kafka.group, late)
    with stage.ingester():
        stage.until_jobs(5 + messages)
        stage.until_committed(LANE, messages)
    assert stage.count() == 5 + messages
    assert stage.count("lost_ranges") == 0


def test_a_topic_that_is_missing_is_said_and_read_when_it_is_there(stage: Stage) -> None:
    stage.kafka.delete(stage.topics["upload"])
    with stage.ingester() as ingester:
        stage.until(lambda: stage.topics["upload"] in ingester.heard.why, "a bad state")
        stage.send(with_id())
        stage.until_jobs(1)
        stage.kafka.create_named(stage.topics["upload"])
        stage.send(with_id(), lane="upload")
        stage.until_jobs(2)
        stage.until(lambda: ingester.heard.ok, "a good state")
    assert stage.count() == 2


def test_a_topic_that_cannot_be_made_keeps_no_other_from_being_read_and_is_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intake.kafka.ingest.PREPARE_EACH_S", 0.2)
    stage.kafka.delete(stage.topics["backfill"])
    allowed = threading.Event()

    def prepare() -> None:
        if not allowed.is_set():
            raise BadTopic(f"topic {stage.topics['backfill']} cannot be made")
        stage.kafka.create_named(stage.topics["backfill"], 1)

    stage.send(with_id())
    with stage.ingester(prepare=prepare) as ingester:
        stage.until_committed(LANE, 1)
        stage.until(lambda: "there is no topic" in ingester.heard.why, "a bad state")
        allowed.set()
        stage.until(lambda: ingester.heard.ok, "a good state")
        stage.send(with_id(), lane="backfill")
        stage.until_committed("backfill", 1)
    assert stage.count() == 2


# --- read again


@pytest.fixture
def rewinding(stage: Stage) -> Callable[..., Any]:
    options = KafkaOptions((stage.kafka.bootstrap,), request_s=5)

    def go(since: datetime, **more: Any) -> list[tuple[str, int, int]]:
        found = rewind(options, stage.topics, stage.kafka.group, since, **more)
        return [(one.lane, one.before, one.offset) for one in found]

    return go


def test_after_a_restore_everything_since_then_is_there_again_once(stage: Stage, rewinding: Callable[..., Any]) -> None:
    now = datetime.now(UTC)
    for minutes, lane in ((60, LANE), (30, LANE), (10, LANE), (10, "backfill")):
        sent_ms = int((now - timedelta(minutes=minutes)).timestamp() * 1000)
        stage.send(noop(), noop(), lane=lane, timestamp_ms=sent_ms)
    stage.send(b"garbage", timestamp_ms=int(now.timestamp() * 1000))
    with stage.ingester():
        stage.until_committed(LANE, 7)
        stage.until_committed("backfill", 2)
    before = stage.table.rows("SELECT id FROM jobs ORDER BY id")
    stage.table.rows("TRUNCATE rejected_messages")
    for table in ("job_details", "jobs"):  # as a backup of 45 minutes ago would have left them
        stage.table.rows(f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} ORDER BY id OFFSET 3)")

    since = now - timedelta(minutes=45)
    assert rewinding(since, dry_run=True) == [("backfill", 2, 0), (LANE, 7, 2)]
    assert stage.committed() == 7
    assert rewinding(since) == [("backfill", 2, 0), (LANE, 7, 2)]
    assert stage.committed() == 2
    with stage.ingester():
        stage.until_committed(LANE, 7)
        stage.until_committed("backfill", 2)
    rows = stage.table.rows("SELECT id FROM jobs ORDER BY id")
    assert {row["id"] for row in rows} == {row["id"] for row in before}
    assert stage.count("rejected_messages") == 1
    assert rewinding(since + timedelta(days=1)) == [("backfill", 2, 2), (LANE, 7, 7)]


def test_a_group_that_reads_is_not_rewound(stage: Stage, rewinding: Callable[..., Any]) -> None:
    stage.send(with_id())
    with stage.ingester():
        stage.until_committed(LANE, 1)
        with pytest.raises(GroupHasMembers, match=r"1 members .* stop every worker"):
            rewinding(datetime(2020, 1, 1, tzinfo=UTC))
        assert stage.committed() == 1


def test_what_is_not_read_yet_is_never_passed_over_by_a_rewind(stage: Stage, rewinding: Callable[..., Any]) -> None:
    read(stage, 1)
    stage.send(with_id())
    assert rewinding(datetime.now(UTC) + timedelta(days=1)) == [(LANE, 1, 1)]


def test_offsets_of_another_topic_of_that_name_stay_what_they_are_in_a_rewind(
    stage: Stage, rewinding: Callable[..., Any]
) -> None:
    read(stage, 1)
    stage.send(*(with_id() for _ in range(4)), timestamp_ms=int(datetime.now(UTC).timestamp() * 1000) - 3_600_000)
    stage.send(*(with_id() for _ in range(4)))
    # As a mirror brings them over, whose topic has another id.
    other = OffsetAndMetadata(6, str(uuid.uuid4()), -1)
    stage.kafka.admin.alter_group_offsets(stage.kafka.group, {TopicPartition(stage.topics[LANE], 0): other})
    assert rewinding(datetime.now(UTC) - timedelta(minutes=30)) == []
    with stage.ingester():
        stage.until_committed(LANE, 9)
    assert stage.count() == 9


def test_what_waits_in_a_topic_that_was_made_anew_is_all_of_it() -> None:
    assert Backlog(LANE, "t", 0, start=0, committed=7, end=2).waiting == 2
    assert Backlog(LANE, "t", 0, start=3, committed=None, end=9).waiting == 6
