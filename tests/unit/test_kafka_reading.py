"""The life of one consumer, turn by turn, on a client that does what a test says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from handlers.registry import Registry
from handlers.test.noop import Noop
from intake.kafka.consumer import Membership
from intake.kafka.judge import Judge
from intake.kafka.positions import Committed, Extent, Partition
from intake.kafka.reading import Reading
from intake.kafka.reads import Reads
from intake.kafka.record import Arrived
from intake.kafka.state import State
from intake.kafka.store import Batch, Outcomes
from intake.message import Rules
from storage.database import Unreachable
from storage.objects.rules import BucketRules
from tests.integration.ingesting import Heard, with_id

A, B = Partition("jobs.upload", 0), Partition("jobs.interactive", 0)


class Client:
    """Of a group's only member, with both partitions."""

    cluster_id = "cluster"

    def __init__(self) -> None:
        self.coming: list[dict[Partition, list[Arrived]]] = []
        self.starts = {A: 0, B: 0}
        self.positions = {A: 0, B: 0}
        self.commits: dict[Partition, int] = {}

    def membership(self) -> Membership:
        return Membership(1, "me", frozenset((A, B)), frozenset())

    def assignment(self) -> frozenset[Partition]:
        return frozenset((A, B))

    def missing(self) -> list[str]:
        return []

    def poll(self, within_s: float) -> dict[Partition, list[Arrived]]:
        return self.coming.pop(0) if self.coming else {}

    def pause(self, partitions: Iterable[Partition]) -> None:
        pass

    def seek(self, partition: Partition, offset: int) -> None:
        pass

    def position(self, partition: Partition) -> int | None:
        return self.positions[partition]

    def committed(self, partition: Partition) -> Committed | None:
        return None

    def extents(self, partitions: Iterable[Partition]) -> dict[Partition, Extent]:
        return {one: Extent("", self.starts[one], 100) for one in partitions}

    def commit(self, offsets: Mapping[Partition, Committed]) -> None:
        self.commits |= {partition: at.offset for partition, at in offsets.items()}


class Tables:
    """What was written, while they are there."""

    def __init__(self) -> None:
        self.away = False
        self.written: list[tuple[Partition, int]] = []
        self.lost: list[tuple[int, int]] = []

    def write(self, batch: Batch) -> Outcomes:
        if self.away:
            raise Unreachable("away")
        self.written += [(Partition(*_place(one.arrived)), one.arrived.offset) for one in batch.judged]
        self.lost += [(one.first_offset, one.end_offset) for one in batch.lost]
        return {}


def _place(arrived: Arrived) -> tuple[str, int]:
    return arrived.topic, arrived.partition


class Room:
    """Lanes are never full."""

    def added(self, lane: str, jobs: int) -> None:
        pass

    def full(self, lane: str) -> bool:
        return False


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def tables() -> Tables:
    return Tables()


@pytest.fixture
def reading(client: Client, tables: Tables) -> Reading:
    heard = Heard()
    reads = Reads("g", {"upload": A.topic, "interactive": B.topic}, 100, survey_s=0, wait_s=0, most_wait_s=0)
    rules = {lane: Rules(1 << 20, 64, 1000, 3, BucketRules.parse([]), lane=lane) for lane in reads.topics}
    parts: Any = {"storage": tables, "caps": Room(), "state": State(heard), "signals": heard}
    consumer: Any = client
    return Reading(consumer, reads, judge=Judge(Registry([Noop]), rules, "1"), clock=lambda: 0.0, **parts)


def test_a_held_batch_outlives_the_news_that_messages_of_another_partition_expired(
    reading: Reading, client: Client, tables: Tables
) -> None:
    reading.turn()  # begins
    client.starts[A] = 50
    reading.turn()  # sees that what follows in A expired, and waits for what the client has of it
    tables.away = True
    client.coming.append({B: [Arrived("interactive", *B, 0, -1, None, (), with_id())]})
    reading.turn()  # the batch is held
    client.positions |= {A: 50, B: 1}  # the client has gone to the start of A
    reading.turn()
    tables.away = False
    for _ in range(3):
        reading.turn()
    assert tables.written == [(B, 0)]
    assert tables.lost == [(0, 50)]
    assert client.commits == {A: 50, B: 1}
