"""Gathering: one statement for many jobs, with a bound on the latency that it adds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")
R = TypeVar("R")


class Closed(Exception):
    """The group has ended: what was handed to it was not written, or nobody knows whether it was."""


class _Ticket(Generic[T, R]):
    __slots__ = ("answer", "answered", "item")

    def __init__(self, item: T) -> None:
        self.item = item
        self.answered = anyio.Event()
        self.answer: R | Exception | None = None


class Group(Generic[T, R]):
    """Hands items of many tasks to `write` together and gives each task its own answer.

    `write` blocks (it runs in a thread) and returns one answer per item, in order; an answer that is an exception is
    raised in the task whose item it was. What `write` itself raises ends `keep`, and with it the worker's life.
    An item waits `gather_s` at most for company, less when `most` are there.
    """

    def __init__(
        self,
        write: Callable[[Sequence[T]], Sequence[R | Exception]],
        *,
        limiter: anyio.CapacityLimiter,
        most: int = 300,
        gather_s: float = 0.003,
    ) -> None:
        self._write = write
        self._limiter = limiter
        self._most = most
        self._gather_s = gather_s
        self._waiting: deque[_Ticket[T, R]] = deque()
        self._some = anyio.Event()
        self._closed = False

    async def __call__(self, item: T) -> R:
        """Writes the item with others and returns its answer. Raises Closed when nobody writes any more."""
        if self._closed:
            raise Closed
        ticket: _Ticket[T, R] = _Ticket(item)
        self._waiting.append(ticket)
        self._some.set()
        await ticket.answered.wait()
        if isinstance(ticket.answer, Exception):
            raise ticket.answer
        return ticket.answer  # type: ignore[return-value]  # answered: R, which may itself be None

    async def keep(self) -> None:
        """Writes what gathers, until cancelled. Run it in the task group of those who call."""
        batch: list[_Ticket[T, R]] = []
        try:
            while True:
                await self._some.wait()
                if len(self._waiting) < self._most:
                    await anyio.sleep(self._gather_s)
                batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                if not self._waiting:
                    self._some = anyio.Event()
                items = [ticket.item for ticket in batch]
                answers = await anyio.to_thread.run_sync(self._write, items, limiter=self._limiter)
                for ticket, answer in zip(batch, answers, strict=True):
                    ticket.answer = answer
                    ticket.answered.set()
        finally:
            # Those who wait are shielded from cancellation: leaving them without an answer would hang the worker.
            self._closed = True
            for ticket in [*batch, *self._waiting]:
                if not ticket.answered.is_set():
                    ticket.answer = Closed()
                    ticket.answered.set()
