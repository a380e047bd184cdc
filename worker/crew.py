"""Tasks that run attempts, kept from one to the next: making a task takes longer than all else of a small job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.abc

from worker.attempts import Attempt


class Crew:
    """Runs attempts side by side, each in a task of its own for as long as it lasts.

    There are as many tasks as there ever were attempts at a time; those without one wait. What `run` raises ends the
    group. The context variables of an attempt stay until its task has the next one.
    """

    def __init__(self, group: anyio.abc.TaskGroup, run: Callable[[Attempt], Awaitable[None]]) -> None:
        self._group = group
        self._run = run
        self._idle: list[_Hand] = []

    def start(self, attempt: Attempt) -> None:
        """Has the attempt run soon."""
        if self._idle:
            hand = self._idle.pop()
        else:
            hand = _Hand()
            self._group.start_soon(self._work, hand)
        hand.give(attempt)

    async def _work(self, hand: _Hand) -> None:
        while True:
            await self._run(await hand.attempt())
            self._idle.append(hand)


class _Hand:
    """One of the tasks."""

    __slots__ = ("_attempt", "_given")

    def __init__(self) -> None:
        self._attempt: Attempt | None = None
        # Not an event, of which each attempt would need a new one.
        self._given = anyio.Semaphore(0, fast_acquire=True)

    def give(self, attempt: Attempt) -> None:
        """For a hand that has none."""
        self._attempt = attempt
        self._given.release()

    async def attempt(self) -> Attempt:
        """The next one, as soon as there is one."""
        await self._given.acquire()
        attempt, self._attempt = self._attempt, None
        assert attempt is not None
        return attempt
