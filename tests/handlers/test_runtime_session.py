"""`handlers.runtime.session` and `pipe`: the conversation, with the test as the courier."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from handlers.declaration import Context, Job
from handlers.models import CheckpointBroken
from handlers.protocol import Beat, Cancel, Hello, Line, Outcome, Outcomes, Ready, Run, Stop, from_executor
from handlers.registry import Registry
from handlers.runtime.hub import Hub
from handlers.runtime.pipe import LineReader, LineWriter
from handlers.runtime.session import Session
from tests.handlers.runtime_fakes import LIMITS, BrokenError, FakeDevice, Word, handler, hub, order, spec


class LeftError(Exception):
    """In place of the end of the process."""


@dataclass
class End:
    """How the process left."""

    status: int | None = None
    came: anyio.Event = field(default_factory=anyio.Event)


class Courier:
    """The other end of a session's pipes."""

    def __init__(self, orders: int, answers: int) -> None:
        self._orders = orders
        self.writer = LineWriter(orders)
        self._reader = LineReader(answers)
        self.beats: list[Beat] = []
        self.on_beat: Callable[[Beat], None] = self.beats.append

    def say(self, line: Line) -> None:
        self.writer.put(line.model_dump_json().encode())

    async def hear(self) -> Any:
        """The next line that is no beat."""
        with anyio.fail_after(10):
            while True:
                line = await self._reader.line()
                assert line is not None
                said = from_executor.validate_json(line)
                if not isinstance(said, Beat):
                    return said
                self.on_beat(said)

    async def outcomes(self, n: int) -> dict[str, Outcome]:
        found: dict[str, Outcome] = {}
        while len(found) < n:
            said = await self.hear()
            assert isinstance(said, Outcomes)
            found |= {outcome.key: outcome for outcome in said.items}
        return found

    async def hang_up(self) -> None:
        await self.writer.flushed()
        os.close(self._orders)
        self._orders = -1

    def close(self) -> None:
        if self._orders >= 0:
            os.close(self._orders)


def hello(**given: Any) -> Hello:
    plain = {"device": "cpu", "cpu_threads": 2, "max_batch": 4, "checkpoints": (), "roles": {}, "limits": LIMITS}
    return Hello.model_validate(plain | given)


@asynccontextmanager
async def session(
    body: Callable[[Job[Any], Context], Awaitable[Any]],
    *,
    greeting: Hello | None = None,
    models: Hub | None = None,
    end: End | None = None,
) -> AsyncIterator[Courier]:
    orders_out, orders_in = os.pipe()
    answers_out, answers_in = os.pipe()
    courier = Courier(orders_in, answers_out)

    def leave(status: int) -> None:
        if end is not None:
            end.status = status
            end.came.set()
        raise LeftError

    made = Session(
        LineReader(orders_out),
        LineWriter(answers_in),
        greeting or hello(),
        Registry([handler(body)]),
        models or hub(),
        FakeDevice(),
        leave=leave,
    )

    async def serve() -> None:
        try:
            await made.serve()
        except* LeftError:
            pass

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(serve)
            group.start_soon(courier.writer.run)
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
        orders = [order(seed=n) for n in range(500)]
        courier.say(Run(jobs=tuple(orders)))
        outcomes = await courier.outcomes(500)
    assert {key: outcome.result for key, outcome in outcomes.items()} == {
        each.key: {"word": str(each.seed)} for each in orders
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


@pytest.mark.parametrize("what", ["weights", "processor"])
async def test_a_checkpoint_that_is_found_torn_when_it_is_first_wanted_is_told_with_the_next_beat(what: str) -> None:
    def torn(*_: Any) -> str:
        raise CheckpointBroken("its tensors are torn")

    def sound(*_: Any) -> str:
        return "sound"

    async def body(job: Job[Any], ctx: Context) -> Word:
        await ctx.prepare(lambda processor: processor, "torn")
        await ctx.infer(lambda model, samples: samples, "torn", [1])
        return Word()

    load, load_processor = (torn, sound) if what == "weights" else (sound, torn)
    models = Hub([spec("torn")], "cpu", load=load, load_processor=load_processor)
    async with session(body, models=models) as courier:
        assert isinstance(await courier.hear(), Ready)
        assert not any(beat.broken for beat in courier.beats)
        courier.say(Run(jobs=(order(),)))
        [outcome] = (await courier.outcomes(1)).values()
        assert outcome.failure is not None
        assert (outcome.failure.type, outcome.failure.message) == ("Retry", "its tensors are torn")
        heard = anyio.Event()
        courier.on_beat = lambda beat: heard.set() if beat.broken == {"torn": "its tensors are torn"} else None
        with anyio.fail_after(5), anyio.CancelScope() as listening:
            async with anyio.create_task_group() as group:
                group.start_soon(courier.hear)
                await heard.wait()
                listening.cancel()
        assert heard.is_set()


async def test_a_cancel_ends_its_job_and_no_other() -> None:
    async def body(job: Job[Any], ctx: Context) -> Word:
        if job.seed == 1:
            await anyio.sleep_forever()
        return Word(word="done")

    async with session(body) as courier:
        await courier.hear()
        endless, other = order(seed=1), order(seed=2)
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
        bad, good = order(seed=1), order(seed=0)
        courier.say(Run(jobs=(bad, good)))
        outcomes = await courier.outcomes(2)
    assert outcomes[good.key].result == {"word": "fine"}
    failure = outcomes[bad.key].failure
    assert failure is not None
    assert "a NUL character" in failure.message


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
        given = order()
        courier.say(Run(jobs=(given,)))
        assert await anyio.to_thread.run_sync(entered.wait, 10)

        def let_go(beat: Beat) -> None:
            courier.beats.append(beat)
            if beat.on_device:
                go_on.set()

        courier.on_beat = let_go
        await courier.outcomes(1)
    busy = [beat for beat in courier.beats if beat.on_device]
    assert busy[0].on_device == (given.key,)
    assert busy[0].jobs == 1
    assert busy[0].device_busy_s > 0


async def test_told_to_stop_it_ends_when_the_jobs_at_hand_have_told_their_ends() -> None:
    go_on = anyio.Event()

    async def body(job: Job[Any], ctx: Context) -> Word:
        await go_on.wait()
        return Word(word="done")

    end = End()
    async with session(body, end=end) as courier:
        await courier.hear()
        courier.say(Run(jobs=(order(),)))
        courier.say(Stop())
        await anyio.sleep(0.05)
        go_on.set()
        (outcome,) = (await courier.outcomes(1)).values()
    assert outcome.result == {"word": "done"}
    assert end.status is None


async def test_when_the_courier_hangs_up_the_process_leaves_at_once() -> None:
    end = End()
    async with session(lambda job, ctx: anyio.sleep_forever(), end=end) as courier:
        await courier.hear()
        courier.say(Run(jobs=(order(),)))
        await courier.hang_up()
        with anyio.fail_after(5):
            await end.came.wait()
    assert end.status == 0


async def test_a_broken_device_ends_the_process_and_no_job_is_blamed_for_it() -> None:
    def function(model: Any, samples: Any) -> Any:
        raise BrokenError("illegal access")

    async def body(job: Job[Any], ctx: Context) -> Word:
        await ctx.infer(function, "a", [1])
        return Word()

    end = End()
    async with session(body, models=hub("a"), end=end) as courier:
        await courier.hear()
        courier.say(Run(jobs=(order(),)))
        with anyio.fail_after(5):
            await end.came.wait()
    assert end.status == 1


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
async def test_lines_survive_whatever_pieces_the_pipe_makes_of_them(size: int) -> None:
    out, in_ = os.pipe()
    reader, writer = LineReader(out), LineWriter(in_)
    sent = [b"x" * (size + n) for n in range(20)]
    async with anyio.create_task_group() as group:
        group.start_soon(writer.run)
        for line in sent:
            writer.put(line)
        heard = [await reader.line() for _ in sent]
        await writer.flushed()
        group.cancel_scope.cancel()
    os.close(in_)
    assert heard == sent
    assert await reader.line() is None
    os.close(out)
