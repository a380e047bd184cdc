"""The relay between a real Postgres and a real broker."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from console.publishing import KafkaEvents
from intake.kafka.options import KafkaOptions
from intake.kafka.topics import Wanted
from intake.kafka.topics import ensure as ensure_topics
from storage import outbox
from storage.database import Database
from storage.settle import Ending
from tests.fixtures import JobTable
from tests.integration.relaying import QUICK, Running, end_jobs, ensure, outbox_rows, relaying
from tests.servers.kafka import Kafka
from tests.servers.leashed import wait_until
from worker.events import JobEnded, Outgoing
from worker.publisher import Refusal


def publishing(kafka: Kafka, timeout_s: float = 10) -> KafkaEvents:
    return KafkaEvents(KafkaOptions((kafka.bootstrap,), request_s=2), timeout_s=timeout_s)


def published(kafka: Kafka, topic: str, count: int | None = None) -> list[dict[str, Any]]:
    return [json.loads(record.value) for record in kafka.consume(topic, count)]


def test_every_end_is_one_record_keyed_by_its_job(kafka: Kafka, database: Database, table: JobTable) -> None:
    topics = {"results": kafka.create("results", 3)}
    ensure(database, kafka.server.cluster_id, topics)
    ends = (Ending.SUCCEEDED, Ending.REFUSED, Ending.CANCELLED)
    ids = [id_ for ending in ends for id_ in end_jobs(table, ending=ending, trace={"traceparent": "00-a-b-01"})]
    with publishing(kafka) as publisher, relaying(database, publisher, topics=topics):
        wait_until(lambda: not outbox_rows(table), 20, "an empty outbox")
    records = kafka.consume(topics["results"], 3)
    assert {record.key.decode() for record in records} == set(map(str, ids))
    assert all(("content-type", b"application/cloudevents+json; charset=UTF-8") in record.headers for record in records)
    events = {event["subject"]: event for event in (json.loads(record.value) for record in records)}
    for id_, state in zip(ids, ("succeeded", "failed", "cancelled"), strict=True):
        event = events[str(id_)]
        assert (event["type"], event["traceparent"]) == (f"mediamill.job.{state}", "00-a-b-01")
        assert JobEnded.model_validate(event["data"]).state == state


def test_a_broker_that_is_killed_delays_and_loses_nothing(
    own_kafka: Kafka, database: Database, table: JobTable
) -> None:
    topics = {"results": own_kafka.create("results")}
    ensure(database, own_kafka.server.cluster_id, topics)
    with (
        capture_logs() as logs,
        publishing(own_kafka, timeout_s=2) as publisher,
        relaying(database, publisher, topics=topics) as running,
    ):
        end_jobs(table, 3)
        wait_until(lambda: not outbox_rows(table), 20, "an empty outbox")
        own_kafka.server.kill()
        ids = end_jobs(table, 3)
        wait_until(lambda: (check := running.outbox()) is not None and not check.ok, 30, "bad health")
        own_kafka.server.start()
        wait_until(lambda: not outbox_rows(table), 60, "an empty outbox")
    told = Counter(event["subject"] for event in published(own_kafka, topics["results"]))
    assert len(told) == 6
    assert set(map(str, ids)) <= set(told)
    relays = [entry["event"] for entry in logs if entry["event"].startswith("the broker")]
    assert relays == ["the broker does not answer; events wait in the outbox", "the broker answers again"]
    assert len(logs) < 10


def test_an_event_that_is_too_large_is_dead_and_holds_up_no_other(
    kafka: Kafka, database: Database, table: JobTable
) -> None:
    topics = {"results": kafka.create("results", max_message_bytes=3000)}
    ensure(database, kafka.server.cluster_id, topics)
    ids = end_jobs(table, 4)
    large = end_jobs(table, labels={"long": "x" * 5000})
    ids += end_jobs(table, 4)
    with publishing(kafka) as publisher, relaying(database, publisher, topics=topics):
        wait_until(lambda: [row["dead_at"] is not None for row in outbox_rows(table)] == [True], 20, "one dead event")
    with database.transaction() as connection:
        (dead,) = outbox.find(connection, outbox.Filter(), limit=10)
    assert (dead["job_id"], dead["state"], dead["tries"]) == (large[0], "dead", QUICK.tries)
    assert dead["last_error"].startswith("MESSAGE_SIZE_TOO_LARGE: ")
    assert "an event of 5," in dead["last_error"]
    assert {event["subject"] for event in published(kafka, topics["results"])} == set(map(str, ids))


def test_events_for_a_topic_that_is_missing_wait_with_all_their_tries_until_it_is_there(
    kafka: Kafka, database: Database, table: JobTable
) -> None:
    topics = {"results": kafka.name("results")}
    ensure(database, kafka.server.cluster_id, topics)
    end_jobs(table, 2)
    with publishing(kafka) as publisher, relaying(database, publisher, topics=topics) as running:
        wait_until(lambda: "results takes nothing: there is no topic" in str(running.outbox()), 20, "bad health")
        assert [row["tries"] for row in outbox_rows(table)] == [0, 0]
        kafka.create("results")
        wait_until(lambda: not outbox_rows(table), 20, "an empty outbox")
    assert len(published(kafka, topics["results"])) == 2


def test_topics_that_are_deleted_while_the_relay_runs_are_made_again(
    kafka: Kafka, database: Database, table: JobTable
) -> None:
    topics = {"results": kafka.create("results")}
    ensure(database, kafka.server.cluster_id, topics)
    options = KafkaOptions((kafka.bootstrap,), request_s=2)
    wanted = [Wanted(topics["results"], 1, 1, 3600)]
    with (
        KafkaEvents(options, prepare=lambda: ensure_topics(options, wanted, create=True), timeout_s=2) as publisher,
        relaying(database, publisher, topics=topics),
    ):
        end_jobs(table)
        wait_until(lambda: not outbox_rows(table), 20, "an empty outbox")
        kafka.delete(topics["results"])
        end_jobs(table)
        wait_until(lambda: not outbox_rows(table), 30, "an empty outbox")
    assert len(published(kafka, topics["results"])) == 1


def test_a_result_that_is_too_large_for_the_topic_is_left_out_of_its_event(
    kafka: Kafka, database: Database, table: JobTable
) -> None:
    topics = {"results": kafka.create("results", max_message_bytes=3000)}
    ensure(database, kafka.server.cluster_id, topics)
    ids = end_jobs(table, 3)
    table.rows("UPDATE outbox SET payload = payload || CAST(:more AS jsonb) WHERE job_id = :id", id=ids[1],
               more=json.dumps({"result": {"text": "x" * 5000}}))  # fmt: skip
    with publishing(kafka) as publisher, relaying(database, publisher, topics=topics):
        wait_until(lambda: not outbox_rows(table), 20, "an empty outbox")
    events = {event["subject"]: JobEnded.model_validate(event["data"]) for event in published(kafka, topics["results"])}
    assert [events[str(id_)].result_omitted for id_ in ids] == [None, True, None]
    assert events[str(ids[1])].state == "succeeded"


def test_two_relays_publish_each_event_once(kafka: Kafka, database: Database, table: JobTable) -> None:
    topics = {"results": kafka.create("results", 3)}
    ensure(database, kafka.server.cluster_id, topics)
    end_jobs(table, 500)
    pace = replace(QUICK, most=20)
    with (
        publishing(kafka) as one,
        publishing(kafka) as other,
        relaying(database, one, pace, topics),
        relaying(database, other, pace, topics),
    ):
        wait_until(lambda: not outbox_rows(table), 20, "an empty outbox")
    events = published(kafka, topics["results"])
    assert len(events) == len({event["id"] for event in events}) == 500


class Killed(BaseException):
    """The end of a process at a place of our choice."""


class DiesAfterPublish(KafkaEvents):
    """The process ends when the broker has acknowledged, and before anything is written."""

    def publish(self, records: Sequence[Outgoing]) -> list[Any]:
        super().publish(records)
        raise Killed


def test_what_was_published_by_a_relay_that_died_comes_again_and_is_known_by_its_id(
    kafka: Kafka, database: Database, table: JobTable
) -> None:
    topics = {"results": kafka.create("results")}
    ensure(database, kafka.server.cluster_id, topics)
    end_jobs(table, 3)
    with DiesAfterPublish(KafkaOptions((kafka.bootstrap,))) as dying, pytest.raises(Killed):
        Running(database, dying, replace(QUICK, lease_s=0.5), topics).run()
    assert len(outbox_rows(table)) == 3
    with publishing(kafka) as publisher, relaying(database, publisher, topics=topics):
        wait_until(lambda: not outbox_rows(table), 20, "an empty outbox")
    times = Counter(event["id"] for event in published(kafka, topics["results"]))
    assert sorted(times.values()) == [2, 2, 2]


def test_a_process_at_another_cluster_publishes_nothing(kafka: Kafka, database: Database, table: JobTable) -> None:
    topics = {"results": kafka.create("results")}
    ensure(database, str(uuid.uuid4()), topics)
    end_jobs(table)
    with publishing(kafka) as publisher, relaying(database, publisher, topics=topics) as running:
        wait_until(lambda: (check := running.outbox()) is not None and not check.ok, 20, "bad health")
    assert published(kafka, topics["results"]) == []
    assert [row["tries"] for row in outbox_rows(table)] == [0]


def test_our_client_of_kafka_is_what_the_relay_wants(kafka: Kafka) -> None:
    with publishing(kafka) as publisher:
        assert publisher.cluster_id() == kafka.server.cluster_id
        answers: Sequence[Refusal | None] = publisher.publish([Outgoing(kafka.name("none"), b"k", b"v", ())])
        assert [answer and answer.code for answer in answers] == ["UNKNOWN_TOPIC_OR_PARTITION"]
