"""What every clock of the worker keeps, the real one and the fake."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import pytest

from tests.fakes.clock import FakeClock
from worker.clock import Clock, RealClock

#: Lets that much time pass, and returns when it has.
Passing = Callable[[float], Awaitable[None]]


@asynccontextmanager
async def real() -> AsyncIterator[tuple[Clock, Passing]]:
    yield RealClock(), anyio.sleep


@asynccontextmanager
async def fake() -> AsyncIterator[tuple[Clock, Passing]]:
    clock = FakeClock()
    yield clock, clock.advance


@pytest.fixture(params=[real, fake])
def opened(request: pytest.FixtureRequest) -> Callable[[], AbstractAsyncContextManager[tuple[Clock, Passing]]]:
    factory: Callable[[], AbstractAsyncContextManager[tuple[Clock, Passing]]] = request.param
    return factory


Opened = Callable[[], AbstractAsyncContextManager[tuple[Clock, Passing]]]


async def test_a_sleeper_wakes_when_its_time_has_passed_and_sleepers_wake_in_order(opened: Opened) -> None:
    async with opened() as (clock, passing):
        woken: list[tuple[str, float]] = []
        start = clock.monotonic()

        async def sleeper(name: str, seconds: float) -> None:
            await clock.sleep(seconds)
            woken.append((name, clock.monotonic() - start))

        async with anyio.create_task_group() as group:
            group.start_soon(sleeper, "late", 0.06)
            group.start_soon(sleeper, "early", 0.02)
            await anyio.wait_all_tasks_blocked()
            assert woken == []
            await passing(0.2)
        assert [name for name, _ in woken] == ["early", "late"]
        assert woken[0][1] >= 0.0199
        assert woken[1][1] >= 0.0599


async def test_time_never_goes_back(opened: Opened) -> None:
    async with opened() as (clock, passing):
        before = clock.monotonic()
        await passing(0.01)
        assert clock.monotonic() >= before + 0.009


@pytest.mark.parametrize("seconds", [0.0, -5.0])
async def test_sleeping_for_no_time_returns_and_is_a_place_where_a_cancel_takes_effect(
    opened: Opened, seconds: float
) -> None:
    async with opened() as (clock, _):
        await clock.sleep(seconds)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await clock.sleep(seconds)
        assert scope.cancelled_caught


async def test_a_cancelled_sleeper_does_not_hold_up_the_others(opened: Opened) -> None:
    async with opened() as (clock, passing):
        woken = anyio.Event()

        async def sleeper() -> None:
            await clock.sleep(0.02)
            woken.set()

        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await clock.sleep(0.01)
            group.start_soon(sleeper)
            await anyio.wait_all_tasks_blocked()
            await passing(0.1)
            with anyio.fail_after(1):
                await woken.wait()
        assert woken.is_set()
