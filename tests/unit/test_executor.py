"""`worker.executor` with a child that follows a script, and with a clock that the test moves."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.protocol import CheckpointSpec, Hello, Limits, Order, Outcome
from tests.fakes import executor_child
from tests.fakes.clock import FakeClock
from worker.clock import RealClock
from worker.executor import (
    Backoff,
    Executor,
    ExecutorInterrupted,
    ExecutorLost,
    ExecutorSettings,
    ExecutorState,
    Timeouts,
)
from worker.executor_lines import LineTooLong, RateCap, forward_log, lines
from worker.sandbox import Command

LIMITS = Limits(max_bytes=1, max_pixels=1, max_frames=1)
HELLO = Hello(device="cpu", cpu_threads=1, max_batch=1, checkpoints=(), roles={}, limits=LIMITS)
SERVE = "while (line := hear()): succeed(line)"
GREET = "hear(); ready()\n"


def scripted(script: str, *, timeouts: Timeouts | None = None, backoff: Backoff | None = None) -> ExecutorSettings:
    argv = (sys.executable, str(Path(executor_child.__file__)), script)
    command = Command(argv, {}, Path("/"), signal.SIGKILL)
    return ExecutorSettings(
        "scripted",
        command,
        HELLO,
        capacity=7,
        timeouts=timeouts or Timeouts(tick_s=0.01),
        backoff=backoff or Backoff(base_s=0.01),
    )


def order(n: int = 0) -> Order:
    return Order(key=f"{uuid.UUID(int=n)}:1", type="test.noop", params={}, inputs={}, scratch="/", seed=1)


async def end_of(executor: Executor, given: Order, limit: float = 60) -> Outcome | Exception:
    with anyio.fail_after(10):
        try:
            return await executor.run(given, time_limit_s=limit)
        except (ExecutorLost, ExecutorInterrupted) as error:
            return error


def refusal(end: Outcome | Exception) -> str:
    assert isinstance(end, Outcome)
    assert end.failure is not None
    assert end.failure.type == "HandlerBug"
    return end.failure.message


# --- what the child says is not believed ---


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("hear(); say('not json')", "protocol"),
        ("hear(); say({'op': 'hello'})", "protocol"),
        ("hear(); ready(version=2)", "protocol"),
        ("hear(); ready(); ready()", "protocol"),
        ("hear(); ready(surprise=1)", "protocol"),
        ("hear(); say({'op': 'outcomes', 'items': []})", "protocol"),
        ("hear(); ready(); hear(); say('[' * 5000)", "protocol"),
        ("hear(); ready(); hear(); say('\\udcff')", "protocol|died"),
        ("hear(); ready(); hear(); sys.exit(9)", "exit status 9"),
        ("hear(); ready(); hear(); import os; os.kill(os.getpid(), 11)", "SIGSEGV"),
    ],
)
async def test_a_child_that_breaks_the_protocol_or_dies_is_lost_with_the_reason(script: str, reason: str) -> None:
    async with Executor(scripted(f"{script}; hear(); hear()")) as executor, anyio.create_task_group() as group:
        group.start_soon(end_of, executor, order())
        await settled(lambda: executor.deaths_in_a_row)
        group.cancel_scope.cancel()
    assert executor.last_error is not None
    assert any(words in executor.last_error for words in reason.split("|"))


async def test_a_line_without_an_end_is_cut_off_and_its_sender_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.executor_process.MAX_LINE_BYTES", 100_000)
    async with Executor(scripted(GREET + "hear(); sys.stdout.write('x' * 10**7); hear()")) as executor:
        end = await end_of(executor, order())
    assert isinstance(end, ExecutorLost)
    assert end.alone
    assert "protocol" in str(end)


@pytest.mark.parametrize("part", ["[]", "{}"])
async def test_a_line_that_would_take_gigabytes_when_parsed_is_not_parsed(part: str) -> None:
    """An empty list is two bytes of JSON and some hundred in memory."""
    flood = f"say('{{\"op\":\"outcomes\",\"items\":[' + '{part},' * 600_000 + '{part}]}}'); hear()"
    async with Executor(scripted(f"{GREET}hear(); {flood}")) as executor:
        end = await end_of(executor, order())
    assert isinstance(end, ExecutorLost)
    assert "protocol" in str(end)


async def test_a_checkpoint_that_a_beat_says_is_broken_counts_as_if_it_had_been_said_at_the_start() -> None:
    beat = "say({'op': 'beat', 'jobs': 0, 'broken': {'ours': 'is torn', 'unheard of': 'x'}})\n"
    settings = scripted(GREET + beat + SERVE)
    spec = CheckpointSpec(name="ours", family="clip", path="/", dtype="float32", digest="0")
    settings = dataclasses.replace(settings, hello=HELLO.model_copy(update={"checkpoints": (spec,)}))
    async with Executor(settings) as executor:
        await end_of(executor, order())
        assert executor.info is not None
        assert executor.info.broken == {"ours": "is torn"}


async def test_outcomes_of_unknown_and_settled_jobs_are_ignored() -> None:
    script = (
        GREET
        + "line = hear(); say({'op': 'outcomes', 'items': [outcome('unknown:1')]}); succeed(line); succeed(line)\n"
        + SERVE
    )
    async with Executor(scripted(script)) as executor:
        ends = [await end_of(executor, order(n)) for n in range(3)]
        assert executor.starts == 1
    assert all(isinstance(end, Outcome) and end.result == {} for end in ends)


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"result": {"x": "\x00"}}, "a NUL character"),
        ({"result": {"\x00": 1}}, "a NUL character"),
        ({"result": {"x": float("nan")}}, "the number nan"),
        ({"result": None}, "either a result or a failure"),
        ({"failure": {"type": "Timeout", "message": ""}}, "either a result or a failure"),
        ({"result": None, "failure": {"type": "Interrupted", "message": ""}}, "nobody had asked"),
        ({"result": None, "failure": {"type": "Timeout", "message": "", "waiting": True}}, "nobody had asked"),
        ({"texts": [{"of": "inputs/image", "kind": "caption", "text": "\x00"}]}, "a NUL character"),
    ],
)
async def test_an_answer_that_cannot_be_believed_fails_its_own_job(given_: dict[str, Any], words: str) -> None:
    script = GREET + f"nan = float('nan'); succeed(hear(), **{given_!r})\n" + SERVE
    async with Executor(scripted(script)) as executor:
        assert words in refusal(await end_of(executor, order(1)))
        assert isinstance(await end_of(executor, order(2)), Outcome)
        assert executor.starts == 1


async def test_words_of_progress_out_of_range_are_not_passed_on() -> None:
    heard: list[Any] = []
    script = (
        GREET
        + (
            "line = hear(); key = line['jobs'][0]['key']\n"
            "for k, f in ((key, 2), (key, 0.25), ('other:1', 0.5)): say({'op': 'progress', 'key': k, 'fraction': f})\n"
            "succeed(line)\n"
        )
        + SERVE
    )
    async with Executor(scripted(script)) as executor:
        await executor.run(order(), time_limit_s=60, progress=lambda *told: heard.append(told))
    assert heard == [(0.25, "")]


# --- time ---


async def started(executor: Executor, ends: list[Outcome | Exception], given: Order, limit: float) -> None:
    ends.append(await end_of(executor, given, limit))


async def test_the_time_limit_counts_from_when_the_executor_has_the_order_and_then_the_grace() -> None:
    clock, ends = FakeClock(), list[Outcome | Exception]()
    patient = Timeouts(gather_s=0, timeout_grace_s=30, tick_s=1, beat_s=10_000)
    script = GREET + "hear(); line = hear(); say({'op': 'beat', 'jobs': 1, 'on_device': ['x']}); hear()"
    async with (
        Executor(scripted(script, timeouts=patient), clock=clock) as executor,
        anyio.create_task_group() as group,
    ):
        await executor.ready()
        group.start_soon(started, executor, ends, order(), 3600.0)
        await settled(lambda: executor.in_flight == 1)
        await anyio.wait_all_tasks_blocked()
        await clock.advance(3598)
        assert executor.beat is None
        await clock.advance(3)
        await settled(lambda: executor.beat is not None)  # it was told, and said so
        await clock.advance(28)
        assert ends == []
        await clock.advance(4)
        await settled(lambda: ends)
    (end,) = ends
    assert isinstance(end, Outcome)
    assert end.failure is not None
    assert (end.failure.type, end.failure.waiting) == ("Timeout", False)


async def test_a_job_that_only_waited_when_its_time_ran_out_says_so() -> None:
    script = (
        GREET
        + (
            "line = hear(); said = hear(); assert said['reason'] == 'timeout', said;"
            "succeed(line, result=None, failure={'type': 'Timeout', 'message': 'w', 'waiting': True})\n"
        )
        + SERVE
    )
    async with Executor(scripted(script)) as executor:
        end = await end_of(executor, order(), 0.05)
    assert isinstance(end, Outcome)
    assert end.failure is not None
    assert end.failure.waiting


async def settled(condition: Callable[[], object]) -> None:
    """Waits for what a child does, which moves no fake clock."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - the child sets no event
            await anyio.sleep(0.005)


async def test_a_child_that_is_never_ready_is_ended_after_the_time_for_starting() -> None:
    clock = FakeClock()
    async with Executor(scripted("hear(); hear()", timeouts=Timeouts(start_s=300, tick_s=1)), clock=clock) as executor:
        await settled(lambda: executor.pid is not None)
        await clock.advance(299)
        assert executor.state is ExecutorState.STARTING
        await clock.advance(2)
        await settled(lambda: executor.state is ExecutorState.BACKING_OFF)
    assert executor.last_error is not None
    assert "was not ready after 300 s" in executor.last_error


async def test_silence_while_something_is_on_the_device_is_borne() -> None:
    clock = FakeClock()
    # It hears twice more: the order's own time is up at the same moment, and that word must not end it.
    last = "say({'op': 'beat', 'jobs': 0}); hear(); hear()"
    script = GREET + f"say({{'op': 'beat', 'jobs': 1, 'on_device': ['k']}}); hear(); {last}"
    settings = scripted(script, timeouts=Timeouts(gather_s=0, tick_s=1))
    async with Executor(settings, clock=clock) as executor, anyio.create_task_group() as group:
        await settled(lambda: executor.beat is not None)
        await clock.advance(1000)
        assert executor.state is ExecutorState.READY
        group.start_soon(end_of, executor, order())
        await settled(lambda: executor.beat is not None and not executor.beat.on_device)
        await clock.advance(61)
        await settled(lambda: executor.state is ExecutorState.BACKING_OFF)
        group.cancel_scope.cancel()
    assert executor.last_error is not None
    assert "no sign of life for 60 s" in executor.last_error


async def test_starts_are_spaced_by_a_growing_capped_delay_and_anew_after_a_good_run() -> None:
    clock, delays = FakeClock(), []
    backoff = Backoff(base_s=1, cap_s=8, good_run_s=30)
    # A child that only greets is silent: it must not be ended for that while the clock is moved on.
    timeouts = Timeouts(gather_s=0, tick_s=1, beat_s=1000)
    settings = scripted(GREET + "hear()", backoff=backoff, timeouts=timeouts)
    async with Executor(settings, clock=clock, rng=random.Random(7)) as executor:
        for ran in (0, 0, 0, 0, 0, 100, 0):
            await settled(lambda: executor.state is ExecutorState.READY)
            await clock.advance(ran)
            assert executor.pid is not None
            os.kill(executor.pid, signal.SIGKILL)
            await settled(lambda: executor.state is ExecutorState.BACKING_OFF)
            starts, died = executor.starts, clock.monotonic()
            while executor.starts == starts:
                await clock.advance(0.05)
            delays.append(clock.monotonic() - died)
    expected = [1, 2, 4, 8, 8, 1, 2]
    assert all(most / 2 <= delay <= most + 0.06 for delay, most in zip(delays, expected, strict=True)), delays
    assert len(set(delays)) > 3


@given(st.integers(1, 5000), st.integers())
def test_a_delay_is_never_beyond_its_cap_nor_without_jitter(deaths: int, seed: int) -> None:
    delay = Backoff(base_s=0.5, cap_s=60).delay(deaths, random.Random(seed))
    assert 0.25 <= delay <= 60


async def test_a_command_that_cannot_be_started_is_tried_again_and_named() -> None:
    command = Command(("/nonexistent/python",), {}, Path("/"), signal.SIGKILL)
    settings = ExecutorSettings("missing", command, HELLO, capacity=1, backoff=Backoff(base_s=0.01))
    async with Executor(settings) as executor:
        await settled(lambda: executor.starts >= 3)
        assert executor.last_error is not None
        assert "/nonexistent/python" in executor.last_error


# --- whose jobs they are ---


async def test_orders_that_no_process_had_yet_are_kept_for_the_next_one(tmp_path: Path) -> None:
    flag = tmp_path / "died once"
    script = f"""
import os
hear()
if not os.path.exists({str(flag)!r}):
    open({str(flag)!r}, "w").close()
    sys.exit(1)
ready()
{SERVE}
"""
    async with Executor(scripted(script)) as executor:
        end = await end_of(executor, order())
        assert executor.starts == 2
    assert isinstance(end, Outcome)


async def test_a_job_cancelled_before_any_process_had_it_is_never_sent() -> None:
    async with Executor(scripted("hear(); hear()")) as executor:
        ends: list[Outcome | Exception] = []
        async with anyio.create_task_group() as group:
            for n in (1, 2):
                group.start_soon(started, executor, ends, order(n), 60)
            await settled(lambda: executor.in_flight == 2)
            executor.end(order(1).key, "cancelled")
            executor.end(order(2).key, "interrupted")
            executor.end(order(3).key, "cancelled")
    (outcome,) = [end for end in ends if isinstance(end, Outcome)]
    assert outcome.failure is not None
    assert outcome.failure.type == "Cancelled"
    assert len([end for end in ends if isinstance(end, ExecutorInterrupted)]) == 1


async def test_when_the_executor_is_stopped_every_attempt_has_its_answer() -> None:
    ends: list[Outcome | Exception] = []
    async with anyio.create_task_group() as group, Executor(scripted(GREET + "hear(); hear()")) as executor:
        for n in range(3):
            group.start_soon(started, executor, ends, order(n), 60)
        await settled(lambda: executor.in_flight == 3)
        assert executor.capacity == 7
    assert [type(end) for end in ends] == [ExecutorInterrupted] * 3
    assert executor.in_flight == 0


# --- lines ---


class Chunks:
    """A stream of given pieces."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = list(chunks)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint()
        if not self._chunks:
            raise anyio.EndOfStream
        return self._chunks.pop(0)


@given(st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"")), max_size=10), st.integers(1, 30))
def test_lines_do_not_depend_on_the_pieces_they_come_in(said: list[bytes], size: int) -> None:
    whole = b"".join(line + b"\n" for line in said)
    pieces = [whole[i : i + size] for i in range(0, len(whole), size)]

    async def read() -> list[bytes]:
        return [line async for line in lines(Chunks(*pieces), 1000)]

    assert anyio.run(read) == said


async def test_a_line_is_refused_as_soon_as_it_is_too_long() -> None:
    read = lines(Chunks(b"ok\n", b"x" * 600, b"x" * 600, b"\n"), 1000)
    assert await anext(read) == b"ok"
    with pytest.raises(LineTooLong):
        await anext(read)


async def test_a_flood_of_log_lines_is_capped_and_the_rest_counted(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    cap = RateCap(clock, per_s=10)
    flood = b"".join(b'{"event": "line %d", "level": "error"}\n' % n for n in range(1000))
    await forward_log(Chunks(flood, b"\xff not json", b" and no end"), "x", cap)
    assert cap.suppressed == 991
    await clock.advance(1)
    assert [cap.allows() for _ in range(12)] == [True] * 10 + [False] * 2


def test_a_rate_cap_keeps_its_rate_on_the_real_clock_too() -> None:
    cap = RateCap(RealClock(), per_s=5)
    assert sum(cap.allows() for _ in range(100)) == 5
