"""Publishing: every record is answered for, in its order, whatever the broker does."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError

from config.kafka import KafkaSettings
from intake.kafka import publisher as module
from intake.kafka.errors import BrokerAway
from intake.kafka.options import KafkaOptions
from intake.kafka.publisher import Delivered, Outgoing, Publisher, Refusal, Unanswered
from tests.integration.publishing import codes
from tests.servers.kafka import Kafka, KafkaServer
from tests.servers.leashed import wait_until


def options_of(kafka: Kafka, connect_s: float = 10.0) -> KafkaOptions:
    options = KafkaOptions.of(KafkaSettings(**kafka.settings))
    assert options is not None
    return replace(options, connect_s=connect_s)


@pytest.fixture(scope="module")
def mortal() -> Iterator[Kafka]:
    """A broker for the tests that kill and freeze it; each leaves it running."""
    with KafkaServer() as server:
        kafka = Kafka(server)
        yield kafka
        kafka.close()


@pytest.fixture
def publisher(kafka: Kafka) -> Iterator[Publisher]:
    with Publisher(options_of(kafka)) as publisher:
        yield publisher


def test_what_is_published_is_there_with_key_headers_and_value(kafka: Kafka, publisher: Publisher) -> None:
    topic = kafka.create("results", partitions=3)
    records = [
        Outgoing(topic, b"job", b'{"a": 1}', [("ce_type", b"t"), ("ce_id", b"1")]),
        Outgoing(topic, b"job", None),
        Outgoing(topic, None, b""),
    ]
    assert codes(publisher.publish(records)) == [None, None, None]
    found = {(record.key, record.value): record.headers for record in kafka.consume(topic)}
    assert found == {
        (b"job", b'{"a": 1}'): [("ce_type", b"t"), ("ce_id", b"1")],
        (b"job", None): [],
        (None, b""): [],
    }


def test_the_answer_says_where_a_record_is(kafka: Kafka, publisher: Publisher) -> None:
    topic = kafka.create("results", partitions=3)
    records = [Outgoing(topic, b"%d" % n, b"%d" % n) for n in range(20)]
    answers = {record.value: answer for record, answer in zip(records, publisher.publish(records), strict=True)}
    for found in kafka.consume(topic, 20):
        assert answers[found.value] == Delivered(found.partition, found.offset, found.timestamp)


def test_nothing_to_publish_asks_nobody() -> None:
    with Publisher(KafkaOptions(("127.0.0.1:1",))) as publisher:
        assert publisher.publish([]) == []


def test_records_of_a_key_stay_in_their_order_and_partition(kafka: Kafka, publisher: Publisher) -> None:
    topic = kafka.create("results", partitions=4)
    sent = {key: [f"{n}".encode() for n in range(key, 3000, 7)] for key in range(7)}
    records = [Outgoing(topic, b"%d" % (n % 7), b"%d" % n) for n in range(3000)]
    for start in range(0, 3000, 500):
        assert codes(publisher.publish(records[start : start + 500])) == [None] * 500
    found = kafka.consume(topic, 3000)
    for key, values in sent.items():
        of_key = [record for record in found if record.key == b"%d" % key]
        assert [record.value for record in of_key] == values
        assert len({record.partition for record in of_key}) == 1


def test_a_record_that_is_too_large_for_the_broker_is_refused_alone(kafka: Kafka, publisher: Publisher) -> None:
    topic, other = kafka.create("results", partitions=1, max_message_bytes=20_000), kafka.create("other")
    values = [b"small %d" % n for n in range(40)]
    values[7], values[23] = b"x" * 30_000, b"y" * 30_000
    records = [Outgoing(topic, b"k", value) for value in values] + [Outgoing(other, b"k", b"z" * 30_000)]
    answers = publisher.publish(records)
    refused = {place: code for place, code in enumerate(codes(answers)) if code is not None}
    assert refused == {7: "MESSAGE_SIZE_TOO_LARGE", 23: "MESSAGE_SIZE_TOO_LARGE"}
    assert kafka.values(topic) == [value for value in values if len(value) < 100]
    assert kafka.values(other) == [b"z" * 30_000]
    assert codes(publisher.publish([Outgoing(topic, b"k", b"after")])) == [None]


def test_a_record_that_no_broker_would_take_is_refused_without_asking(kafka: Kafka, publisher: Publisher) -> None:
    topic = kafka.create("results")
    answers = publisher.publish([Outgoing(topic, b"k", b"1"), Outgoing(topic, b"k", bytes(33 << 20))])
    assert codes(answers) == [None, "MESSAGE_SIZE_TOO_LARGE"]
    answers = publisher.publish([Outgoing(topic, None, None), Outgoing(topic, b"k", b"2")])
    assert codes(answers) == ["INVALID_RECORD", None]
    assert kafka.values(topic) == [b"1", b"2"]


def test_a_record_that_the_topic_does_not_take_is_refused_alone(kafka: Kafka, publisher: Publisher) -> None:
    compacted = kafka.create("compacted", cleanup_policy="compact")
    records = [Outgoing(compacted, b"k", b"1"), Outgoing(compacted, None, b"no key"), Outgoing(compacted, b"k", b"3")]
    answers = publisher.publish(records)
    assert codes(answers) == [None, "INVALID_RECORD", None]
    assert kafka.values(compacted) == [b"1", b"3"]


def test_records_for_a_topic_that_is_missing_are_refused_and_the_others_published(
    kafka: Kafka, publisher: Publisher
) -> None:
    topic, missing = kafka.create("results"), kafka.name("missing")
    records = [Outgoing(missing, b"k", b"1"), Outgoing(topic, b"k", b"2"), Outgoing("no/name", b"k", b"3")]
    answers = publisher.publish(records)
    assert codes(answers) == ["UNKNOWN_TOPIC_OR_PARTITION", None, "INVALID_TOPIC"]
    assert isinstance(answers[0], Refusal)
    assert missing in answers[0].message
    assert kafka.values(topic) == [b"2"]
    assert kafka.topics() == {topic}
    kafka.create("missing")
    assert codes(publisher.publish(records[:1])) == [None]


def test_records_for_a_topic_that_was_deleted_meanwhile_are_refused(kafka: Kafka) -> None:
    topic, other = kafka.create("results"), kafka.create("other")
    with Publisher(options_of(kafka), timeout_s=1.5) as publisher:
        records = [Outgoing(topic, b"k", b"1"), Outgoing(other, b"k", b"2")]
        assert codes(publisher.publish(records)) == [None, None]
        kafka.delete(topic)
        answers = publisher.publish(records)
        assert codes(answers) == ["UNKNOWN_TOPIC_OR_PARTITION", None]
        kafka.create("results")
        assert codes(publisher.publish(records)) == [None, None]
    assert kafka.values(topic) == [b"1"]


def test_a_killed_broker_is_said_to_be_away_and_is_published_to_when_it_is_back(mortal: Kafka) -> None:
    topic = mortal.create(uuid.uuid4().hex)
    with Publisher(options_of(mortal, connect_s=1.0), timeout_s=1.0) as publisher:
        assert codes(publisher.publish([Outgoing(topic, b"k", b"1")])) == [None]
        assert publisher.cluster_id() == mortal.server.cluster_id
        mortal.server.kill()
        for _ in range(2):
            with pytest.raises(BrokerAway, match=r"cannot be reached.*MEDIAMILL_KAFKA_BOOTSTRAP"):
                publisher.publish([Outgoing(topic, b"k", b"2")])
        with pytest.raises(BrokerAway):
            publisher.cluster_id()
        mortal.server.start()
        assert codes(publisher.publish([Outgoing(topic, b"k", b"3")])) == [None]
    values = mortal.values(topic)
    assert (values[0], values[-1]) == (b"1", b"3")


def test_a_frozen_broker_is_said_to_be_away_in_time_and_is_published_to_when_it_is_back(mortal: Kafka) -> None:
    topic = mortal.create(uuid.uuid4().hex)
    with Publisher(options_of(mortal, connect_s=1.0), timeout_s=1.0) as publisher:
        assert codes(publisher.publish([Outgoing(topic, b"k", b"1")])) == [None]
        mortal.server.freeze()
        for within_s in (12.0, 8.0):
            started = time.monotonic()
            with pytest.raises(BrokerAway, match="does not answer"):
                publisher.publish([Outgoing(topic, b"k", b"2")])
            assert time.monotonic() - started < within_s
        mortal.server.thaw()
        assert codes(publisher.publish([Outgoing(topic, b"k", b"3")])) == [None]
    values = mortal.values(topic)
    assert (values[0], values[-1]) == (b"1", b"3")


def test_a_broker_that_restarts_in_time_is_waited_for_and_has_each_record_once(mortal: Kafka) -> None:
    topic = mortal.create(uuid.uuid4().hex, partitions=2)
    with Publisher(options_of(mortal), timeout_s=25.0) as publisher:
        assert codes(publisher.publish([Outgoing(topic, b"k", b"first")])) == [None]
        mortal.server.kill()
        back = threading.Thread(target=mortal.server.start)
        back.start()
        records = [Outgoing(topic, b"%d" % (n % 5), b"%d" % n) for n in range(200)]
        assert codes(publisher.publish(records)) == [None] * 200
        back.join()
    values = mortal.values(topic)
    assert sorted(values, key=str) == sorted([b"first", *(record.value for record in records)], key=str)


def test_a_publisher_leaves_no_thread_behind(kafka: Kafka) -> None:
    before = threading.active_count()
    topic = kafka.create("results")
    during = threading.active_count()
    with Publisher(options_of(kafka)) as publisher:
        assert codes(publisher.publish([Outgoing(topic, b"k", b"1"), Outgoing(topic, None, None)]))[0] is None
        assert codes(publisher.publish([Outgoing(topic, b"k", b"2")])) == [None]
        assert threading.active_count() > during
    wait_until(lambda: threading.active_count() <= during, 5, "the end of the client's threads")
    assert before <= during


def test_a_record_that_gets_no_answer_takes_no_other_along(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = kafka.create("results")
    send = module._sent

    def silent_partition(producer: Any, record: Outgoing) -> Any:
        return KafkaTimeoutError("expired") if record.key == b"stuck" else send(producer, record)

    monkeypatch.setattr(module, "_sent", silent_partition)
    with Publisher(options_of(kafka), timeout_s=5) as publisher:
        answers = publisher.publish([Outgoing(topic, b"k", b"1"), Outgoing(topic, b"stuck", b"2")])
        assert [type(answer) for answer in answers] == [Delivered, Unanswered]
        with pytest.raises(BrokerAway, match="expired"):
            publisher.publish([Outgoing(topic, b"stuck", b"3")])
    assert kafka.values(topic) == [b"1"]


def test_what_is_known_when_the_broker_goes_away_before_the_careful_round_is_not_lost(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, other = kafka.create("results", max_message_bytes=20_000), kafka.create("other")
    with Publisher(options_of(kafka), timeout_s=5) as publisher:
        connect = publisher._connect

        def away(*, careful: bool) -> object:
            if careful:
                raise BrokerAway("gone")
            return connect(careful=careful)

        monkeypatch.setattr(publisher, "_connect", away)
        answers = publisher.publish([Outgoing(other, b"k", b"1"), Outgoing(topic, b"k", b"x" * 30_000)])
    assert [type(answer) for answer in answers] == [Delivered, Unanswered]
    assert kafka.values(other) == [b"1"]
