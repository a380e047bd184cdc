"""Who counts as silent: judged on one clock, with the database in sight throughout."""

from __future__ import annotations

import uuid

import pytest

from tests.fakes.clock import FakeClock
from worker.reaper import Silence

pytestmark = pytest.mark.anyio
A, B = uuid.UUID(int=1), uuid.UUID(int=2)


def silence(clock: FakeClock) -> Silence:
    return Silence(30, clock, gap_s=15)


async def look_for(
    watch: Silence, clock: FakeClock, seconds: float, beats: dict[uuid.UUID, int]
) -> dict[uuid.UUID, int]:
    """Looks every 2.5 s for so long; the answer of the last look."""
    silent: dict[uuid.UUID, int] = {}
    for _ in range(int(seconds / 2.5)):
        await clock.advance(2.5)
        silent = watch.observe(beats)
    return silent


async def test_a_worker_whose_beat_stands_still_for_a_whole_lease_is_silent() -> None:
    clock = FakeClock()
    watch = silence(clock)
    assert watch.observe({A: 7}) == {}
    assert await look_for(watch, clock, 27.5, {A: 7}) == {}
    assert await look_for(watch, clock, 2.5, {A: 7}) == {A: 7}


async def test_a_new_reaper_waits_a_full_lease_however_long_the_worker_has_been_dead() -> None:
    clock = FakeClock(start=1e9)
    watch = silence(clock)
    assert watch.observe({A: 7}) == {}


async def test_a_beat_starts_the_wait_anew_for_that_worker_alone() -> None:
    clock = FakeClock()
    watch = silence(clock)
    watch.observe({A: 1, B: 1})
    await look_for(watch, clock, 20, {A: 1, B: 1})
    await look_for(watch, clock, 2.5, {A: 2, B: 1})
    assert await look_for(watch, clock, 7.5, {A: 2, B: 1}) == {B: 1}


async def test_an_outage_of_the_database_proves_nobody_dead() -> None:
    clock = FakeClock()
    watch = silence(clock)
    watch.observe({A: 1})
    await look_for(watch, clock, 27.5, {A: 1})
    watch.forget()
    await clock.advance(600)
    assert watch.observe({A: 1}) == {}
    assert await look_for(watch, clock, 27.5, {A: 1}) == {}


async def test_a_reaper_that_was_stopped_itself_starts_over() -> None:
    clock = FakeClock()
    watch = silence(clock)
    watch.observe({A: 1})
    await look_for(watch, clock, 20, {A: 1})
    await clock.advance(60)
    assert watch.observe({A: 1}) == {}
    assert await look_for(watch, clock, 30, {A: 1}) == {A: 1}


async def test_a_worker_that_comes_back_after_it_was_away_is_watched_anew() -> None:
    clock = FakeClock()
    watch = silence(clock)
    watch.observe({A: 1})
    await look_for(watch, clock, 10, {})
    assert await look_for(watch, clock, 20, {A: 1}) == {}
