"""A runtime without torch: models are strings, devices do as they are told."""

from __future__ import annotations

import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from handlers.declaration import Context, Handler, Job, Params, Result
from handlers.protocol import CheckpointSpec, Limits, Order, Outcome, Progress
from handlers.registry import Registry
from handlers.runtime.attempt import Attempt
from handlers.runtime.context import Embedder, Tools
from handlers.runtime.hub import Hub
from handlers.runtime.scheduler import Scheduler

LIMITS = Limits(max_bytes=1 << 20, max_pixels=1 << 20, max_frames=10)


def spec(name: str) -> CheckpointSpec:
    return CheckpointSpec(name=name, family="clip", path=f"/models/{name}", dtype="float32", digest="0" * 64)


class FullError(Exception):
    """Stands for the device's exception of a full memory."""


class BrokenError(Exception):
    """Stands for the exception after which the device is of no use."""


@dataclass
class FakeDevice:
    freed: int = 0

    def is_full(self, error: BaseException) -> bool:
        return isinstance(error, FullError)

    def is_broken(self, error: BaseException) -> bool:
        return isinstance(error, BrokenError)

    def free(self) -> None:
        self.freed += 1

    def describe(self) -> tuple[str, int | None]:
        return "a device", None


@dataclass
class Gate:
    """An infer function that waits in the device's thread until it is let go, and remembers its batches."""

    batches: list[list[Any]] = field(default_factory=list)
    entered: threading.Event = field(default_factory=threading.Event)
    open: threading.Event = field(default_factory=threading.Event)

    def __call__(self, model: Any, samples: Sequence[Any]) -> list[Any]:
        self.batches.append(list(samples))
        self.entered.set()
        assert self.open.wait(10)
        return [f"{model}:{sample}" for sample in samples]

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    async def is_entered(self) -> None:
        assert await anyio.to_thread.run_sync(self.entered.wait, 10)


def hub(*names: str, load: Callable[[CheckpointSpec, str], Any] | None = None) -> Hub:
    return Hub(
        [spec(name) for name in names],
        "cpu",
        load=load or (lambda spec, device: f"model {spec.name}"),
        load_processor=lambda spec: f"processor {spec.name}",
    )


class EmptyParams(Params):
    pass


class Word(Result):
    word: str = ""


Body = Callable[[Job[EmptyParams], Context], Any]


def handler(body: Body, type_: str = "test.body") -> type[Handler[Any, Any]]:
    """A job type whose `run` is `body`."""

    class Made(Handler[EmptyParams, Word]):
        type = type_
        version = 1

        def checkpoints(self, params: EmptyParams) -> frozenset[str]:
            return frozenset()

        async def run(self, job: Job[EmptyParams], ctx: Context) -> Word:
            return await body(job, ctx)

    return Made


def order(**given: Any) -> Order:
    """An order of a job that needs nothing."""
    plain = {"key": f"{uuid.uuid4()}:1", "type": "test.body", "params": {}, "inputs": {}, "scratch": "/", "seed": 1}
    return Order.model_validate(plain | given)


@dataclass
class Bench:
    """Starts attempts in a runtime of its own."""

    tools: Tools
    scheduler: Scheduler
    told: list[Progress]
    scratch: Path

    def order(self, **given: Any) -> Order:
        return order(**{"scratch": str(self.scratch)} | given)

    def attempt(self, body: Body, **given: Any) -> Attempt:
        return Attempt(self.order(**given), Registry([handler(body)]), self.tools)

    async def run(self, body: Body, **given: Any) -> Outcome:
        return await self.attempt(body, **given).run()


@asynccontextmanager
async def bench(
    scratch: Path, *, names: Iterable[str] = ("small",), max_batch: int = 8, embedder: Embedder | None = None
) -> AsyncIterator[Bench]:
    models = hub(*names)
    scheduler = Scheduler(models, FakeDevice(), max_batch=max_batch)
    told: list[Progress] = []
    async with anyio.create_task_group() as group:
        group.start_soon(scheduler.run)
        tools = Tools(
            hub=models,
            scheduler=scheduler,
            cpu=anyio.CapacityLimiter(2),
            roles={"embed": "small"},
            tell=told.append,
            tasks=group,
            limits=LIMITS,
            embedder_of=lambda spec: (
                embedder or Embedder(lambda processor, image: image, lambda model, samples: samples)
            ),
        )
        yield Bench(tools, scheduler, told, scratch)
        group.cancel_scope.cancel()
    scheduler.close()
