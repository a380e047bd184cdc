"""Tasks that are kept from one attempt to the next."""

from __future__ import annotations

import uuid

import anyio
import anyio.lowlevel
import pytest

from storage.claim import ClaimedJob, Fence
from worker.attempts import Attempt, Stop
from worker.crew import Crew

pytestmark = pytest.mark.anyio


def _attempt() -> Attempt:
    fence = Fence(uuid.uuid4(), 1, uuid.uuid4())
    return Attempt(
        ClaimedJob(fence, "test.noop", "default", "backfill", 0, 0, 0, 3, None, None, {}, None, queued_s=0.0),
        started=0.0,
    )


async def test_attempts_run_side_by_side() -> None:
    together = 0
    all_here = anyio.Event()

    async def run(_: Attempt) -> None:
        nonlocal together
        together += 1
        if together == 5:
            all_here.set()
        await all_here.wait()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            crew = Crew(group, run)
            for _ in range(5):
                crew.start(_attempt())
            await all_here.wait()
            group.cancel_scope.cancel()
    assert together == 5


async def test_a_task_is_used_again_and_no_attempt_is_run_twice_or_left_out() -> None:
    tasks: set[int] = set()
    ran: list[uuid.UUID] = []
    attempts = [_attempt() for _ in range(60)]

    async def run(attempt: Attempt) -> None:
        tasks.add(anyio.get_current_task().id)
        ran.append(attempt.job.fence.id)
        await anyio.lowlevel.checkpoint()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            crew = Crew(group, run)
            for n in range(0, 60, 3):
                for attempt in attempts[n : n + 3]:
                    crew.start(attempt)
                await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
    assert sorted(ran) == sorted(attempt.job.fence.id for attempt in attempts)
    assert len(tasks) == 3


async def test_a_task_whose_attempt_was_stopped_runs_the_next_one_undisturbed() -> None:
    ways: list[str] = []

    async def run(attempt: Attempt) -> None:
        with attempt.scope:
            await anyio.sleep(0 if ways else 60)
        ways.append("stopped" if attempt.scope.cancelled_caught else "ran")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            crew = Crew(group, run)
            crew.start(first := _attempt())
            await anyio.wait_all_tasks_blocked()
            first.stop(Stop.CANCELLED)
            await anyio.wait_all_tasks_blocked()
            crew.start(_attempt())
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
    assert ways == ["stopped", "ran"]


async def test_what_an_attempt_raises_ends_the_group() -> None:
    async def run(_: Attempt) -> None:
        raise LookupError("the worker was retired")

    with pytest.raises(ExceptionGroup) as raised:
        async with anyio.create_task_group() as group:
            Crew(group, run).start(_attempt())
    assert raised.group_contains(LookupError)
