"""The executor with a real child: whose fault an end was, and that nothing is left of it."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from handlers.protocol import Outcome
from tests.integration.executors import descendants, is_living, order, processes, sandboxes, settings, until
from worker.executor import Executor, ExecutorInterrupted, ExecutorLost, ExecutorState, Timeouts
from worker.sandbox import Rlimits

#: The strongest level that this host has; what differs between levels is in test_executor_sandbox.
SANDBOX = sandboxes()[-1]
QUICK = Timeouts(tick_s=0.02, timeout_grace_s=0.3, cancel_grace_s=0.3)


class Ends:
    """How attempts ended that were started together."""

    def __init__(self, executor: Executor, folder: Path) -> None:
        self._executor = executor
        self._folder = folder
        self.of: dict[str, Outcome | Exception] = {}

    async def run(self, name: str, type_: str, *, limit: float = 60, **params: Any) -> None:
        """Keeps what `run` returns or raises."""
        try:
            self.of[name] = await self._executor.run(order(self._folder, type_, **params), time_limit_s=limit)
        except (ExecutorLost, ExecutorInterrupted) as error:
            self.of[name] = error

    def failure(self, name: str) -> str:
        """The type of the failure, where it is one."""
        end = self.of[name]
        assert isinstance(end, Outcome)
        assert end.failure is not None
        return end.failure.type

    def alone(self, name: str) -> bool:
        end = self.of[name]
        assert isinstance(end, ExecutorLost)
        return end.alone


async def test_many_jobs_run_at_a_time_and_each_has_its_own_answer(tmp_path: Path) -> None:
    async with Executor(settings(tmp_path, SANDBOX)) as executor, anyio.create_task_group() as group:
        assert executor.info is None
        ready = await executor.ready()
        assert {"test.noop", "test.code", "image.caption"} <= set(ready.types)
        ends = Ends(executor, tmp_path)
        for n in range(300):
            group.start_soon(partial(ends.run, str(n), "test.code", code="found = given['n']", given={"n": n}))
    found = {name: end.result for name, end in ends.of.items() if isinstance(end, Outcome)}
    assert found == {str(n): {"found": n} for n in range(300)}
    assert executor.state is ExecutorState.STOPPED


async def test_outputs_lie_in_the_job_s_scratch_folder(tmp_path: Path) -> None:
    async with Executor(settings(tmp_path, SANDBOX)) as executor:
        given = order(tmp_path, "test.noop", output_bytes=1000)
        outcome = await executor.run(given, time_limit_s=60)
    (file,) = outcome.files
    assert Path(file.path).parent == Path(given.scratch)
    assert Path(file.path).read_bytes() == bytes(1000)


async def test_progress_is_heard(tmp_path: Path) -> None:
    heard: list[tuple[float, str]] = []
    async with Executor(settings(tmp_path, SANDBOX)) as executor:
        await executor.run(
            order(tmp_path, "test.act", act="progress"), time_limit_s=60, progress=lambda *told: heard.append(told)
        )
    assert heard == [(0.5, "half")]


@pytest.mark.parametrize("fault", ["segfault", "exit", "kill"])
async def test_a_job_that_kills_the_process_alone_is_to_blame_and_the_next_process_goes_on(
    tmp_path: Path, fault: str
) -> None:
    async with Executor(settings(tmp_path, SANDBOX)) as executor:
        ends = Ends(executor, tmp_path)
        await ends.run("culprit", "test.fault", fault=fault)
        await ends.run("next", "test.noop")
        assert executor.starts == 2
    assert ends.alone("culprit")
    assert isinstance(ends.of["next"], Outcome)


async def test_in_company_nobody_is_blamed_for_the_death_of_the_process(tmp_path: Path) -> None:
    async with Executor(settings(tmp_path, SANDBOX)) as executor:
        ends = Ends(executor, tmp_path)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: ends.run("neighbour", "test.act", act="sleep"))
            group.start_soon(lambda: ends.run("culprit", "test.fault", fault="segfault"))
    assert not ends.alone("culprit")
    assert not ends.alone("neighbour")
    assert "SIGSEGV" in str(ends.of["culprit"])


async def test_time_is_up_for_one_job_and_the_others_go_on(tmp_path: Path) -> None:
    async with Executor(settings(tmp_path, SANDBOX)) as executor:
        ends = Ends(executor, tmp_path)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: ends.run("late", "test.act", act="sleep", limit=0.2))
            group.start_soon(lambda: ends.run("other", "test.act", act="sleep", seconds=1.0))
        assert executor.starts == 1
    assert ends.failure("late") == "Timeout"
    assert isinstance(ends.of["other"], Outcome)


async def test_a_job_that_does_not_end_in_time_is_killed_and_alone_it_is_to_blame(tmp_path: Path) -> None:
    async with Executor(settings(tmp_path, SANDBOX, timeouts=QUICK)) as executor:
        ends = Ends(executor, tmp_path)
        await ends.run("hung", "test.act", act="hang in the pool", limit=0.2)
        await ends.run("next", "test.noop")
        assert (executor.starts, executor.deaths_in_a_row) == (2, 0)
    assert ends.failure("hung") == "Timeout"
    assert isinstance(ends.of["next"], Outcome)


async def test_a_job_that_does_not_end_in_time_is_a_loss_for_all_where_it_was_not_alone(tmp_path: Path) -> None:
    async with Executor(settings(tmp_path, SANDBOX, timeouts=QUICK)) as executor:
        ends = Ends(executor, tmp_path)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: ends.run("hung", "test.act", act="hang in the pool", limit=0.2))
            group.start_soon(lambda: ends.run("other", "test.act", act="sleep"))
    assert not ends.alone("hung")
    assert not ends.alone("other")


async def test_a_cancelled_job_ends_and_the_others_do_not_notice(tmp_path: Path) -> None:
    async with Executor(settings(tmp_path, SANDBOX)) as executor:
        ends = Ends(executor, tmp_path)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: ends.run("other", "test.act", act="sleep", seconds=0.5))
            with anyio.move_on_after(0.2) as scope:
                await executor.run(order(tmp_path, "test.act", act="sleep"), time_limit_s=60)
            assert scope.cancelled_caught
            assert executor.in_flight == 1
        assert executor.starts == 1
    assert isinstance(ends.of["other"], Outcome)


async def test_a_job_that_does_not_heed_its_cancel_is_killed_and_it_costs_the_others_nothing(tmp_path: Path) -> None:
    async with Executor(settings(tmp_path, SANDBOX, timeouts=QUICK)) as executor:
        ends = Ends(executor, tmp_path)
        hung = order(tmp_path, "test.act", act="hang in the loop")
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: ends.run("other", "test.act", act="sleep"))
            await until(lambda: executor.in_flight == 1)
            await executor.ready()

            async def run() -> None:
                ends.of["hung"] = await executor.run(hung, time_limit_s=60)

            group.start_soon(run)
            await until(lambda: executor.in_flight == 2)
            await anyio.sleep(0.05)
            executor.end(hung.key, "cancelled")
    assert ends.failure("hung") == "Cancelled"
    assert isinstance(ends.of["other"], ExecutorInterrupted)


async def test_an_interrupted_job_says_so(tmp_path: Path) -> None:
    async with Executor(settings(tmp_path, SANDBOX)) as executor:
        given = order(tmp_path, "test.act", act="sleep")
        async with anyio.create_task_group() as group:

            async def run() -> None:
                with pytest.raises(ExecutorInterrupted, match="the worker stopped"):
                    await executor.run(given, time_limit_s=60)

            group.start_soon(run)
            await executor.ready()
            await until(lambda: executor.in_flight)
            executor.end(given.key, "interrupted")
        assert executor.starts == 1


async def test_a_process_that_gives_no_sign_of_life_is_killed_as_a_loss(tmp_path: Path) -> None:
    timeouts = Timeouts(tick_s=0.02, beat_s=2.0)
    async with Executor(settings(tmp_path, SANDBOX, timeouts=timeouts)) as executor:
        ends = Ends(executor, tmp_path)
        await ends.run("hung", "test.act", act="hang in the loop")
    assert ends.alone("hung")
    assert "no sign of life" in str(ends.of["hung"])


async def test_a_process_stopped_by_a_signal_is_killed_too(tmp_path: Path) -> None:
    timeouts = Timeouts(tick_s=0.02, beat_s=2.0)
    async with Executor(settings(tmp_path, SANDBOX, timeouts=timeouts)) as executor:
        await executor.ready()
        assert executor.pid is not None
        for pid in descendants(executor.pid):
            os.kill(pid, signal.SIGSTOP)
        await until(lambda: executor.starts == 2)
        await executor.ready()


async def test_whatever_ends_the_executor_nothing_is_left_and_every_attempt_has_its_answer(tmp_path: Path) -> None:
    seconds = 5000 + os.getpid() / 1e6
    with anyio.CancelScope() as scope:
        async with Executor(settings(tmp_path, SANDBOX)) as executor, anyio.create_task_group() as group:
            ends = Ends(executor, tmp_path)
            group.start_soon(lambda: ends.run("a", "test.act", act="leave a program behind", seconds=seconds))
            group.start_soon(lambda: ends.run("b", "test.act", act="start a program", seconds=seconds))
            await until(lambda: len(processes("sleep", str(seconds))) == 2)
            assert executor.pid is not None
            tree = descendants(executor.pid)
            assert len(tree) >= 3
            scope.cancel()
    assert scope.cancelled_caught
    assert [pid for pid in tree if is_living(pid)] == []
    assert processes("sleep", str(seconds)) == []
    assert executor.state is ExecutorState.STOPPED


async def test_a_full_memory_fails_its_own_job_where_the_memory_is_limited(tmp_path: Path) -> None:
    limited = settings(tmp_path, SANDBOX, rlimits=Rlimits(data_bytes=2 << 30))
    async with Executor(limited) as executor:
        ends = Ends(executor, tmp_path)
        await ends.run("greedy", "test.fault", fault="allocate", megabytes=4096)
        await ends.run("next", "test.noop")
        assert executor.starts == 1
    assert ends.failure("greedy") == "ResourceExhausted"
    assert isinstance(ends.of["next"], Outcome)


async def test_an_attempt_cannot_be_under_way_twice(tmp_path: Path) -> None:
    async with Executor(settings(tmp_path, SANDBOX)) as executor:
        given = order(tmp_path, "test.act", act="sleep")
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: executor.run(given, time_limit_s=60))
            await until(lambda: executor.in_flight)
            with pytest.raises(ValueError, match="is under way already"):
                await executor.run(given, time_limit_s=60)
            group.cancel_scope.cancel()
