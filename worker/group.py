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


class _Batch(Generic[T, R]):
    """What is written together."""

    __slots__ = ("answered", "answers", "items")

    def __init__(self) -> None:
        self.items: list[T] = []
        self.answers: Sequence[R | Exception] | None = None
        self.answered = anyio.Event()


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
        self._waiting: deque[_Batch[T, R]] = deque()
        self._some = anyio.Event()
        self._closed = False

    async def __call__(self, item: T) -> R:
        """Writes the item with others and returns its answer. Raises Closed when nobody writes any more."""
        if self._closed:
            raise Closed
        if not self._waiting or len(self._waiting[-1].items) >= self._most:
            self._waiting.append(_Batch())
        batch, place = self._waiting[-1], len(self._waiting[-1].items)
        batch.items.append(item)
        self._some.set()
        await batch.answered.wait()
        if batch.answers is None:
            raise Closed
        answer = batch.answers[place]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def keep(self) -> None:
        """Writes what gathers, until cancelled. Run it in the task group of those who call."""
        batch: _Batch[T, R] | None = None
        try:
            while True:
                await self._some.wait()
                if len(self._waiting[0].items) < self._most:
                    await anyio.sleep(self._gather_s)
                batch = self._waiting.popleft()
                if not self._waiting:
                    self._some = anyio.Event()
                answers = await anyio.to_thread.run_sync(self._write, batch.items, limiter=self._limiter)
                if len(answers) != len(batch.items):
                    raise AssertionError(f"{len(answers)} answers for {len(batch.items)} items")
                batch.answers = answers
                batch.answered.set()
        finally:
            # Those who wait are shielded from cancellation: leaving them without an answer would hang the worker.
            self._closed = True
            for left in [*([batch] if batch else []), *self._waiting]:
                left.answered.set()
