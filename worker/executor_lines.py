"""Lines out of an executor's pipes: never longer, and never more, than the courier wants."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Protocol

import anyio
import structlog

from worker.clock import Clock

log = structlog.get_logger(__name__)

_CHUNK = 1 << 18
_MAX_SAID = 8 << 10


class Receiver(Protocol):
    """Where bytes come from."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Some bytes. Raises EndOfStream."""


class LineTooLong(Exception):
    """The line has no end within the limit."""


async def lines(stream: Receiver, longest: int) -> AsyncIterator[bytes]:
    """Lines of a stream without their ends, until it closes. Raises LineTooLong."""
    rest = bytearray()
    while True:
        try:
            chunk = await stream.receive(_CHUNK)
        except anyio.EndOfStream:
            return
        if b"\n" not in chunk:
            rest += chunk
        else:
            first, *more, last = chunk.split(b"\n")
            rest += first
            yield bytes(rest)
            for line in more:
                yield line
            rest = bytearray(last)
        if len(rest) > longest:
            raise LineTooLong(f"a line of more than {longest} bytes")


class RateCap:
    """So many a second on average, and as many at once."""

    def __init__(self, clock: Clock, *, per_s: float = 50.0) -> None:
        self._clock = clock
        self._per_s = per_s
        self._left = per_s
        self._at = clock.monotonic()
        self.suppressed = 0

    def allows(self) -> bool:
        """Whether one more may pass; else it is counted in `suppressed`."""
        now = self._clock.monotonic()
        self._left = min(self._per_s, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            self.suppressed += 1
            return False
        self._left -= 1
        return True


async def forward_log(stream: Receiver, name: str, cap: RateCap) -> None:
    """Sends what an executor writes to standard error to the courier's log, as data: nothing in it is believed."""
    rest = b""
    while True:
        try:
            chunk = await stream.receive(_CHUNK)
        except anyio.EndOfStream:
            chunk = b""
        # What has no end yet is cut off rather than kept: a program may write megabytes without one.
        *whole, rest = (rest + chunk).split(b"\n")
        if rest and (len(rest) > _MAX_SAID or not chunk):
            whole.append(rest)
            rest = b""
        for line in whole:
            if line.strip() and cap.allows():
                _say(line, name, cap)
        if not chunk:
            return


def _say(line: bytes, name: str, cap: RateCap) -> None:
    suppressed, cap.suppressed = cap.suppressed, 0
    if suppressed:
        log.warning("executor wrote more than is kept", executor=name, lines_suppressed=suppressed)
    text = line[:_MAX_SAID].decode("utf-8", "replace")
    level, said = logging.INFO, {"line": text}
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, dict) and "event" in parsed:
        level = logging.getLevelNamesMapping().get(str(parsed.get("level", "")).upper(), logging.INFO)
        said = {key: str(parsed[key]) for key in ("event", "logger", "traceback") if key in parsed}
        said["line"] = said.pop("event")
    log.log(level, "executor said", executor=name, **{f"said_{key}": value for key, value in said.items()})
