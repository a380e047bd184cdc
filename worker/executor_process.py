"""One process of an executor, from its start to its end, and the jobs that are with it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum

import anyio
import anyio.to_thread
import structlog
from pydantic import ValidationError

from handlers.errors import ErrorType
from handlers.protocol import (
    MAX_LINE_BYTES,
    PROTOCOL_VERSION,
    Beat,
    Failure,
    Hello,
    Outcome,
    Outcomes,
    Progress,
    Ready,
    Run,
    from_executor,
    may_be_unstorable,
    too_intricate,
)
from worker.clock import Clock
from worker.executor_flight import ExecutorInterrupted, ExecutorLost, Flight, Outbox, Timeouts
from worker.executor_lines import LineTooLong, RateCap, forward_log, lines
from worker.executor_outcome import believed
from worker.executor_pipe import Child
from worker.sandbox import Command

log = structlog.get_logger(__name__)

#: For how long a guard may take to end its processes, and the last holder of a pipe to be gone, after a kill.
_LAST_WORDS_S = 2.0
#: For how long a killed process may stay, in a call of a driver that cannot be interrupted, before it is left behind.
_DEATH_S = 30.0
#: A line this long is parsed in a thread: there are beats to read meanwhile.
_LONG_LINE = 1 << 20


class Ending(StrEnum):
    """Why a process ended."""

    LOST = "lost"
    """It died by itself, fell silent, or broke the protocol."""
    TIMEOUT = "timeout"
    """Killed, because a job did not end when its time was up."""
    CANCEL = "cancel"
    """Killed, because a job did not end when it was cancelled."""
    STOP = "stop"
    """The executor is no longer wanted."""


class ExecutorProcess:
    """Starts the process, speaks with it, watches it, and ends it."""

    def __init__(
        self,
        name: str,
        command: Command,
        hello: Hello,
        outbox: Outbox,
        *,
        timeouts: Timeouts,
        clock: Clock,
        on_ready: Callable[[Ready], None],
        on_broken: Callable[[Mapping[str, str]], None],
    ) -> None:
        self._name = name
        self._command = command
        self._hello = hello
        self._outbox = outbox
        self._timeouts = timeouts
        self._clock = clock
        self._on_ready = on_ready
        self._on_broken = on_broken
        self._scope = anyio.CancelScope()
        self._started_at = self._heard_at = clock.monotonic()
        self._cap = RateCap(clock)
        self._ready = anyio.Event()
        self.flights: dict[str, Flight] = {}
        self.pid: int | None = None
        self.ready_at: float | None = None
        self.beat: Beat | None = None
        self.ending: Ending | None = None
        self.reason = ""

    async def run(self) -> None:
        """Returns when the process is gone and its flights are settled. Raises OSError where it cannot be started."""
        child = Child(self._command)
        self.pid = child.pid
        try:
            with self._scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._write, child)
                    group.start_soon(self._watch)
                    group.start_soon(forward_log, child.stderr, self._name, self._cap)
                    await self._read(child)
        finally:
            with anyio.CancelScope(shield=True):
                if self.ending is None:
                    self.ending, self.reason = Ending.STOP, "the executor was stopped"
                await self._kill(child)
            if self.ending is Ending.LOST:
                self.reason = f"{self.reason} ({_exit_words(child.returncode)})"
            self._settle_all()

    def end(self, ending: Ending, reason: str) -> None:
        """Has the process killed; the first reason counts."""
        if self.ending is None:
            self.ending, self.reason = ending, reason
            self._scope.cancel()

    # --- to the executor ---

    async def _write(self, child: Child) -> None:
        try:
            await child.stdin.send(self._hello.model_dump_json().encode() + b"\n")
            await self._ready.wait()
            while True:
                await self._outbox.some()
                await self._clock.sleep(self._timeouts.gather_s)
                if words := self._words():
                    await child.stdin.send(words)
        except anyio.BrokenResourceError:
            return  # it is dead or dying: the end of its answers says so

    def _words(self) -> bytes:
        flights, cancels = self._outbox.take()
        now = self._clock.monotonic()
        for flight in flights:
            flight.deadline = now + flight.time_limit_s
            self.flights[flight.order.key] = flight
        said = [Run(jobs=tuple(flight.order for flight in flights))] if flights else []
        return b"".join(line.model_dump_json().encode() + b"\n" for line in [*said, *cancels])

    # --- from the executor ---

    async def _read(self, child: Child) -> None:
        try:
            async for line in lines(child.stdout, MAX_LINE_BYTES):
                await self._hear(line)
            self.end(Ending.LOST, "the executor died")
        except (LineTooLong, ValidationError, _Breach) as error:
            log.error("the executor broke the protocol", executor=self._name, error=str(error)[:2000])
            self.end(Ending.LOST, "the executor broke the protocol")

    async def _hear(self, line: bytes) -> None:
        if len(line) < _LONG_LINE:
            said = from_executor.validate_json(line)
        else:
            if (why := too_intricate(line)) is not None:
                raise _Breach(f"a line of {len(line)} bytes: {why}")
            said = await anyio.to_thread.run_sync(from_executor.validate_json, line)
        if not self._ready.is_set() and not isinstance(said, Ready | Beat):
            raise _Breach(f"it said {said.op} before it was ready")
        match said:
            case Beat():
                self._heard_at, self.beat = self._clock.monotonic(), said
                if said.broken and self._ready.is_set():
                    self._on_broken(said.broken)
            case Outcomes(items=outcomes):
                suspicious = may_be_unstorable(line)
                for outcome in outcomes:
                    self._land(outcome, suspicious=suspicious)
            case Progress(key=key, fraction=fraction, note=note):
                flight = self.flights.get(key)
                if flight is not None and flight.progress is not None and 0 <= fraction <= 1:
                    flight.progress(fraction, note.replace("\x00", ""))
            case Ready():
                self._greeted(said)

    def _greeted(self, ready: Ready) -> None:
        if self._ready.is_set():
            raise _Breach("it said twice that it was ready")
        if ready.version != PROTOCOL_VERSION:
            raise _Breach(f"it speaks version {ready.version} of the protocol, the courier {PROTOCOL_VERSION}")
        self.ready_at = self._heard_at = self._clock.monotonic()
        self._ready.set()
        self._on_ready(ready)

    def _land(self, outcome: Outcome, *, suspicious: bool) -> None:
        if (flight := self.flights.pop(outcome.key, None)) is not None:
            flight.settle(believed(outcome, told=flight.told, suspicious=suspicious))
        elif self._cap.allows():
            log.warning("outcome of a job that is not with the executor", executor=self._name, key=outcome.key[:100])

    # --- watching and ending ---

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep(self._timeouts.tick_s)
            now = self._clock.monotonic()
            self._watch_process(now)
            for flight in list(self.flights.values()):
                self._watch_flight(flight, now)

    def _watch_process(self, now: float) -> None:
        timeouts = self._timeouts
        if self.ready_at is None:
            if now - self._started_at > timeouts.start_s:
                self.end(Ending.LOST, f"the executor was not ready after {timeouts.start_s:g} s")
        # A call on the device may keep the interpreter to itself: there the jobs' time limits rule.
        elif now - self._heard_at > timeouts.beat_s and not (self.beat is not None and self.beat.on_device):
            self.end(Ending.LOST, f"the executor gave no sign of life for {timeouts.beat_s:g} s")

    def _watch_flight(self, flight: Flight, now: float) -> None:
        timeouts = self._timeouts
        if flight.told is None:
            if now >= flight.deadline:
                self._outbox.tell(flight, "timeout", now)
        elif flight.told == "timeout":
            if now - flight.told_at > timeouts.timeout_grace_s:
                self.end(Ending.TIMEOUT, f"job {flight.order.key} did not end when its time was up")
        elif now - flight.told_at > timeouts.cancel_grace_s:
            self.end(Ending.CANCEL, f"job {flight.order.key} did not end when it was cancelled")

    async def _kill(self, child: Child) -> None:
        if self._command.kill is not signal.SIGKILL and child.returncode is None:
            child.signal(self._command.kill)
            await child.death(_LAST_WORDS_S)
        child.kill_group()
        if not await child.death(_DEATH_S):
            log.error("executor process cannot be killed", executor=self._name, pid=child.pid)
        # Each process that it had started holds the pipe: at its end they are gone too, not only about to be.
        with anyio.move_on_after(_LAST_WORDS_S), suppress(LineTooLong):
            async for _ in lines(child.stdout, MAX_LINE_BYTES):
                pass
        child.close()

    def _settle_all(self) -> None:
        flights, self.flights = list(self.flights.values()), {}
        for flight in flights:
            flight.settle(self._end_of(flight, alone=len(flights) == 1))

    def _end_of(self, flight: Flight, *, alone: bool) -> Outcome | ExecutorLost | ExecutorInterrupted:
        """Who is to blame is known only where there was no other."""
        match self.ending:
            case Ending.TIMEOUT if alone:
                return _failed(flight, ErrorType.TIMEOUT, "it ran longer than its time limit and had to be killed")
            case Ending.CANCEL if flight.told == "cancelled":
                return _failed(flight, ErrorType.CANCELLED, "somebody asked for the job to end; it had to be killed")
            case Ending.LOST | Ending.TIMEOUT:
                return ExecutorLost(self.reason, alone=alone)
            case _:
                return ExecutorInterrupted(self.reason)


class _Breach(Exception):
    """The executor said what it must not say."""


def _failed(flight: Flight, type_: ErrorType, message: str) -> Outcome:
    return Outcome(key=flight.order.key, failure=Failure(type=type_, message=message))


def _exit_words(status: int | None) -> str:
    # A shell's way, and bubblewrap's, to say by which signal a child died.
    number = -status if status is not None and status < 0 else (status or 0) - 128
    try:
        return f"ended by {signal.Signals(number).name}"
    except ValueError:
        return f"exit status {status}"
