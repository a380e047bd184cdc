"""What the relay relies on: one suite for the fake that its tests use and for the real client on a real broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from config.kafka import KafkaSettings
from console.publishing import KafkaEvents
from intake.kafka.options import KafkaOptions
from tests.fakes.publisher import FakePublisher
from tests.servers.leashed import free_port
from worker.events import Outgoing
from worker.publisher import BrokerAway, Publisher, Refusal

CODE = "UNKNOWN_TOPIC_OR_PARTITION"


@dataclass(frozen=True)
class Broker:
    """One that answers, and one that does not; `topic` is there, `missing` is not."""

    publisher: Publisher
    away: Publisher
    cluster: str
    topic: str
    missing: str
    values: Callable[[], list[bytes | None]]


@pytest.fixture(params=["fake", "kafka"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    if request.param == "fake":
        fake, silent = FakePublisher(), FakePublisher()
        silent.away.set()
        fake.refuses = lambda record: Refusal(CODE, "no such topic") if record.topic == "missing" else None
        yield Broker(fake, silent, fake.cluster, "there", "missing", lambda: [record.value for record in fake.records])
        return
    kafka = request.getfixturevalue("kafka")
    topic = kafka.create("there")
    there = KafkaOptions.of(KafkaSettings(**kafka.settings))
    assert there is not None
    nowhere = KafkaOptions((f"127.0.0.1:{free_port()}",), connect_s=0.2)
    with KafkaEvents(there) as publisher, KafkaEvents(nowhere) as away:
        cluster = kafka.server.cluster_id
        yield Broker(publisher, away, cluster, topic, kafka.name("missing"), lambda: kafka.values(topic))


def record(topic: str, value: bytes) -> Outgoing:
    return Outgoing(topic, b"job", value, (("ce_type", b"test"),))


def test_none_answers_each_record_that_has_arrived(broker: Broker) -> None:
    values = [b"%d" % n for n in range(50)]
    assert list(broker.publisher.publish([record(broker.topic, value) for value in values])) == [None] * 50
    assert broker.values() == values


def test_a_refusal_stands_at_the_place_of_its_record_and_the_others_arrive(broker: Broker) -> None:
    sent = [record(broker.topic, b"1"), record(broker.missing, b"2"), record(broker.topic, b"3")]
    answers = broker.publisher.publish(sent)
    assert [answer and answer.code for answer in answers] == [None, CODE, None]
    assert answers[1] is not None
    assert answers[1].message
    assert broker.values() == [b"1", b"3"]


def test_nothing_is_answered_by_nothing(broker: Broker) -> None:
    assert list(broker.publisher.publish([])) == []


def test_the_cluster_has_an_id_that_stays(broker: Broker) -> None:
    assert [broker.publisher.cluster_id() for _ in range(2)] == [broker.cluster] * 2


def test_a_broker_that_does_not_answer_is_away(broker: Broker) -> None:
    with pytest.raises(BrokerAway):
        broker.away.publish([record(broker.topic, b"1")])
    with pytest.raises(BrokerAway):
        broker.away.cluster_id()
