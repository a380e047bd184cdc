"""Sends messages to the lanes' topics and keeps account: where each went, and what has to become of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from kafka import KafkaProducer
from kafka.errors import KafkaError, RetriableError

from config.lanes import LANES, Lane
from intake.identity import id_from_record
from tests.chaos.messages import Draft, Fate
from tests.servers.kafka import Kafka

#: A message that brokers take by default.
MOST_REQUEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that the broker has acknowledged."""

    draft: Draft
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    cluster_id: str

    @property
    def record_id(self) -> str:
        """The id that is derived from the record: of its rejection, and of a job whose message names none."""
        value = self.draft.value or b""
        return str(id_from_record(self.timestamp_ms, self.cluster_id, self.topic, self.partition, self.offset, value))

    @property
    def job_id(self) -> str:
        """Of the job that it becomes, or that it is a duplicate of."""
        return self.draft.id or self.record_id


class Lanes:
    """The topics of a deployment on a test's broker."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self.topics: Mapping[Lane, str] = {lane: kafka.name(f"jobs.{lane}") for lane in LANES}
        self.sent: list[Sent] = []

    @contextmanager
    def producer(self) -> Iterator[KafkaProducer]:
        """One for a while: the broker may have been started again since the last."""
        producer = KafkaProducer(
            bootstrap_servers=self._kafka.bootstrap, linger_ms=5, max_request_size=MOST_REQUEST, max_block_ms=30_000
        )
        try:
            yield producer
        finally:
            producer.close(timeout=30)

    def send(self, drafts: Sequence[Draft]) -> list[Sent]:
        """Returns when all are acknowledged."""
        with self.producer() as producer:
            new = self.send_by(producer, drafts)
        self.sent += new
        return new

    def send_by(self, producer: KafkaProducer, drafts: Sequence[Draft]) -> list[Sent]:
        """The same by a producer that is at hand; no account is kept of it."""
        futures = [
            producer.send(self.topics[draft.lane], draft.value, draft.key, list(draft.headers)) for draft in drafts
        ]
        placed = [future.get(timeout=60) for future in futures]
        cluster = self._kafka.server.cluster_id
        return [
            Sent(draft, at.topic, at.partition, at.offset, at.timestamp, cluster)
            for draft, at in zip(drafts, placed, strict=True)
        ]

    def of(self, fate: Fate) -> list[Sent]:
        """Those that have to end so."""
        return [one for one in self.sent if one.draft.fate is fate]

    def fates(self) -> Counter[Fate]:
        """How many have to end how."""
        return Counter(one.draft.fate for one in self.sent)

    def unread(self) -> int:
        """Messages that the group has not committed yet; all of them while the broker does not say."""
        try:
            ends = {topic: self._kafka.ends(topic) for topic in self.topics.values()}
            done = {topic: self._kafka.committed(topic) for topic in self.topics.values()}
        except RetriableError:  # it has only begun to look for the group
            return len(self.sent)
        except KafkaError as error:
            raise AssertionError(f"the broker does not say how far the group is: {error}") from error
        return sum(end - done[topic].get(partition, 0) for topic, of in ends.items() for partition, end in of.items())
