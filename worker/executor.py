"""The courier's side of an executor: runs attempts in a child process, keeps one alive, judges its deaths."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import anyio
import structlog
from anyio.abc import TaskStatus

from handlers.errors import ErrorType
from handlers.protocol import Beat, Failure, Hello, Order, Outcome, Ready
from worker.clock import Clock, RealClock
from worker.executor_flight import (
    ExecutorInterrupted,
    ExecutorLost,
    Flight,
    Outbox,
    ProgressListener,
    Timeouts,
)
from worker.executor_process import Ending, ExecutorProcess
from worker.sandbox import Command

__all__ = [
    "Backoff",
    "Executor",
    "ExecutorInterrupted",
    "ExecutorLost",
    "ExecutorSettings",
    "ExecutorState",
    "Timeouts",
]

log = structlog.get_logger(__name__)


#: Failed starts in a row from which on no job is kept waiting for the next one.
STARTS = 3


class ExecutorState(StrEnum):
    """For health."""

    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing_off"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before the next start after a death, doubling from `base_s` to `cap_s`, less up to half by chance."""

    base_s: float = 0.5
    cap_s: float = 60.0
    good_run_s: float = 30.0
    """A process that was ready for that long lets the count start anew."""

    def delay(self, deaths: int, rng: random.Random) -> float:
        """After so many deaths in a row (1 or more)."""
        # The exponent is capped too: 2.0 ** 2000 is an OverflowError.
        return rng.uniform(0.5, 1.0) * min(self.cap_s, self.base_s * 2.0 ** min(deaths - 1, 60))


@dataclass(frozen=True, slots=True)
class ExecutorSettings:
    """One executor."""

    name: str
    """In logs: `cuda:0`."""
    command: Command
    hello: Hello
    capacity: int
    """Jobs that it should have at a time, for whoever claims; more are not refused."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    backoff: Backoff = field(default_factory=Backoff)


class Executor:
    """An executor, kept alive while `serve` runs (or the `async with` block).

    `run` may be called by many tasks at once.
    """

    def __init__(
        self, settings: ExecutorSettings, *, clock: Clock | None = None, rng: random.Random | None = None
    ) -> None:
        self._settings = settings
        self._clock = clock or RealClock()
        self._rng = rng or random.Random()
        self._outbox = Outbox()
        self._inside = 0
        self._process: ExecutorProcess | None = None
        self._turned = anyio.Event()
        self._failed_starts = self._given_up = 0
        self.state = ExecutorState.STOPPED
        #: What the living process said of itself; None while there is none that is ready.
        self.info: Ready | None = None
        #: Deaths since the last good run, and what the last one was.
        self.deaths_in_a_row = 0
        self.last_error: str | None = None
        #: Processes started so far.
        self.starts = 0

    @property
    def name(self) -> str:
        """In logs and health."""
        return self._settings.name

    @property
    def capacity(self) -> int:
        """Jobs that it should have at a time."""
        return self._settings.capacity

    @property
    def in_flight(self) -> int:
        """Attempts that `run` has not answered."""
        return self._inside

    @property
    def pid(self) -> int | None:
        """Of the outermost process (the sandbox, the guard), while there is one."""
        return None if self._process is None else self._process.pid

    @property
    def beat(self) -> Beat | None:
        """The last sign of life of the process at hand."""
        return None if self._process is None else self._process.beat

    # --- its life ---

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keeps a process alive, until cancelled; then nothing of it is left, and every attempt has its answer."""
        task_status.started()
        try:
            while True:
                process = self._start()
                try:
                    await process.run()
                except OSError as error:
                    process.ending, process.reason = Ending.LOST, f"the executor cannot be started: {error}"
                finally:
                    self._process, self.info = None, None
                await self._after(process)
        finally:
            self.state = ExecutorState.STOPPED
            for flight in self._outbox.take()[0]:
                flight.settle(ExecutorInterrupted("the executor was stopped"))

    async def __aenter__(self) -> Executor:
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        await self._group.start(self.serve)
        return self

    async def __aexit__(self, *raised: object) -> bool | None:
        self._group.cancel_scope.cancel()
        return await self._group.__aexit__(*raised)  # type: ignore[arg-type]

    async def ready(self) -> Ready:
        """What the executor says of itself, as soon as one is ready.

        Raises ExecutorInterrupted when it does not start however often that is tried.
        """
        given_up = self._given_up
        while self.info is None:
            await self._turned.wait()
            if self._given_up > given_up:
                raise ExecutorInterrupted(f"the executor does not start: {self.last_error}")
        return self.info

    def _start(self) -> ExecutorProcess:
        self.state = ExecutorState.STARTING
        self.starts += 1
        self._outbox.forget_cancels()
        self._process = ExecutorProcess(
            self.name,
            self._settings.command,
            self._settings.hello,
            self._outbox,
            timeouts=self._settings.timeouts,
            clock=self._clock,
            on_ready=self._on_ready,
            on_broken=self._on_broken,
        )
        return self._process

    def _on_ready(self, ready: Ready) -> None:
        self.info, self.state = ready, ExecutorState.READY
        self._failed_starts = 0
        log.info("executor ready", executor=self.name, device=ready.device_name, broken=ready.broken)
        self._turn()

    def _on_broken(self, broken: Mapping[str, str]) -> None:
        """Some checkpoints are loaded when a job first wants them: what is then found is as if it had been said."""
        ours = {spec.name for spec in self._settings.hello.checkpoints}
        if self.info is not None and (news := (broken.keys() - self.info.broken.keys()) & ours):
            found = {name: broken[name] for name in news}
            log.warning("checkpoints cannot be loaded", executor=self.name, broken=found)
            self.info = self.info.model_copy(update={"broken": {**self.info.broken, **found}})

    def _turn(self) -> None:
        self._turned.set()
        self._turned = anyio.Event()

    def _failed_to_start(self) -> None:
        """An executor may never start here again: after some tries, who waits for it is let go to other workers."""
        self._failed_starts += 1
        if self._failed_starts < STARTS:
            return
        self._given_up += 1
        self._turn()
        for flight in self._outbox.take()[0]:
            flight.settle(ExecutorInterrupted(f"the executor does not start: {self.last_error}"))

    async def _after(self, process: ExecutorProcess) -> None:
        self.last_error = process.reason
        if process.ending is not Ending.LOST:
            log.warning("executor was killed", executor=self.name, reason=process.reason)
            return
        if process.ready_at is None:
            self._failed_to_start()
        backoff = self._settings.backoff
        if process.ready_at is not None and self._clock.monotonic() - process.ready_at >= backoff.good_run_s:
            self.deaths_in_a_row = 0
        self.deaths_in_a_row += 1
        delay = backoff.delay(self.deaths_in_a_row, self._rng)
        self.state = ExecutorState.BACKING_OFF
        log.error("executor lost", executor=self.name, reason=process.reason, starts_again_in_s=round(delay, 2))
        await self._clock.sleep(delay)

    # --- its work ---

    async def run(self, order: Order, *, time_limit_s: float, progress: ProgressListener | None = None) -> Outcome:
        """The end of one attempt; `time_limit_s` counts from when a process has the order.

        Raises ExecutorLost where the process died with it, ExecutorInterrupted where the process was ended for
        something else, ValueError where that attempt is under way already. An Outcome may be a `Failure` of type
        Timeout with `waiting` set: the job only waited for the device, which should count as a loss.
        Cancelled, it has the job ended and waits for that, at most for the grace and the kill after it.
        """
        if self._flight(order.key) is not None:
            raise ValueError(f"attempt {order.key} is under way already")
        flight = Flight(order, time_limit_s, progress)
        self._outbox.put(flight)
        self._inside += 1
        try:
            await flight.done.wait()
        except anyio.get_cancelled_exc_class():
            self.end(order.key, "cancelled")
            with anyio.CancelScope(shield=True):
                await flight.done.wait()
            raise
        finally:
            self._inside -= 1
        return flight.outcome()

    def end(self, key: str, reason: Literal["cancelled", "interrupted"]) -> None:
        """Has an attempt ended; `run` then returns soon, within the grace and the kill after it.

        It returns the outcome where that came first, else a Failure of type Cancelled, or raises ExecutorInterrupted.
        Does nothing where no such attempt is under way.
        """
        if (flight := self._outbox.flights.pop(key, None)) is not None:
            flight.settle(_ended_unsent(key, reason))
        elif (flight := self._flight(key)) is not None and flight.told is None:
            self._outbox.tell(flight, reason, self._clock.monotonic())

    def _flight(self, key: str) -> Flight | None:
        sent = None if self._process is None else self._process.flights.get(key)
        return sent or self._outbox.flights.get(key)


def _ended_unsent(key: str, reason: Literal["cancelled", "interrupted"]) -> Outcome | ExecutorInterrupted:
    if reason == "interrupted":
        return ExecutorInterrupted("the worker stopped")
    return Outcome(key=key, failure=Failure(type=ErrorType.CANCELLED, message="somebody asked for the job to end"))
