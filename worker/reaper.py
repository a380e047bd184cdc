"""The reaper: takes back the jobs of workers that have fallen silent. Every worker runs one."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import structlog

from storage import workers
from storage.database import Connection, Database, DatabaseError
from storage.settle import Ending, Rules
from worker.clock import Clock
from worker.metrics import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Silence:
    """Who has been silent for a whole lease, judged on one monotonic clock.

    A worker counts as silent from when this watcher first saw its present beat; so a new watcher waits a full lease,
    and whatever it could not see (the database away, itself stopped) starts the wait anew.
    """

    def __init__(self, lease_s: float, clock: Clock, *, gap_s: float) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._gap_s = gap_s
        self._seen: dict[uuid.UUID, tuple[int, float]] = {}
        self._last_look: float | None = None

    def forget(self) -> None:
        """The database was out of reach: silence of that time proves nothing."""
        self._seen.clear()
        self._last_look = None

    def observe(self, beats: Mapping[uuid.UUID, int]) -> dict[uuid.UUID, int]:
        """Takes one look at all beats; returns the workers to reclaim, with the beat that must still hold then."""
        now = self._clock.monotonic()
        if self._last_look is not None and now - self._last_look > self._gap_s:
            # We were stopped ourselves: nobody knows whether the database could be reached meanwhile.
            self._seen.clear()
        self._last_look = now
        self._seen = {
            worker: self._seen[worker] if self._seen.get(worker, (None, 0))[0] == beat else (beat, now)
            for worker, beat in beats.items()
        }
        return {worker: beat for worker, (beat, since) in self._seen.items() if now - since >= self._lease_s}


class Reaper:
    """Looks at all beats every `every_s` and reclaims what `Silence` names."""

    def __init__(
        self,
        database: Database,
        *,
        lease_s: float,
        every_s: float,
        rules: Rules,
        clock: Clock,
        limiter: anyio.CapacityLimiter,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._every_s = every_s
        self._rules = rules
        self._clock = clock
        self._limiter = limiter
        self._metrics = metrics
        self.silence = Silence(lease_s, clock, gap_s=max(3 * every_s, lease_s / 2))

    async def keep(self) -> None:
        """Reaps until cancelled."""
        while True:
            try:
                await anyio.to_thread.run_sync(self.look, limiter=self._limiter)
            except DatabaseError as error:
                self.silence.forget()
                log.warning("the reaper cannot see the workers", error=str(error))
            await self._clock.sleep(self._every_s)

    def look(self) -> None:
        """One look: reclaims silent workers, then running rows of workers that are retired or unknown."""
        with self._database.transaction() as connection:
            silent = self.silence.observe(workers.beats(connection))
            orphaned = workers.orphaned(connection)
        for worker, seen in silent.items():
            self._apart(worker, partial(workers.reclaim, worker=worker, seen=seen, rules=self._rules))
        for worker in orphaned:
            why = "the worker that ran the job was retired"
            end = partial(workers.end_running, worker=worker, ending=Ending.LOST, message=why, rules=self._rules)
            self._apart(worker, end)

    def _apart(self, worker: uuid.UUID, end: Callable[[Connection], Mapping[uuid.UUID, str] | None]) -> None:
        """Ends one worker's attempts; where that is not to be done now, it is tried again and keeps no other waiting.

        The silence of all others is as proven as before: nothing of it is forgotten.
        """
        try:
            with self._database.transaction() as connection:
                states = end(connection)
        except DatabaseError as error:
            log.warning("a worker's jobs cannot be taken back now", silent_worker=str(worker), error=str(error))
            return
        if states is not None:
            self._told(worker, states)

    def _told(self, worker: uuid.UUID, states: Mapping[uuid.UUID, str]) -> None:
        ends: dict[str, Any] = {state: list(states.values()).count(state) for state in set(states.values())}
        self._metrics.count("leases_reclaimed_total")
        log.warning("reclaimed a silent worker's jobs", silent_worker=str(worker), jobs=len(states), **ends)
