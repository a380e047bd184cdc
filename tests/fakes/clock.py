"""A clock that stands still until it is moved."""

from __future__ import annotations

import heapq
from itertools import count

import anyio
import anyio.lowlevel

#: Turns of the loop that a woken sleeper has before time moves on: enough to do a little and sleep again.
_TURNS = 5


class FakeClock:
    """Time moves by `advance` alone; sleepers wake in the order of their moments."""

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._order = count()
        self._sleepers: list[tuple[float, int, anyio.Event]] = []

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        woken = anyio.Event()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), woken))
        await woken.wait()

    async def advance(self, seconds: float) -> None:
        """Moves time on, stopping at each sleeper's moment to let it go on; returns when all tasks wait again."""
        end = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            moment, _, woken = heapq.heappop(self._sleepers)
            self._now = max(self._now, moment)
            woken.set()
            for _ in range(_TURNS):
                await anyio.lowlevel.checkpoint()
        self._now = end
        await anyio.wait_all_tasks_blocked()
