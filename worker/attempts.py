"""The attempts that this worker has in hand, and the ways in which one is ended from outside."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import anyio
import structlog

from storage.claim import ClaimedJob
from storage.workers import Running
from worker.clock import Clock

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Stop(StrEnum):
    """Why an attempt is ended before its time."""

    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    DRAIN = "drain"
    FENCE_LOST = "fence lost"
    """The row is no longer ours: end without a word."""


@dataclass(slots=True)
class Attempt:
    """One claimed job on its way."""

    job: ClaimedJob
    started: float
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    stopped: Stop | None = None
    recording: bool = False
    stage: str = "claimed"
    progress: float = 0
    note: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    key: str = field(init=False)
    """How the executor knows it."""
    executed: float | None = None
    """`time.monotonic()` when the executor was done with it; None where it never had it."""

    def __post_init__(self) -> None:
        self.key = self.job.fence.key

    def progressed(self, fraction: float, note: str) -> None:
        """The executor said how far it is."""
        self.progress, self.note = min(max(fraction, 0.0), 1.0), note[:200]

    def stop(self, why: Stop) -> None:
        """Ends the attempt, unless its result is being recorded: a committed success beats a cancel."""
        if self.stopped is None and not self.recording:
            self.stopped = why
            self.scope.cancel()


class Attempts:
    """All attempts in hand, by job."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._attempts: dict[uuid.UUID, Attempt] = {}
        self._none = anyio.Event()
        self._none.set()
        self._alone = anyio.Lock()
        self._fewer: anyio.Event | None = None

    def __len__(self) -> int:
        return len(self._attempts)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(list(self._attempts.values()))

    def get(self, id_: uuid.UUID) -> Attempt | None:
        """The attempt of a job, if it is in hand."""
        return self._attempts.get(id_)

    def add(self, job: ClaimedJob) -> Attempt:
        """A job was claimed."""
        attempt = Attempt(job, self._clock.monotonic(), timings={"queued": round(job.queued_s, 6)})
        self._attempts[job.fence.id] = attempt
        if self._none.is_set():
            self._none = anyio.Event()
        return attempt

    def remove(self, attempt: Attempt) -> None:
        """The attempt has ended."""
        if self._attempts.get(attempt.job.fence.id) is attempt:
            del self._attempts[attempt.job.fence.id]
        if not self._attempts:
            self._none.set()
        if self._fewer is not None:
            self._fewer.set()

    async def wait_for_none(self) -> None:
        """Returns when nothing is in hand."""
        await self._none.wait()

    @property
    def one_wants_to_be_alone(self) -> bool:
        """Whether a job is in hand that must run alone: then nothing more may be claimed."""
        return any(attempt.job.runs_alone for attempt in self._attempts.values())

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """For a job that must run alone: entered when all others have ended, by one at a time.

        Those that wait here themselves have not begun, and are in nobody's way.
        """
        async with self._alone:
            while not all(attempt.job.runs_alone for attempt in self._attempts.values()):
                self._fewer = anyio.Event()
                await self._fewer.wait()
            self._fewer = None
            yield

    def stop_all(self, why: Stop) -> None:
        """Ends every attempt that is not being recorded."""
        for attempt in self:
            attempt.stop(why)

    def doing(self) -> Mapping[str, Any]:
        """What stands in `workers.doing`: counts by type, and the state of the 50 that run longest."""
        now = self._clock.monotonic()
        types: dict[str, int] = {}
        for attempt in self:
            types[attempt.job.type] = types.get(attempt.job.type, 0) + 1
        oldest = sorted(self, key=lambda attempt: attempt.started)[:50]
        return {
            "jobs": len(self),
            "types": types,
            "oldest": [
                {
                    "id": str(attempt.job.fence.id),
                    "type": attempt.job.type,
                    "stage": attempt.stage,
                    "seconds": round(now - attempt.started, 1),
                    "progress": attempt.progress,
                    "note": attempt.note,
                }
                for attempt in oldest
            ],
        }

    async def reconcile(self, read: Callable[[], Awaitable[Sequence[Running]]]) -> list[Running]:
        """Compares what we have in hand with what the database thinks that we have (`read`).

        Ends attempts whose row is not ours any more, passes on cancels whose NOTIFY was missed, and returns the rows
        that we know nothing of: a claim whose answer was lost. No claim may be under way meanwhile.
        """
        before = [attempt for attempt in self if not attempt.recording]
        rows = {row.id: row for row in await read()}
        for attempt in before:
            row = rows.get(attempt.job.fence.id)
            if self.get(attempt.job.fence.id) is not attempt:
                continue
            if row is None or row.attempt != attempt.job.fence.attempt:
                log.warning("job is no longer ours", job=str(attempt.job.fence.id), attempt=attempt.job.fence.attempt)
                attempt.stop(Stop.FENCE_LOST)
            elif row.cancel_requested:
                attempt.stop(Stop.CANCELLED)
        known = {(attempt.job.fence.id, attempt.job.fence.attempt) for attempt in self}
        return [row for row in rows.values() if (row.id, row.attempt) not in known]
