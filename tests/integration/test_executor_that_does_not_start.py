"""Who waits for an executor, or for his turn in one, and is not kept for ever."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import anyio
import pytest

from handlers.protocol import Hello, Limits, Order
from tests.fakes import executor_child
from worker.executor import Backoff, Executor, ExecutorInterrupted, ExecutorSettings, Timeouts
from worker.sandbox import Command

LIMITS = Limits(max_bytes=1, max_pixels=1, max_frames=1)
HELLO = Hello(device="cpu", cpu_threads=1, max_batch=1, checkpoints=(), roles={}, limits=LIMITS)


def executor(script: str) -> Executor:
    argv = (sys.executable, str(Path(executor_child.__file__)), script)
    command = Command(argv, {}, Path("/"), signal.SIGKILL)
    quick = Timeouts(tick_s=0.01)
    return Executor(ExecutorSettings("scripted", command, HELLO, 7, quick, Backoff(base_s=0.01, cap_s=0.02)))


def order(n: int) -> Order:
    return Order(key=f"{n}:1", type="test.noop", params={}, inputs={}, scratch="/", seed=1)


async def test_jobs_that_wait_for_an_executor_that_does_not_start_are_given_back() -> None:
    """Other workers may have one that does: the worker beats on, so that no reaper would take them."""
    async with executor("raise SystemExit(1)") as never:
        with anyio.fail_after(20), pytest.raises(ExecutorInterrupted, match="does not start"):
            await never.run(order(1), time_limit_s=3600)


async def test_who_waits_for_an_executor_that_does_not_start_is_told() -> None:
    async with executor("raise SystemExit(1)") as never:
        with anyio.fail_after(20), pytest.raises(ExecutorInterrupted, match="does not start"):
            await never.ready()
