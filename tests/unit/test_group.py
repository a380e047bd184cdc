"""Gathering many tasks' items into few writes."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import anyio
import pytest

from worker.group import Closed, Group

pytestmark = pytest.mark.anyio


async def test_items_of_many_tasks_are_written_together_and_each_gets_its_own_answer() -> None:
    batches: list[int] = []

    def write(items: Sequence[int]) -> list[int | Exception]:
        batches.append(len(items))
        return [item * 10 for item in items]

    group = Group(write, limiter=anyio.CapacityLimiter(1))
    answers: dict[int, int] = {}

    async def one(n: int) -> None:
        answers[n] = await group(n)

    async with anyio.create_task_group() as tasks, anyio.create_task_group() as keeping:
        keeping.start_soon(group.keep)
        async with anyio.create_task_group() as tasks:
            for n in range(100):
                tasks.start_soon(one, n)
        keeping.cancel_scope.cancel()
    assert answers == {n: n * 10 for n in range(100)}
    assert len(batches) == 1


async def test_no_batch_is_larger_than_the_limit() -> None:
    batches: list[int] = []

    def write(items: Sequence[int]) -> list[int | Exception]:
        batches.append(len(items))
        return list(items)

    group = Group(write, limiter=anyio.CapacityLimiter(1), most=30)
    async with anyio.create_task_group() as keeping:
        keeping.start_soon(group.keep)
        async with anyio.create_task_group() as tasks:
            for n in range(100):
                tasks.start_soon(group, n)
        keeping.cancel_scope.cancel()
    assert sum(batches) == 100
    assert max(batches) == 30


async def test_an_answer_that_is_an_exception_is_raised_for_its_item_alone() -> None:
    def write(items: Sequence[int]) -> list[int | Exception]:
        return [ValueError(str(item)) if item == 2 else item for item in items]

    group = Group(write, limiter=anyio.CapacityLimiter(1))
    raised: list[str] = []

    async def one(n: int) -> None:
        try:
            assert await group(n) == n
        except ValueError as error:
            raised.append(str(error))

    async with anyio.create_task_group() as keeping:
        keeping.start_soon(group.keep)
        async with anyio.create_task_group() as tasks:
            for n in range(5):
                tasks.start_soon(one, n)
        keeping.cancel_scope.cancel()
    assert raised == ["2"]


async def test_those_who_wait_are_told_when_nobody_writes_any_more() -> None:
    """Recording is shielded from cancellation: without an answer the worker would hang for ever."""
    writing, go_on = threading.Event(), threading.Event()

    def write(items: Sequence[int]) -> list[int | Exception]:
        writing.set()
        go_on.wait(10)
        raise ZeroDivisionError

    group = Group(write, limiter=anyio.CapacityLimiter(1), most=1)
    closed: list[int] = []

    async def one(n: int) -> None:
        with anyio.CancelScope(shield=True):
            try:
                await group(n)
            except Closed:
                closed.append(n)

    async def all_at_once() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(group.keep)
            for n in range(3):
                tasks.start_soon(one, n)
            await anyio.to_thread.run_sync(writing.wait)
            go_on.set()

    with pytest.raises(BaseExceptionGroup):
        await all_at_once()
    assert sorted(closed) == [0, 1, 2]
    with pytest.raises(Closed):
        await group(9)
