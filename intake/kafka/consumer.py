"""One member of the consumer group: the client library, and only what ingest wants of it.

No listener (it would run on the client's I/O thread), no automatic commit: whoever uses this looks after each poll
whether `membership` is another one, and begins anew then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from kafka import KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.errors import CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError
from kafka.structs import OffsetAndMetadata

from config.lanes import Lane
from intake.kafka import header_names
from intake.kafka.clients import connected
from intake.kafka.options import KafkaOptions
from intake.kafka.positions import Committed, Extent, Partition
from intake.kafka.reads import Reads
from intake.kafka.record import Arrived

#: The group has moved on: what was to be committed is another member's, or will be read again.
_NOT_OURS = (CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)


class NotOurs(Exception):
    """Offsets could not be committed because the group was rebalanced; their records will be read again."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What a member has from one rebalance to the next; with the ids of topics, for one may be made anew."""

    generation: int
    member: str
    partitions: frozenset[Partition]
    """Those that are assigned, of topics that are there."""
    topic_ids: frozenset[tuple[str, str]]


class GroupConsumer:
    """A member of the group. Of one thread; every call is bounded by the times of `Reads`.

    Everything may raise kafka.errors.KafkaError.
    """

    def __init__(self, options: KafkaOptions, reads: Reads) -> None:
        """Connects."""
        self._reads = reads
        self._lanes: dict[str, Lane] = {topic: lane for lane, topic in reads.topics.items()}
        self._consumer = connected(
            KafkaConsumer,
            options,
            "ingest",
            group_id=reads.group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            # What a producer has taken back is no job.
            isolation_level="read_committed",
            allow_auto_create_topics=False,
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            max_poll_records=reads.batch,
            fetch_max_bytes=reads.fetch_bytes,
            max_poll_interval_ms=round(reads.turn_s * 1000),
            session_timeout_ms=round(reads.session_s * 1000),
            heartbeat_interval_ms=round(reads.heartbeat_s * 1000),
            metadata_max_age_ms=round(reads.metadata_s * 1000),
            metrics_enabled=False,
        )
        header_names.read_any(self._consumer)
        self._consumer.subscribe(sorted(self._lanes))

    # The client keeps what it knows of the cluster up to date by itself; asking it costs nothing.
    @property
    def _cluster(self) -> Any:
        return self._consumer._cluster

    @property
    def cluster_id(self) -> str:
        """Kafka's id of the cluster; empty where it tells none."""
        return str(self._cluster.cluster_id or "")

    def topic_id(self, topic: str) -> str:
        """Kafka's id of a topic, as of `metadata_s` ago at most; empty where it is not there, or has none."""
        found = self._cluster.topic_id(topic)
        return str(found) if found is not None and found.int else ""

    def missing(self) -> list[str]:
        """Topics that are to be read and are not there."""
        return sorted(topic for topic in self._lanes if not self._cluster.partitions_for_topic(topic))

    def assignment(self) -> frozenset[Partition]:
        """The partitions that this member has."""
        return frozenset(Partition(*one) for one in self._consumer.assignment())

    def membership(self) -> Membership:
        """What this member has at the moment."""
        group = self._consumer.group_metadata()
        partitions = frozenset(one for one in self.assignment() if self._is_there(one))
        ids = frozenset((topic, id_) for topic in {one.topic for one in partitions} if (id_ := self.topic_id(topic)))
        return Membership(group.generation_id, group.member_id, partitions, ids)

    def _is_there(self, partition: Partition) -> bool:
        return partition.partition in (self._cluster.partitions_for_topic(partition.topic) or ())

    def poll(self, within_s: float) -> dict[Partition, list[Arrived]]:
        """The next records, `batch` at most, in the order of their partitions; keeps the membership alive."""
        _unpark(self._consumer)
        found = self._consumer.poll(timeout_ms=round(within_s * 1000), max_records=self._reads.batch)
        _wait_for_join(self._consumer)
        return {Partition(*one): [self._arrived(record) for record in records] for one, records in found.items()}

    def _arrived(self, record: Any) -> Arrived:
        return Arrived(
            lane=self._lanes[record.topic],
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp_ms=record.timestamp,
            key=record.key,
            headers=record.headers,
            value=record.value,
        )

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Exactly these of the assigned partitions are not read now."""
        paused = set(partitions)
        others = self._consumer.assignment() - paused
        self._consumer.pause(*map(_theirs, paused))
        self._consumer.resume(*others)

    def seek(self, partition: Partition, offset: int) -> None:
        """The next poll reads the partition from here."""
        self._consumer.seek(_theirs(partition), offset)

    def position(self, partition: Partition) -> int | None:
        """Where the client stands: beyond what it gave us, if that had expired."""
        found: int | None = self._consumer.position(_theirs(partition), timeout_ms=self._timeout_ms)
        return found

    def committed(self, partition: Partition) -> Committed | None:
        """What the group has committed for a partition."""
        found = self._consumer.committed(_theirs(partition), metadata=True, timeout_ms=self._timeout_ms)
        return None if found is None or found.offset < 0 else Committed.read(found.offset, found.metadata)

    def extents(self, partitions: Iterable[Partition]) -> dict[Partition, Extent]:
        """What of the partitions is there now."""
        asked = [_theirs(one) for one in partitions]
        if not asked:
            return {}
        starts = self._consumer.beginning_offsets(asked, timeout_ms=self._timeout_ms)
        ends = self._consumer.end_offsets(asked, timeout_ms=self._timeout_ms)
        return {Partition(*one): Extent(self.topic_id(one.topic), starts[one], ends[one]) for one in asked}

    def commit(self, offsets: Mapping[Partition, Committed]) -> None:
        """Commits these, each with its topic's id. Raises NotOurs where the group was rebalanced meanwhile."""
        said = {_theirs(one): OffsetAndMetadata(at.offset, at.topic_id, -1) for one, at in offsets.items()}
        try:
            self._consumer.commit(said, timeout_ms=self._timeout_ms)
        except _NOT_OURS as error:
            raise NotOurs(str(error)) from error

    def close(self) -> None:
        """Leaves the group."""
        self._consumer.close(autocommit=False, timeout_ms=round(self._reads.close_s * 1000))

    @property
    def _timeout_ms(self) -> int:
        return round(self._reads.answer_s * 1000)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _unpark(consumer: Any) -> None:
    """Lets a partition that is read again have the records that it was paused with.

    kafka-python 3.0.12 takes them up where the slot of the current partition is None, but leaves one there that is
    read to its end; until then it neither gives them nor fetches others: the partition is stuck.
    """
    fetcher = consumer._fetcher
    if not fetcher._next_partition_records:
        fetcher._next_partition_records = None


def _wait_for_join(consumer: Any) -> None:
    """Lets the next poll wait for a join that has outlasted this one.

    kafka-python 3.0.12 forgets it where a change of metadata has called for it, and goes on with the partitions it had,
    without heartbeats.
    """
    coordinator = consumer._coordinator
    if coordinator.rejoining:
        coordinator.request_rejoin()


def _theirs(partition: Partition) -> TopicPartition:
    return TopicPartition(*partition)
