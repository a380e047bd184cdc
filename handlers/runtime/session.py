"""The conversation with the courier: orders in, beats and outcomes out."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import metadata
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from handlers.protocol import (
    PROTOCOL_VERSION,
    Beat,
    Cancel,
    Hello,
    Progress,
    Ready,
    Run,
    Stop,
    to_executor,
)
from handlers.registry import Registry
from handlers.runtime.attempt import Attempt
from handlers.runtime.context import Tools
from handlers.runtime.device import Device
from handlers.runtime.hub import Hub
from handlers.runtime.outcome import encode
from handlers.runtime.pipe import LineReader, LineWriter
from handlers.runtime.scheduler import Scheduler

log = logging.getLogger(__name__)

#: How long outcomes are gathered before they are told.
_GATHER_S = 0.001
#: What is longer has a line of its own: the courier's limits on a line are then the limits on an outcome.
_GATHER_BYTES = 1 << 20
_BEAT_S = 1.0
_LIBRARIES = ("torch", "transformers", "diffusers", "openai-whisper", "numpy", "pillow", "pydantic", "anyio")


class Session:
    """One executor's life after its greeting.

    `leave(exit status)` ends the process at once: when the courier has closed the pipe, or nothing more can be done.
    It is not left to a cancelled task group, which would wait for threads that nothing can stop.
    """

    def __init__(
        self,
        reader: LineReader,
        writer: LineWriter,
        hello: Hello,
        registry: Registry,
        hub: Hub,
        device: Device,
        *,
        leave: Callable[[int], None],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._hello = hello
        self._registry = registry
        self._hub = hub
        self._leave = leave
        self._device = device
        self._scheduler = Scheduler(hub, self._device, max_batch=hello.max_batch)
        self._attempts: dict[str, Attempt] = {}
        self._idle = anyio.Event()
        self._ended: list[bytes] = []
        self._wake = anyio.Event()

    async def serve(self) -> None:
        """Runs jobs until the courier says `stop` and those at hand are done."""
        async with anyio.create_task_group() as group:
            for function in (self._writer.run, self._beat, self._tell_outcomes, self._scheduler.run):
                group.start_soon(self._or_leave, function)
            tools = Tools(
                hub=self._hub,
                scheduler=self._scheduler,
                cpu=anyio.CapacityLimiter(self._hello.cpu_threads),
                programs=anyio.CapacityLimiter(self._hello.programs),
                fonts={name: Path(path) for name, path in self._hello.fonts.items()},
                limits=self._hello.limits,
                roles=self._hello.roles,
                tell=self._tell_progress,
                tasks=group,
            )
            self._put(await self._ready())
            await self._follow_orders(group, tools)
            group.cancel_scope.cancel()
        self._scheduler.close()

    async def _follow_orders(self, group: TaskGroup, tools: Tools) -> None:
        while (line := await self._reader.line()) is not None:
            if self._follow(line, group, tools):
                await self._all_told()
                return
        self._leave(0)

    def _follow(self, line: bytes, group: TaskGroup, tools: Tools) -> bool:
        """Whether the line said to stop. A function of its own, so that no name here keeps a job that has ended."""
        match to_executor.validate_json(line):
            case Run(jobs=orders):
                for order in orders:
                    self._attempts[order.key] = attempt = Attempt(order, self._registry, tools)
                    group.start_soon(self._run, order.key, attempt)
            case Cancel(key=key, reason=reason):
                # Its outcome may be on the way already: then there is nothing to end.
                if (running := self._attempts.get(key)) is not None:
                    running.cancel(reason)
            case Stop():
                return True
            case Hello():
                log.error("a second greeting: ignored")
        return False

    async def _or_leave(self, function: Callable[[], Awaitable[None]]) -> None:
        try:
            await function()
        except Exception:
            log.critical("the executor cannot go on", exc_info=True)
            self._leave(1)

    async def _ready(self) -> Ready:
        hello = self._hello
        broken = self._hub.missing({*hello.roles.values(), *hello.preload})
        for name in hello.preload:
            if name not in broken and (reason := await self._scheduler.run_on_device(partial(self._preload, name))):
                broken[name] = reason
        device_name, memory = await self._scheduler.run_on_device(self._device.describe)
        return Ready(
            version=PROTOCOL_VERSION,
            device=hello.device,
            device_name=device_name,
            device_memory_bytes=memory,
            types=tuple(self._registry),
            broken=broken,
            libraries=_versions(),
        )

    def _preload(self, name: str) -> str | None:
        try:
            with self._hub.lease(name):
                return None
        except Exception as error:  # told to the courier, which knows what to do without this checkpoint
            log.warning("checkpoint %s cannot be loaded", name, exc_info=True)
            return str(error)

    async def _run(self, key: str, attempt: Attempt) -> None:
        outcome = encode(await attempt.run())
        # Not in one line: `self._ended` would be looked up before the await, and be another list after it.
        self._ended.append(outcome)
        del self._attempts[key]
        self._wake.set()

    async def _tell_outcomes(self) -> None:
        while True:
            await self._wake.wait()
            await anyio.sleep(_GATHER_S)
            self._wake = anyio.Event()
            self._tell_ended()
            if not self._attempts:
                self._idle.set()
                self._idle = anyio.Event()

    def _tell_ended(self) -> None:
        ended, self._ended = self._ended, []
        while ended:
            size = 0
            some: list[bytes] = []
            while ended and (not some or size + len(ended[-1]) < _GATHER_BYTES):
                some.append(ended.pop())
                size += len(some[-1])
            self._writer.put(b'{"op":"outcomes","items":[' + b",".join(some) + b"]}")

    async def _all_told(self) -> None:
        while self._attempts or self._ended:
            await self._idle.wait()
        await self._writer.flushed()

    async def _beat(self) -> None:
        while True:
            beat = Beat(
                jobs=len(self._attempts),
                on_device=self._scheduler.on_device,
                device_busy_s=self._scheduler.busy_s,
                broken=self._hub.broken,
            )
            self._put(beat)
            await anyio.sleep(_BEAT_S)

    def _tell_progress(self, progress: Progress) -> None:
        self._put(progress)

    def _put(self, line: Beat | Progress | Ready) -> None:
        self._writer.put(line.model_dump_json().encode())


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
