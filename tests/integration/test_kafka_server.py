"""The Kafka broker of the tests itself: what every other test of Kafka relies on."""

from __future__ import annotations

import pytest
from kafka.errors import UnknownTopicOrPartitionError

from tests.servers.kafka import Kafka


def test_what_is_produced_is_consumed_in_its_order(kafka: Kafka) -> None:
    topic = kafka.create("shelf", partitions=2)
    places = kafka.produce(topic, b"one", "two", None, key=b"k", partition=1, headers=[("h", b"v")])
    assert places == [(1, 0), (1, 1), (1, 2)]
    records = kafka.consume(topic)
    assert [record.value for record in records] == [b"one", b"two", None]
    assert [record.key for record in records] == [b"k"] * 3
    assert records[0].headers == [("h", b"v")]
    assert kafka.ends(topic) == {0: 0, 1: 3}


def test_a_topic_that_is_deleted_is_gone_and_none_is_made_by_asking_for_it(kafka: Kafka) -> None:
    topic = kafka.create("shelf")
    kafka.delete(topic)
    assert kafka.topics() == set()
    with pytest.raises(UnknownTopicOrPartitionError):
        kafka.partitions(topic)
    assert kafka.topics() == set()


def test_a_log_can_be_made_to_begin_later(kafka: Kafka) -> None:
    topic = kafka.create("shelf")
    kafka.produce(topic, b"1", b"2", b"3")
    kafka.delete_records(topic, before=2)
    assert kafka.starts(topic) == {0: 2}
    assert kafka.values(topic) == [b"3"]


def test_a_killed_broker_comes_back_with_what_it_had(own_kafka: Kafka) -> None:
    topic = own_kafka.create("shelf")
    own_kafka.produce(topic, b"kept")
    own_kafka.server.restart()
    assert own_kafka.values(topic) == [b"kept"]
    own_kafka.server.freeze()
    own_kafka.server.thaw()
    own_kafka.produce(topic, b"more")
    assert own_kafka.values(topic) == [b"kept", b"more"]
