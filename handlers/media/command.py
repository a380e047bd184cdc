"""Outside programs (ffmpeg, ffprobe): started for one attempt, watched, and gone with it.

A program has no input, no environment but `PATH` and `LANG`, and a session of its own: whatever ends the call (a
cancel, its time, an error of the caller) ends the whole process group, with SIGTERM first and SIGKILL a second later.
Of its errors the last `TAIL_BYTES` are kept, and the pipe is always drained. The executor's resource limits hold.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import anyio
from anyio.abc import ByteReceiveStream, Process

from handlers.declaration import Context
from handlers.errors import Retry

#: Of standard error; the report of a `loudnorm` pass fits in many times over.
TAIL_BYTES = 32 << 10

#: Between SIGTERM and SIGKILL.
GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended."""

    #: Below 0: the signal that ended it.
    returncode: int
    stderr: str


@dataclass(slots=True)
class Running:
    """A program while it runs."""

    process: Process
    tail: bytearray = field(default_factory=bytearray)
    _drained: anyio.Event = field(default_factory=anyio.Event)

    @property
    def stdout(self) -> ByteReceiveStream:
        """What it writes."""
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def stderr(self) -> str:
        """The end of what it said so far, without control characters."""
        text = self.tail.decode(errors="replace")
        return "".join(char if char.isprintable() or char == "\n" else " " for char in text).strip()

    async def ended(self) -> Ended:
        """Waits for its end; standard output must have been read to its end before."""
        returncode = await self.process.wait()
        await self._drained.wait()
        return Ended(returncode, self.stderr)

    async def drain(self) -> None:
        """Reads standard error until it is closed."""
        assert self.process.stderr is not None
        try:
            async for chunk in self.process.stderr:
                self.tail += chunk
                del self.tail[:-TAIL_BYTES]
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # it was killed
        finally:
            self._drained.set()


@asynccontextmanager
async def program(
    ctx: Context, argv: Sequence[str], *, grace_s: float = GRACE_S, light: bool = False
) -> AsyncIterator[Running]:
    """Runs `argv` in one of the places for outside programs; it has ended when the block is left, however it is left.

    `light`: see `Context.program`. With `grace_s` 0 it is killed at once: for a program that hangs in a write to its
    standard output. Inside the block no other program may be started: with all places held by blocks that wait for a
    second one, nothing would go on. Raises Retry where the program is not installed.
    """
    async with ctx.program(light=light):
        running = Running(await _opened(argv))
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(running.drain)
                try:
                    yield running
                finally:
                    await _end(running.process, grace_s)
        except BaseExceptionGroup as group:
            # `drain` raises nothing, so this is what the block raised, in the wrapping of the task group.
            [error] = group.exceptions
            raise error from error.__cause__


async def _opened(argv: Sequence[str]) -> Process:
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
    try:
        return await anyio.open_process(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise Retry(missing(argv[0])) from error


def missing(name: str) -> str:
    """What is said where a program is not there."""
    return f"{name} is not installed on this worker, sound and film need it: apt-get install ffmpeg"


async def _end(process: Process, grace_s: float) -> None:
    with anyio.CancelScope(shield=True):
        if process.returncode is None and grace_s > 0:
            _signal(process, signal.SIGTERM)
            with anyio.move_on_after(grace_s):
                await process.wait()
        if process.returncode is None:
            _signal(process, signal.SIGKILL)
            await process.wait()
        await process.aclose()


def _signal(process: Process, which: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, which)
