"""When a worker must think itself dead: judged on its own clock alone."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from storage.claim import WorkerRetired
from storage.database import Unreachable
from tests.fakes.clock import FakeClock
from worker.lease import Lease, LeaseLost

BEAT, LEASE = 5.0, 30.0


class Beats(Lease):
    """A lease whose database is a list of what happens to each beat."""

    def __init__(self, clock: FakeClock, *happens: Exception | threading.Event | None) -> None:
        self.threads = anyio.CapacityLimiter(1)
        super().__init__(
            None,  # type: ignore[arg-type]  # never asked: `_beat` is below
            uuid.UUID(int=1),
            beat_s=BEAT,
            lease_s=LEASE,
            clock=clock,
            limiter=self.threads,
            doing=dict,
        )
        self._happens = list(happens)
        self.sent = 0

    def _beat(self, doing: Mapping[str, Any]) -> None:
        self.sent += 1
        happens = self._happens.pop(0) if self._happens else None
        if isinstance(happens, threading.Event):
            happens.wait(30)
        elif happens is not None:
            raise happens


@contextmanager
def lost(*, match: str) -> Any:
    with pytest.raises(ExceptionGroup) as raised:
        yield
    (error,) = raised.value.exceptions
    assert isinstance(error, LeaseLost)
    assert match in str(error)


async def answered(lease: Beats) -> None:
    """Waits until no beat is under way: the fake clock does not wait for what runs in threads."""
    await anyio.wait_all_tasks_blocked()
    while lease.threads.borrowed_tokens:
        await anyio.sleep(0.001)
        await anyio.wait_all_tasks_blocked()


async def keep_for(lease: Beats, clock: FakeClock, seconds: float) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lease.keep)
        tasks.start_soon(lease.watch)
        await answered(lease)
        for _ in range(int(seconds / BEAT)):
            await clock.advance(BEAT)
            await answered(lease)
        tasks.cancel_scope.cancel()


async def test_a_worker_beats_every_few_seconds_and_keeps_its_lease() -> None:
    clock = FakeClock()
    lease = Beats(clock)
    await keep_for(lease, clock, 60)
    assert lease.sent == 13
    assert not lease.lost


async def test_without_a_confirmed_beat_it_is_lost_one_beat_before_anybody_may_reclaim() -> None:
    clock = FakeClock()
    lease = Beats(clock, *[Unreachable("away")] * 100)
    begun = clock.monotonic()
    with lost(match="no beat was confirmed"):
        await keep_for(lease, clock, 60)
    assert clock.monotonic() - begun == LEASE - BEAT


async def test_an_outage_shorter_than_that_is_survived() -> None:
    clock = FakeClock()
    lease = Beats(clock, None, *[Unreachable("away")] * 3)
    await keep_for(lease, clock, 60)
    assert not lease.lost


async def test_the_time_of_a_beat_counts_from_before_it_was_sent() -> None:
    """The database may have counted it at once and only its answer was slow: a reaper's patience began then."""
    clock = FakeClock()
    answer = threading.Event()
    lease = Beats(clock, answer)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lease.keep)
        await anyio.wait_all_tasks_blocked()
        await clock.advance(20)
        answer.set()
        await answered(lease)
        assert lease.age_s == 20
        tasks.cancel_scope.cancel()


async def test_a_beat_that_hangs_does_not_hide_that_the_lease_is_lost() -> None:
    clock = FakeClock()
    answer = threading.Event()
    lease = Beats(clock, answer)

    async def hang() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lease.keep)
            tasks.start_soon(lease.watch)
            await anyio.wait_all_tasks_blocked()
            try:
                await clock.advance(LEASE)
            finally:
                answer.set()  # only now: the beat hung throughout

    with lost(match="no beat was confirmed"):
        await hang()
    assert lease.sent == 1


async def test_a_worker_that_was_retired_is_lost_at_its_next_beat() -> None:
    clock = FakeClock()
    lease = Beats(clock, None, WorkerRetired("1"))
    with lost(match="retired"):
        await keep_for(lease, clock, 60)
    assert lease.sent == 2
