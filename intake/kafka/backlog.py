"""How far the group has read each partition of the lanes' topics, and whether messages may expire before they are."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError

from config.lanes import Lane
from intake.kafka import topics
from intake.kafka.clients import connected
from intake.kafka.diagnosis import asking
from intake.kafka.options import KafkaOptions

#: What a cluster may take to find the group's coordinator.
COORDINATOR_S = 10.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """Of one partition. Offsets."""

    lane: Lane
    topic: str
    partition: int
    start: int
    """The first message that is there."""
    committed: int | None
    """The first that is not stored yet; None: the group has read nothing."""
    end: int

    @property
    def next(self) -> int:
        """The first message that is still to be read."""
        # An offset beyond the end is of another topic that had this name: this one is read from its start.
        known = self.committed if self.committed is not None and self.committed <= self.end else self.start
        return max(known, self.start)

    @property
    def waiting(self) -> int:
        """Messages that are not stored yet."""
        return self.end - self.next


def backlog(options: KafkaOptions, lanes: Mapping[Lane, str], group: str) -> list[Backlog]:
    """Every partition of the lanes' topics that are there. Raises NotAllowed, BadTopic and BrokerAway."""
    there = topics.present(options, list(lanes.values()))
    lane_of = {topic: lane for lane, topic in lanes.items()}
    places = [TopicPartition(name, n) for name, topic in there.items() for n in topic.partitions]
    if not places:
        return []
    with asking(options, "reading offsets"):
        admin = connected(KafkaAdminClient, options, "admin")
        try:
            committed = _committed(admin, group, places)
            start = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.EARLIEST))
            end = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST))
        finally:
            admin.close()
    found = []
    for place in sorted(places):
        at = committed[place].offset if place in committed else -1
        found.append(
            Backlog(
                lane_of[place.topic],
                place.topic,
                place.partition,
                start[place].offset,
                at if at >= 0 else None,
                end[place].offset,
            )
        )
    return found


def _committed(admin: KafkaAdminClient, group: str, places: Sequence[TopicPartition]) -> Mapping[Any, Any]:
    """On a new cluster the first look makes the topic of offsets: its coordinator is there a moment later."""
    end = time.monotonic() + COORDINATOR_S
    while True:
        try:
            found: Mapping[Any, Any] = admin.list_group_offsets({group: places})[group]
            return found
        except (CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def unread_before(options: KafkaOptions, places: Sequence[Backlog], moment_ms: int) -> list[Backlog]:
    """Those that hold messages from before that time (since 1970) which are not stored yet. Raises BrokerAway."""
    wanted = {TopicPartition(one.topic, one.partition): one for one in places if one.waiting}
    if not wanted:
        return []
    with asking(options, "reading offsets"):
        admin = connected(KafkaAdminClient, options, "admin")
        try:
            # Of the first message that is not older; -1 where all are.
            later = admin.list_partition_offsets(dict.fromkeys(wanted, moment_ms))
        finally:
            admin.close()
    late = []
    for place, one in wanted.items():
        first = later[place].offset if place in later else -1
        if first < 0 or one.next < first:
            late.append(one)
    return late
