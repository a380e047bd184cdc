"""Attempts on their way through an executor, as the courier sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import anyio

from handlers.protocol import Cancel, Order, Outcome

Reason = Literal["cancelled", "timeout", "interrupted"]
#: Hears `(fraction 0 to 1, note)`.
ProgressListener = Callable[[float, str], None]


class ExecutorLost(Exception):
    """The process died, or was killed for what it did, while the job was with it."""

    def __init__(self, message: str, *, alone: bool) -> None:
        super().__init__(message)
        #: Whether it was the only job that the process had: then the job is to blame.
        self.alone = alone


class ExecutorInterrupted(Exception):
    """The job was ended by the courier's own decision about something else: it costs the job nothing."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long is waited for what, in seconds."""

    start_s: float = 300.0
    """From the start of the process until it is ready, preloading included."""
    beat_s: float = 60.0
    """Without a beat, while nothing is on the device."""
    timeout_grace_s: float = 30.0
    """From telling a job that its time is up to the kill: what is on the device or in a thread is awaited."""
    cancel_grace_s: float = 30.0
    """Likewise after a cancel."""
    gather_s: float = 0.001
    """For more orders to go into one line."""
    tick_s: float = 0.25
    """Between two looks at all this."""


@dataclass(slots=True, eq=False)
class Flight:
    """One attempt at a job."""

    order: Order
    time_limit_s: float
    progress: ProgressListener | None = None
    deadline: float = 0.0
    """When its time is up, on the courier's clock; set when its order is written."""
    told: Reason | None = None
    """What the executor was told to end it for."""
    told_at: float = 0.0
    done: anyio.Event = field(default_factory=anyio.Event)
    end: Outcome | ExecutorLost | ExecutorInterrupted | None = None

    def settle(self, end: Outcome | ExecutorLost | ExecutorInterrupted) -> None:
        """Says how it ended; the first word counts."""
        if self.end is None:
            self.end = end
            self.done.set()

    def outcome(self) -> Outcome:
        """The outcome of a flight that is done. Raises ExecutorLost, ExecutorInterrupted."""
        assert self.end is not None
        if isinstance(self.end, Outcome):
            return self.end
        raise self.end


class Outbox:
    """What is to be said to the executor. Orders outlive a process that dies before it has them."""

    def __init__(self) -> None:
        self.flights: dict[str, Flight] = {}
        self._cancels: list[Cancel] = []
        self._wake = anyio.Event()

    def put(self, flight: Flight) -> None:
        """Takes an order to be written."""
        self.flights[flight.order.key] = flight
        self._wake.set()

    def tell(self, flight: Flight, reason: Reason, now: float) -> None:
        """Takes word that a job is to end."""
        flight.told, flight.told_at = reason, now
        self._cancels.append(Cancel(key=flight.order.key, reason=reason))
        self._wake.set()

    async def some(self) -> None:
        """Returns when there is something to say."""
        while not self.flights and not self._cancels:
            self._wake = anyio.Event()
            await self._wake.wait()

    def take(self) -> tuple[list[Flight], list[Cancel]]:
        """All that is to be said, in the order in which it came."""
        flights, cancels = list(self.flights.values()), self._cancels
        self.flights, self._cancels = {}, []
        return flights, cancels

    def forget_cancels(self) -> None:
        """For a new process, which has none of those jobs."""
        self._cancels = []
