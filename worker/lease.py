"""The worker's lease: one counter, raised every few seconds; and the moment from which it must think itself dead."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import anyio.to_thread
import structlog

from storage import workers
from storage.claim import WorkerRetired
from storage.database import Database, Unreachable
from worker.clock import Clock

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class LeaseLost(Exception):
    """Others may have this worker's jobs now: it ends its children and starts over with a new id."""


class Lease:
    """Keeps a worker's row beating.

    The time of the last confirmed beat counts from before it was *sent*: the database may have counted it then, and a
    reaper's patience may have started then. No clock of another machine is asked.
    """

    def __init__(
        self,
        database: Database,
        worker: uuid.UUID,
        *,
        beat_s: float,
        lease_s: float,
        clock: Clock,
        limiter: anyio.CapacityLimiter,
        doing: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._database = database
        self._worker = worker
        self._beat_s = beat_s
        # Ended one beat before anybody can reclaim: killing children takes its time too.
        self._trust_s = lease_s - beat_s
        self._clock = clock
        self._limiter = limiter
        self._doing = doing
        self._confirmed = clock.monotonic()

    @property
    def age_s(self) -> float:
        """Seconds since the last confirmed beat was sent."""
        return self._clock.monotonic() - self._confirmed

    @property
    def lost(self) -> bool:
        """Whether nothing may be written any more for want of a confirmed beat."""
        return self.age_s >= self._trust_s

    async def keep(self) -> None:
        """Beats until cancelled. Raises LeaseLost when the worker was retired."""
        while True:
            sent = self._clock.monotonic()
            try:
                await anyio.to_thread.run_sync(self._beat, self._doing(), limiter=self._limiter)
                self._confirmed = max(self._confirmed, sent)
            except WorkerRetired:
                raise LeaseLost("a reaper retired this worker") from None
            except Unreachable as error:
                log.warning(
                    "beat not confirmed", worker=str(self._worker), for_s=round(self.age_s, 1), error=str(error)
                )
            await self._clock.sleep(self._beat_s)

    async def watch(self) -> None:
        """Raises LeaseLost as soon as no beat was confirmed for too long.

        A task of its own, because a beat may hang in a dead connection for as long as it likes.
        """
        while (left := self._trust_s - self.age_s) > 0:
            await self._clock.sleep(left)
        raise LeaseLost(f"no beat was confirmed for {self.age_s:.1f} s")

    def _beat(self, doing: Mapping[str, Any]) -> None:
        with self._database.transaction() as connection:
            workers.beat(connection, self._worker, doing)
