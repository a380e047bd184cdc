"""What ingest says of itself: signs of life, its state, and what became of the messages."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Protocol

from config.lanes import Lane


class Outcome(StrEnum):
    """What became of a message."""

    JOB = "job"
    DUPLICATE = "duplicate"
    """The same id with the same body was there already."""
    DEDUPLICATED = "deduplicated"
    """Another job holds its dedupe key."""
    REJECTED = "rejected"


#: Why a lane is not read.
PauseReason = Literal["cap", "held"]
#: Whose fault it was that a turn failed.
Culprit = Literal["kafka", "database", "store"]
#: Why a consumer was made anew.
RebuildReason = Literal["stuck", "error"]


class Signals(Protocol):
    """Where ingest reports to. Called from its thread; nothing in it may wait or raise."""

    def pulse(self) -> None:
        """The thread has turned."""

    def state(self, ok: bool, why: str) -> None:
        """Whether messages come in, and why not, in a sentence for an operator. Said at each look, not only anew."""

    def received(self, lane: Lane, outcome: Outcome, messages: int) -> None:
        """So many messages are stored and have become this."""

    def failed(self, culprit: Culprit) -> None:
        """A turn failed, and is tried again."""

    def rebuilt(self, reason: RebuildReason) -> None:
        """The consumer is made anew."""

    def lag(self, lane: Lane, messages: int) -> None:
        """So many messages of this process's partitions of the lane are not stored yet."""

    def paused(self, lane: Lane, why: PauseReason, is_paused: bool) -> None:
        """Whether the lane is not read for this reason."""

    def lost(self, lane: Lane, messages: int) -> None:
        """So many messages expired in Kafka before they were read; the lost range is stored."""

    def lost_ranges(self, unacknowledged: int) -> None:
        """So many lost ranges wait for somebody to acknowledge them."""
