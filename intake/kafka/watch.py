"""Notices a consumer that has stopped reading although nothing stops it."""

from __future__ import annotations

from dataclasses import dataclass

from intake.kafka.positions import Partition


class Stuck(Exception):
    """The consumer does not read what is there."""


@dataclass(frozen=True, slots=True)
class _Still:
    offset: int
    since: float


class StuckWatch:
    """Remembers since when partitions with messages have not moved."""

    def __init__(self, stuck_s: float) -> None:
        self._stuck_s = stuck_s
        self._still: dict[Partition, _Still] = {}

    def forget(self) -> None:
        """What was seen so far says nothing: the group was rebalanced, or no broker answered."""
        self._still.clear()

    def look(self, partition: Partition, next_: int, end: int, *, free: bool, now: float) -> None:
        """Notes where a partition is read (`next_`), and where it ends; `free`: it is not paused, and nothing is held.

        Raises Stuck when it has been free, behind and still for too long.
        """
        if not free or next_ >= end:
            self._still.pop(partition, None)
            return
        still = self._still.get(partition)
        if still is None or still.offset != next_:
            self._still[partition] = _Still(next_, now)
        elif now - still.since >= self._stuck_s:
            what = f"{partition.topic}/{partition.partition} stands at {next_} of {end} for {now - still.since:.0f} s"
            raise Stuck(what)
