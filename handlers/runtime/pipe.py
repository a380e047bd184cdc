"""The two ends of the pipe to the courier."""

from __future__ import annotations

import os

import anyio

_CHUNK = 1 << 20


class LineReader:
    """Lines from a file descriptor, without blocking the loop."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._rest = bytearray()
        self._lines: list[bytes] = []

    async def line(self) -> bytes | None:
        """The next line; None at the end."""
        while not self._lines:
            await anyio.wait_readable(self._fd)
            try:
                chunk = os.read(self._fd, _CHUNK)
            except BlockingIOError:
                continue
            if not chunk:
                return None
            *whole, rest = chunk.split(b"\n")
            for part in whole:
                self._lines.append(bytes(self._rest) + part)
                self._rest.clear()
            self._lines.reverse()
            self._rest += rest
        return self._lines.pop()


class LineWriter:
    """Lines to a file descriptor, gathered: whatever was put while the last write went out goes with the next."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._waiting = bytearray()
        self._wake = anyio.Event()
        self._empty = anyio.Event()

    def put(self, line: bytes) -> None:
        """Takes a line (without its end) to be written soon."""
        self._waiting += line + b"\n"
        self._wake.set()

    async def flushed(self) -> None:
        """Returns when all that was put is written."""
        while self._wake.is_set() or self._waiting:
            await self._empty.wait()

    async def run(self) -> None:
        """Writes what is put, until cancelled. Raises BrokenPipeError when the courier is gone."""
        while True:
            await self._wake.wait()
            out, self._waiting = memoryview(self._waiting), bytearray()
            while out:
                try:
                    out = out[os.write(self._fd, out) :]
                except BlockingIOError:
                    await anyio.wait_writable(self._fd)
            if not self._waiting:
                self._wake = anyio.Event()
                self._empty.set()
                self._empty = anyio.Event()
