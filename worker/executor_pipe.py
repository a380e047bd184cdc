"""A child process and its pipes, on bare descriptors.

Not asyncio's subprocess: its `wait` returns only when the pipes have ended too, so that a child's own child that keeps
one open, or a reader that has paused, would hold up the end of the child for ever.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from typing import IO

import anyio

from worker.sandbox import Command

_DEATH_POLL_S = 0.005


class ReadPipe:
    """Bytes from a pipe."""

    def __init__(self, file: IO[bytes]) -> None:
        os.set_blocking(file.fileno(), False)
        self._file = file

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Some bytes. Raises EndOfStream when no process can write any more."""
        while True:
            await anyio.wait_readable(self._file)
            with suppress(BlockingIOError):
                if chunk := os.read(self._file.fileno(), max_bytes):
                    return chunk
                raise anyio.EndOfStream


class WritePipe:
    """Bytes to a pipe."""

    def __init__(self, file: IO[bytes]) -> None:
        os.set_blocking(file.fileno(), False)
        self._file = file

    async def send(self, item: bytes) -> None:
        """Returns when all is written. Raises BrokenResourceError when nobody can read it."""
        rest = memoryview(item)
        while rest:
            try:
                rest = rest[os.write(self._file.fileno(), rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._file)
            except BrokenPipeError as error:
                raise anyio.BrokenResourceError from error


class Child:
    """A process in a session of its own; made in the event loop's thread, whose end counts as its parent's."""

    def __init__(self, command: Command) -> None:
        """Raises OSError where it cannot be started."""
        self._process = subprocess.Popen(
            command.argv,
            env=command.env,
            cwd=command.cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._files = (self._process.stdin, self._process.stdout, self._process.stderr)
        self.pid = self._process.pid
        self.stdin = WritePipe(self._process.stdin)
        self.stdout = ReadPipe(self._process.stdout)
        self.stderr = ReadPipe(self._process.stderr)

    @property
    def returncode(self) -> int | None:
        """As subprocess has it: negative for a signal; None while it lives."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """To the process alone."""
        self._process.send_signal(number)

    def kill_group(self) -> None:
        """SIGKILL to all processes of its session's group that are left."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def death(self, within_s: float) -> bool:
        """Whether it was dead within that time."""
        with anyio.move_on_after(within_s):
            while self.returncode is None:  # noqa: ASYNC110 - a process that dies sets no event
                await anyio.sleep(_DEATH_POLL_S)
        return self.returncode is not None

    def close(self) -> None:
        """Closes the pipes."""
        for file in self._files:
            file.close()
