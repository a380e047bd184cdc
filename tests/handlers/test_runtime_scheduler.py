"""`handlers.runtime.scheduler`: whose samples run next, and what a cancel does to them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from handlers.errors import ResourceExhausted, Retry
from handlers.models import CheckpointBroken
from handlers.protocol import CheckpointSpec
from handlers.runtime.device import DeviceBroken
from handlers.runtime.hub import Hub, UnknownCheckpoint
from handlers.runtime.scheduler import Scheduler, Usage
from tests.handlers.runtime_fakes import BrokenError, FakeDevice, FullError, Gate, hub


@asynccontextmanager
async def running(models: Hub, *, max_batch: int = 8) -> AsyncIterator[Scheduler]:
    scheduler = Scheduler(models, FakeDevice(), max_batch=max_batch)
    async with anyio.create_task_group() as group:
        group.start_soon(scheduler.run)
        yield scheduler
        group.cancel_scope.cancel()
    scheduler.close()


async def test_samples_of_different_jobs_share_a_batch_where_function_checkpoint_and_key_are_equal() -> None:
    gate, results = Gate(), {}
    async with running(hub("a", "b")) as scheduler, anyio.create_task_group() as group:

        async def ask(job: str, checkpoint: str, samples: list[str], key: str) -> None:
            results[job] = await scheduler.infer(Usage(job), gate, checkpoint, samples, key)

        group.start_soon(ask, "blocker", "a", ["blocker"], "")
        await gate.is_entered()
        group.start_soon(ask, "one", "a", ["1", "2"], "k")
        group.start_soon(ask, "other key", "a", ["3"], "l")
        group.start_soon(ask, "other model", "b", ["4"], "k")
        group.start_soon(ask, "two", "a", ["5"], "k")
        await anyio.wait_all_tasks_blocked()
        gate.open.set()
    assert gate.batches == [["blocker"], ["1", "2", "5"], ["3"], ["4"]]
    assert results["one"] == ["model a:1", "model a:2"]
    assert results["two"] == ["model a:5"]
    assert results["other model"] == ["model b:4"]


async def test_a_request_larger_than_a_batch_is_split_and_answered_in_order() -> None:
    gate = Gate()
    gate.open.set()
    async with running(hub("a"), max_batch=3) as scheduler:
        results = await scheduler.infer(Usage("j"), gate, "a", list(range(7)), ())
    assert results == [f"model a:{i}" for i in range(7)]
    assert [len(batch) for batch in gate.batches] == [3, 3, 1]


async def test_no_samples_are_answered_without_the_device() -> None:
    gate = Gate()
    async with running(hub("a")) as scheduler:
        assert await scheduler.infer(Usage("j"), gate, "a", [], ()) == []
    assert gate.batches == []


async def test_the_exception_of_a_failed_sample_reaches_its_own_job_only() -> None:
    async def ask(scheduler: Scheduler, job: str, sample: int) -> None:
        try:
            ends[job] = await scheduler.infer(Usage(job), function, "a", [sample], ())
        except ValueError as error:
            ends[job] = error

    def function(model: Any, samples: Sequence[int]) -> list[int]:
        if 2 in samples:
            raise ValueError("poison")
        return list(samples)

    ends: dict[str, Any] = {}
    async with running(hub("a")) as scheduler, anyio.create_task_group() as group:
        for sample in (1, 2, 3):
            group.start_soon(ask, scheduler, f"job {sample}", sample)
    assert ends["job 1"] == [1]
    assert ends["job 3"] == [3]
    assert isinstance(ends["job 2"], ValueError)


async def test_a_cancelled_job_s_queued_samples_are_withdrawn_at_once() -> None:
    gate, usage = Gate(), Usage("cancelled")
    async with running(hub("a")) as scheduler, anyio.create_task_group() as group:
        group.start_soon(scheduler.infer, Usage("blocker"), gate, "a", ["blocker"], ())
        await gate.is_entered()
        with anyio.fail_after(1):
            async with anyio.create_task_group() as cancelled:
                cancelled.start_soon(scheduler.infer, usage, gate, "a", ["x"] * 20, ())
                await anyio.wait_all_tasks_blocked()
                assert usage.queued == 20
                cancelled.cancel_scope.cancel()
        assert usage.queued == 0
        gate.open.set()
    assert gate.batches == [["blocker"]]


async def test_a_cancelled_job_does_not_await_a_batch_that_others_wait_for_and_the_last_of_them_does() -> None:
    gate, one, other = Gate(), Usage("one"), Usage("other")
    left: list[str] = []

    async def ask(usage: Usage) -> None:
        try:
            await scheduler.infer(usage, gate, "a", [usage.job], ())
        finally:
            left.append(usage.job)

    async with running(hub("a"), max_batch=2) as scheduler, anyio.create_task_group() as group:
        group.start_soon(scheduler.infer, Usage("first"), gate, "a", ["first"], ("alone",))
        await gate.is_entered()
        scopes = []
        for usage in (one, other):
            scopes.append(anyio.CancelScope())
            group.start_soon(_within, scopes[-1], ask, usage)
        while one.queued + other.queued < 2:
            await anyio.lowlevel.checkpoint()
        gate.entered.clear()
        gate.open.set()
        gate.open = threading.Event()
        await gate.is_entered()
        assert set(scheduler.on_device) == {"one", "other"}
        scopes[0].cancel()
        await anyio.wait_all_tasks_blocked()
        assert left == ["one"]
        scopes[1].cancel()
        await anyio.wait_all_tasks_blocked()
        assert left == ["one"]
        gate.open.set()
    assert left == ["one", "other"]


async def _within(scope: anyio.CancelScope, work: Callable[[Usage], Awaitable[None]], usage: Usage) -> None:
    with scope:
        await work(usage)


async def test_a_cancelled_job_s_sample_on_the_device_is_awaited() -> None:
    gate, usage = Gate(), Usage("cancelled")
    async with running(hub("a")) as scheduler, anyio.create_task_group() as group:
        scope = anyio.CancelScope()
        left = anyio.Event()

        async def ask() -> None:
            with scope:
                await scheduler.infer(usage, gate, "a", ["x"], ())
            left.set()

        group.start_soon(ask)
        await gate.is_entered()
        assert scheduler.on_device == ("cancelled",)
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert not left.is_set()
        gate.open.set()
        with anyio.fail_after(5):
            await left.wait()
    assert scope.cancelled_caught
    assert (usage.queued, usage.on_device, scheduler.on_device) == (0, 0, ())


async def test_wait_and_infer_are_measured_and_the_device_s_seconds_are_shared_out() -> None:
    now = 0.0

    def function(model: Any, samples: Sequence[int]) -> list[int]:
        nonlocal now
        now += 8.0
        return list(samples)

    usages = [Usage("one"), Usage("two")]
    scheduler = Scheduler(hub("a"), FakeDevice(), max_batch=4, clock=lambda: now)
    async with anyio.create_task_group() as group:
        async with anyio.create_task_group() as asking:
            asking.start_soon(scheduler.infer, usages[0], function, "a", [1, 2, 3], ())
            asking.start_soon(scheduler.infer, usages[1], function, "a", [4], ())
            await anyio.wait_all_tasks_blocked()
            now = 5.0
            group.start_soon(scheduler.run)
        group.cancel_scope.cancel()
    scheduler.close()
    assert [(usage.wait, usage.infer) for usage in usages] == [(5.0, 6.0), (5.0, 2.0)]


async def test_an_unknown_checkpoint_is_named_beside_the_known_ones() -> None:
    async with running(hub("a", "b")) as scheduler:
        with pytest.raises(UnknownCheckpoint, match="'c' is unknown to this executor; known: a, b"):
            await scheduler.infer(Usage("j"), Gate(), "c", [1], ())


@pytest.mark.parametrize(
    ("error", "kind"),
    [(CheckpointBroken("a is torn"), Retry), (KeyError("x"), Retry), (FullError("2 TB"), ResourceExhausted)],
)
async def test_a_checkpoint_that_does_not_load_fails_the_jobs_that_want_it_and_no_others(
    error: Exception, kind: type[Exception]
) -> None:
    def load(spec: CheckpointSpec, device: str) -> str:
        if spec.name == "torn":
            raise error
        return "model"

    gate = Gate()
    gate.open.set()
    async with running(hub("torn", "whole", load=load)) as scheduler:
        with pytest.raises(kind):
            await scheduler.infer(Usage("j"), gate, "torn", [1, 2], ())
        assert await scheduler.infer(Usage("j"), gate, "whole", [1], ()) == ["model:1"]


async def test_a_broken_device_ends_the_scheduler_and_lets_nobody_wait() -> None:
    asked: list[Sequence[int]] = []

    def function(model: Any, samples: Sequence[int]) -> list[int]:
        asked.append(samples)
        raise BrokenError("illegal access")

    scheduler = Scheduler(hub("a"), FakeDevice(), max_batch=4)
    with pytest.RaisesGroup(DeviceBroken, DeviceBroken):
        async with anyio.create_task_group() as group:
            group.start_soon(scheduler.infer, Usage("j"), function, "a", [1], ())
            group.start_soon(scheduler.run)
    scheduler.close()
    assert [list(samples) for samples in asked] == [[1]]


async def test_a_checkpoint_is_loaded_once_however_many_ask() -> None:
    loaded = []

    def load(spec: CheckpointSpec, device: str) -> str:
        loaded.append(spec.name)
        return "model"

    models = hub("a", load=load)
    async with running(models, max_batch=1) as scheduler, anyio.create_task_group() as group:
        gate = Gate()
        gate.open.set()
        for _ in range(5):
            group.start_soon(scheduler.infer, Usage("j"), gate, "a", [1], ())
    assert loaded == ["a"]
    assert len(gate.batches) == 5


async def test_nobody_who_prepares_samples_waits_for_the_weights_of_another_checkpoint() -> None:
    loading, loaded = threading.Event(), threading.Event()

    def load(spec: CheckpointSpec, device: str) -> str:
        loading.set()
        assert loaded.wait(10)
        return "model"

    models, gate = hub("large", "small", load=load), Gate()
    gate.open.set()
    async with running(models) as scheduler, anyio.create_task_group() as group:
        group.start_soon(scheduler.infer, Usage("j"), gate, "large", [1], ())
        await anyio.to_thread.run_sync(loading.wait, 10)
        prepares = threading.Thread(target=models.processor, args=("small",), daemon=True)
        prepares.start()
        await anyio.to_thread.run_sync(prepares.join, 5)
        waits = prepares.is_alive()
        loaded.set()
    assert not waits


def test_what_is_surely_missing_is_found_without_loading_anything(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    there = CheckpointSpec(name="there", family="clip", path=str(tmp_path), dtype="float32", digest="0")
    gone = CheckpointSpec(name="gone", family="clip", path=str(tmp_path / "gone"), dtype="float32", digest="0")
    models = Hub([there, gone], "cpu", load=lambda spec, device: pytest.fail("loaded"))
    missing = models.missing(["there", "gone", "other"])
    assert missing["other"] == "it is not in the catalogue"
    assert "mediamill models pull" in missing["gone"]
    assert set(missing) == {"gone", "other"}
