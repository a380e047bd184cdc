"""`handlers.runtime.session` and `pipe`: the conversation, with the test as the courier."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from handlers.declaration import Context, Job
from handlers.protocol import Beat, Cancel, Hello, Line, Order, Outcome, Outcomes, Ready, Run, Stop, from_executor
from handlers.registry import Registry
from handlers.runtime.hub import Hub
from handlers.runtime.pipe import LineReader, LineWriter
from handlers.runtime.session import Session
from tests.handlers.runtime_fakes import LIMITS, BrokenError, FakeDevice, Word, handler, hub, spec


class LeftError(Exception):
    """In place of the end of the process."""


class Courier:
    """The other end of a session's pipes."""

    def __init__(self, orders: int, answers: int) -> None:
        self._orders = orders
        self._reader = LineReader(answers)
        self.beats: list[Beat] = []

    def say(self, line: Line) -> None:
        os.write(self._orders, line.model_dump_json().encode() + b"\n")

    async def hear(self) -> Any:
        """The next line that is no beat."""
        with anyio.fail_after(10):
            while True:
                line = await self._reader.line()
                assert line is not None
                said = from_executor.validate_json(line)
                if not isinstance(said, Beat):
                    return said
                self.beats.append(said)

    async def outcomes(self, n: int) -> dict[str, Outcome]:
        found: dict[str, Outcome] = {}
        while len(found) < n:
            said = await self.hear()
            assert isinstance(said, Outcomes)
            found |= {outcome.key: outcome for outcome in said.items}
        return found

    def order(self, **given: Any) -> Order:
        plain = {"key": f"{uuid.uuid4()}:1", "type": "test.body", "params": {}, "inputs": {}, "scratch": "/", "seed": 1}
        return Order(**(plain | given))

    def hang_up(self) -> None:
        os.close(self._orders)
        self._orders = -1

    def close(self) -> None:
        if self._orders >= 0:
            os.close(self._orders)


def hello(**given: Any) -> Hello:
    plain = {"device": "cpu", "cpu_threads": 2, "max_batch": 4, "checkpoints": (), "roles": {}, "limits": LIMITS}
    return Hello(**(plain | given))


@asynccontextmanager
async def session(
    body: Callable[[Job[Any], Context], Awaitable[Any]],
    *,
    greeting: Hello | None = None,
    models: Hub | None = None,
    ends: list[int] | None = None,
) -> AsyncIterator[Courier]:
    orders_out, orders_in = os.pipe()
    answers_out, answers_in = os.pipe()
    courier = Courier(orders_in, answers_out)
    left: list[int] = [] if ends is None else ends

    def leave(status: int) -> None:
        left.append(status)
        raise LeftError

    made = Session(
        LineReader(orders_out),
        LineWriter(answers_in),
        greeting or hello(),
        Registry([handler(body)]),
        models or hub(),
        leave=leave,
    )
    made._scheduler._device = FakeDevice()

    async def serve() -> None:
        try:
            await made.serve()
        except* LeftError:
            pass

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(serve)
            yield courier
            group.cancel_scope.cancel()
    finally:
        courier.close()
        for fd in (orders_out, answers_out, answers_in):
            os.close(fd)


async def seed(job: Job[Any], ctx: Context) -> Word:
    return Word(word=str(job.seed))


async def test_it_says_what_it_can_do_and_then_runs_jobs_many_at_a_time() -> None:
    async with session(seed) as courier:
        ready = await courier.hear()
        assert isinstance(ready, Ready)
        assert (ready.device, ready.types, ready.broken) == ("cpu", ("test.body",), {})
        assert "pydantic" in ready.libraries
        orders = [courier.order(seed=n) for n in range(500)]
        courier.say(Run(jobs=tuple(orders)))
        outcomes = await courier.outcomes(500)
    assert {key: outcome.result for key, outcome in outcomes.items()} == {
        order.key: {"word": str(order.seed)} for order in orders
    }


async def test_missing_and_torn_checkpoints_of_roles_and_preloads_are_told(tmp_path: Path) -> None:
    for name in ("torn", "whole"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    loaded = []

    def load(checkpoint: Any, device: str) -> str:
        loaded.append(checkpoint.name)
        if checkpoint.name == "torn":
            raise ValueError("its tensors are torn")
        return "model"

    specs = [
        spec(name).model_copy(update={"path": str(tmp_path / name)}) for name in ("torn", "whole", "gone", "unused")
    ]
    models = Hub(specs, "cpu", load=load, load_processor=lambda checkpoint: None)
    greeting = hello(roles={"caption": "gone"}, preload=("torn", "whole", "gone"))
    async with session(seed, greeting=greeting, models=models) as courier:
        ready = await courier.hear()
    assert set(ready.broken) == {"torn", "gone"}
    assert "its tensors are torn" in ready.broken["torn"]
    assert loaded == ["torn", "whole"]


async def test_a_cancel_ends_its_job_and_no_other() -> None:
    async def body(job: Job[Any], ctx: Context) -> Word:
        if job.seed == 1:
            await anyio.sleep_forever()
        return Word(word="done")

    async with session(body) as courier:
        await courier.hear()
        endless, other = courier.order(seed=1), courier.order(seed=2)
        courier.say(Run(jobs=(endless,)))
        courier.say(Cancel(key=endless.key, reason="cancelled"))
        courier.say(Cancel(key="unknown:1", reason="cancelled"))
        courier.say(Run(jobs=(other,)))
        outcomes = await courier.outcomes(2)
    assert outcomes[other.key].result == {"word": "done"}
    assert outcomes[endless.key].failure is not None


async def test_a_job_whose_answer_cannot_be_sent_fails_alone() -> None:
    async def body(job: Job[Any], ctx: Context) -> Word:
        return Word(word="\x00" if job.seed else "fine")

    async with session(body) as courier:
        await courier.hear()
        bad, good = courier.order(seed=1), courier.order(seed=0)
        courier.say(Run(jobs=(bad, good)))
        outcomes = await courier.outcomes(2)
    assert outcomes[good.key].result == {"word": "fine"}
    assert outcomes[bad.key].failure is not None
    assert "a NUL character" in outcomes[bad.key].failure.message


async def test_beats_come_from_the_loop_and_tell_what_is_on_the_device() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def function(model: Any, samples: Any) -> Any:
        entered.set()
        assert go_on.wait(10)
        return samples

    async def body(job: Job[Any], ctx: Context) -> Word:
        await ctx.infer(function, "a", [1])
        return Word()

    async with session(body, models=hub("a")) as courier:
        await courier.hear()
        order = courier.order()
        courier.say(Run(jobs=(order,)))
        assert await anyio.to_thread.run_sync(entered.wait, 10)

        async def let_go() -> None:
            while not any(beat.on_device == (order.key,) for beat in courier.beats):
                await anyio.sleep(0.01)
            go_on.set()

        async with anyio.create_task_group() as group:
            group.start_soon(let_go)
            await courier.outcomes(1)
    busy = [beat for beat in courier.beats if beat.on_device]
    assert busy[0].jobs == 1
    assert busy[0].device_busy_s > 0


async def test_told_to_stop_it_ends_when_the_jobs_at_hand_have_told_their_ends() -> None:
    go_on = anyio.Event()

    async def body(job: Job[Any], ctx: Context) -> Word:
        await go_on.wait()
        return Word(word="done")

    ends: list[int] = []
    async with session(body, ends=ends) as courier:
        await courier.hear()
        courier.say(Run(jobs=(courier.order(),)))
        courier.say(Stop())
        await anyio.sleep(0.05)
        go_on.set()
        (outcome,) = (await courier.outcomes(1)).values()
    assert outcome.result == {"word": "done"}
    assert ends == []


async def test_when_the_courier_hangs_up_the_process_leaves_at_once() -> None:
    ends: list[int] = []
    async with session(lambda job, ctx: anyio.sleep_forever(), ends=ends) as courier:
        await courier.hear()
        courier.say(Run(jobs=(courier.order(),)))
        courier.hang_up()
        with anyio.fail_after(5):
            while not ends:
                await anyio.sleep(0.01)
    assert ends == [0]


async def test_a_broken_device_ends_the_process_and_no_job_is_blamed_for_it() -> None:
    def function(model: Any, samples: Any) -> Any:
        raise BrokenError("illegal access")

    async def body(job: Job[Any], ctx: Context) -> Word:
        await ctx.infer(function, "a", [1])
        return Word()

    ends: list[int] = []
    async with session(body, models=hub("a"), ends=ends) as courier:
        await courier.hear()
        courier.say(Run(jobs=(courier.order(),)))
        with anyio.fail_after(5):
            while not ends:
                await anyio.sleep(0.01)
    assert ends == [1]


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
async def test_lines_survive_whatever_pieces_the_pipe_makes_of_them(size: int) -> None:
    out, in_ = os.pipe()
    reader, writer = LineReader(out), LineWriter(in_)
    sent = [b"x" * (size + n) for n in range(20)]
    heard = []
    async with anyio.create_task_group() as group:
        group.start_soon(writer.run)
        for line in sent:
            writer.put(line)
        for _ in sent:
            heard.append(await reader.line())
        await writer.flushed()
        group.cancel_scope.cancel()
    os.close(in_)
    assert heard == sent
    assert await reader.line() is None
    os.close(out)
