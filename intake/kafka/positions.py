"""Where reading stands in each partition, and what that says about messages that are gone."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise
from typing import NamedTuple

from storage.ingest import LostRange


class Partition(NamedTuple):
    """A partition of a topic; equal to kafka-python's TopicPartition."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Committed:
    """What the group has committed for a partition."""

    offset: int
    topic_id: str
    """Of the topic that the offset was read from; empty where whoever committed did not say."""

    @classmethod
    def read(cls, offset: int, metadata: str | None) -> Committed:
        """Of the metadata that stands beside an offset: a topic's id, or what others have written there."""
        try:
            return cls(offset, str(uuid.UUID(metadata or "")))
        except ValueError:
            return cls(offset, "")


@dataclass(frozen=True, slots=True)
class Extent:
    """What of a partition is there: offsets [start, end)."""

    topic_id: str
    """Kafka's id of the topic; empty where the broker tells none."""
    start: int
    end: int


class Why(Enum):
    """Why reading begins where it does."""

    FIRST = auto()
    """The group has committed nothing."""
    GOES_ON = auto()
    EXPIRED = auto()
    """What follows the committed offset is gone."""
    ANEW = auto()
    """The committed offset is of another topic of this name, or beyond the end of this one."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a partition is read from."""

    offset: int
    why: Why


def begin(committed: Committed | None, extent: Extent) -> Beginning:
    """Where to read a partition from, so that nothing which is there is passed over.

    A topic that was deleted and made anew counts from 0 again: what was committed says nothing about it, also where it
    has grown past that offset. Reading again is harmless, a job is known by its identity.
    """
    if committed is None:
        return Beginning(extent.start, Why.FIRST)
    another = bool(committed.topic_id and extent.topic_id) and committed.topic_id != extent.topic_id
    if another or committed.offset > extent.end:
        return Beginning(extent.start, Why.ANEW)
    if committed.offset < extent.start:
        return Beginning(extent.start, Why.EXPIRED)
    return Beginning(committed.offset, Why.GOES_ON)


@dataclass(slots=True)
class Place:
    """How far a partition is read."""

    topic_id: str
    """Of the topic that its offsets are of; they are committed with it."""
    next: int
    """The offset after the last record that was handed to us."""


class Positions:
    """The places of the partitions that one member of the group has, from one rebalance to the next."""

    def __init__(self) -> None:
        self._places: dict[Partition, Place] = {}

    def __iter__(self) -> Iterator[Partition]:
        return iter(self._places)

    def __getitem__(self, partition: Partition) -> Place:
        return self._places[partition]

    def begin(self, partition: Partition, topic_id: str, offset: int) -> None:
        """The partition is read from here."""
        self._places[partition] = Place(topic_id, offset)

    def read(self, partition: Partition, offsets: Sequence[int]) -> list[tuple[int, int]]:
        """Notes records that were handed to us; the gaps [first, end) before and between them.

        A gap is no loss yet: marks of transactions and compacted records have offsets too.
        """
        place = self._places[partition]
        first, last = offsets[0], offsets[-1]
        gaps = []
        if first > place.next:
            gaps.append((place.next, first))
        if last - first + 1 > len(offsets):
            gaps += [(one + 1, other) for one, other in pairwise(offsets) if other > one + 1]
        place.next = last + 1
        return gaps

    def loss(self, partition: Partition, first: int, end: int) -> LostRange:
        """Offsets [first, end) of the partition as a lost range."""
        return LostRange(partition.topic, self._places[partition].topic_id, partition.partition, first, end)
