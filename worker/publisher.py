"""What the relay wants of a client that publishes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from worker.events import Outgoing


class BrokerAway(Exception):
    """The broker does not answer: nobody knows which of the records have arrived, if any."""


class Fault(Enum):
    """What keeps a record from its topic."""

    RECORD = auto()
    """Itself: sent again as it is, it would be refused again."""
    SIZE = auto()
    """It is larger than its topic takes."""
    TOPIC = auto()
    """The topic, which is missing or not ours to write: it takes no record at all."""
    SILENCE = auto()
    """Nobody knows whether it is there: the others were answered for, and this one was not."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a record was not taken."""

    code: str
    message: str
    fault: Fault = Fault.RECORD


class Publisher(Protocol):
    """What the relay wants of a client of Kafka. Both raise BrokerAway, in bounded time."""

    def cluster_id(self) -> str:
        """Which cluster it is, asked anew; what can be done for its topics has been done then."""

    def publish(self, records: Sequence[Outgoing]) -> Sequence[Refusal | None]:
        """Returns when every record is acknowledged (None), refused, or has had its time."""
