"""A broker that does as it is told: takes records, refuses them, is away, keeps its answer back."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

from worker.events import Outgoing
from worker.publisher import BrokerAway, Refusal


class FakePublisher:
    """What was published is in `records`, in its order; safe to look at from any thread.

    `refuses` says why a record is not taken. While `away` is set nothing answers. `lost_answers` calls of `publish`
    take all records and then raise BrokerAway.
    """

    def __init__(self, cluster: str = "here") -> None:
        self.cluster = cluster
        self.away = threading.Event()
        self.refuses: Callable[[Outgoing], Refusal | None] = lambda record: None
        self.lost_answers = 0
        self.before: Callable[[], None] = lambda: None
        self.records: list[Outgoing] = []
        self.batches: list[int] = []
        self.asked = 0
        self._changed = threading.Condition()

    def cluster_id(self) -> str:
        self._told()
        if self.away.is_set():
            raise BrokerAway("connection refused")
        return self.cluster

    def publish(self, records: Sequence[Outgoing]) -> list[Refusal | None]:
        self.before()
        if self.away.is_set():
            self._told()
            raise BrokerAway("no answer within 10 s")
        answers = [self.refuses(record) for record in records]
        with self._changed:
            self.records += [record for record, answer in zip(records, answers, strict=True) if answer is None]
            self.batches.append(len(records))
            self._changed.notify_all()
        if self.lost_answers:
            self.lost_answers -= 1
            raise BrokerAway("the connection was lost before the answer")
        return answers

    def wait_for(self, n: int, timeout_s: float = 10) -> list[dict[str, Any]]:
        """The events, parsed, as soon as there are `n`."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.records) >= n, timeout_s), f"{len(self.records)} of {n}"
            return [json.loads(record.value) for record in self.records]

    def wait_until_met(self, timeout_s: float = 10) -> None:
        """Returns when the relay has turned to the broker at all."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.asked > 0, timeout_s)

    def wait_until_asked(self, times: int, timeout_s: float = 10) -> None:
        """Returns when the relay has turned to the broker so often from now."""
        with self._changed:
            until = self.asked + times
            assert self._changed.wait_for(lambda: self.asked >= until, timeout_s)

    def _told(self) -> None:
        with self._changed:
            self.asked += 1
            self._changed.notify_all()
