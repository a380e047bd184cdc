"""The claim loop: takes as many jobs as fill a few predicted device-seconds, wakes on NOTIFY, polls as a safety net."""

from __future__ import annotations

import math
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import anyio
import anyio.to_thread
import structlog

from config.lanes import Lane
from storage.claim import ClaimedJob, Want, WorkerRetired, claim
from storage.database import Database, DatabaseError, Unreachable
from storage.settle import Ending, Rules, Settlement, settle
from storage.workers import Running, running
from worker.attempts import Attempts
from worker.clock import Clock
from worker.costs import Costs
from worker.health import Health
from worker.lease import LeaseLost
from worker.metrics import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

#: Most attempts in hand, however cheap they are: each is a row to hand back when the worker dies.
MOST_IN_HAND = 512
#: Most jobs of one claim statement.
MOST_AT_ONCE = 200
#: Most jobs of a type, from a lane, while nobody knows what one costs: it may be an hour's film.
FIRST_OF_A_TYPE = 2
#: Part of all room that must be free before more is claimed.
LEAST_ROOM = 0.25


@dataclass(frozen=True, slots=True)
class Appetite:
    """How much a worker takes."""

    lanes: Mapping[Lane, float]
    """Lane -> weight."""
    ahead_s: float
    """Predicted seconds of work to have in hand."""


def shares(
    appetite: Appetite, types: Sequence[str], costs: Costs, in_hand: Sequence[str], *, least: float = 0.0
) -> list[Want]:
    """How many jobs of which type to take from which lane, by weight, so that what is in hand lasts `ahead_s`.

    A lane gets at least one job of each type when anything is taken at all, so that none starves. Nothing is taken
    while less than the part `least` of all room is free: one statement for many jobs, not one for each that ends.
    """
    room_s = appetite.ahead_s - costs.total_s(in_hand)
    room = MOST_IN_HAND - len(in_hand)
    if in_hand and (room_s <= appetite.ahead_s * least or room <= MOST_IN_HAND * least):
        return []
    room = min(room, MOST_AT_ONCE)
    total = sum(appetite.lanes.values())
    wants = []
    for lane, weight in sorted(appetite.lanes.items(), key=lambda item: -item[1]):
        for type_ in types:
            # Shared among the types too: which of them have jobs is not known before the claim.
            n = math.ceil(room_s * weight / total / len(types) / costs.predict_s(type_))
            most = room if costs.knows(type_) else FIRST_OF_A_TYPE
            wants.append(Want(lane, type_, max(1, min(n, most))))
    return wants


def in_turn(wants: Sequence[Want], appetite: Appetite, rng: random.Random) -> list[Want]:
    """In an order by chance, those of heavy lanes first the more often.

    One claim takes MOST_AT_ONCE at most, in the order of what is wanted: where jobs are so cheap that a single lane
    fills it, who came last in every claim would starve. (Weighted sampling without replacement: Efraimidis, Spirakis.)
    """
    weights = {str(lane): weight for lane, weight in appetite.lanes.items()}
    return sorted(wants, key=lambda want: rng.random() ** (1 / weights[want.lane]), reverse=True)


class Claimer:
    """Claims until told to stop, and hands each job to `start`."""

    def __init__(
        self,
        database: Database,
        worker: uuid.UUID,
        *,
        appetite: Appetite,
        types: Callable[[], Sequence[str]],
        has: Callable[[], Sequence[str]],
        attempts: Attempts,
        costs: Costs,
        start: Callable[[ClaimedJob], object],
        rules: Rules,
        poll_s: float,
        clock: Clock,
        rng: random.Random,
        limiter: anyio.CapacityLimiter,
        metrics: Metrics,
        health: Health,
    ) -> None:
        """`types` are those that the executor can run now; none while it is not ready.

        `has` are checkpoints, roles and spaces that it has: a job that requires another is left to other workers.
        """
        self._database = database
        self._worker = worker
        self._appetite = appetite
        self._types = types
        self._has = has
        self._attempts = attempts
        self._costs = costs
        self._start = start
        self._rules = rules
        self._poll_s = poll_s
        self._clock = clock
        self._rng = rng
        self._limiter = limiter
        self._metrics = metrics
        self._health = health
        self._wake = anyio.Event()
        self._claiming = anyio.Lock()
        self._heaviest = max(appetite.lanes, key=lambda lane: appetite.lanes[lane])
        self._urgent = False
        self._stopped = False
        self._ended = anyio.Event()

    def wake(self, lane: str | None = None) -> None:
        """There may be something to claim: new work in a lane, or room for it.

        New work in the heaviest lane is claimed into any room at all: somebody waits for it.
        """
        self._urgent = self._urgent or lane == self._heaviest
        self._wake.set()

    def stop(self) -> None:
        """Claim nothing more."""
        self._stopped = True
        self.wake()

    async def stopped(self) -> None:
        """Returns when no claim is under way any more."""
        await self._ended.wait()

    async def keep(self) -> None:
        """Claims until `stop`. Raises LeaseLost when the worker was retired."""
        while not self._stopped:
            self._wake = anyio.Event()
            took = await self._claim()
            if not took and not self._stopped:
                await self._rest()
        self._health.rest("claim")
        self._ended.set()

    async def reconcile(self) -> None:
        """Hands back running rows of ours that we know nothing of: a claim that committed but whose answer was lost."""
        async with self._claiming:
            unknown = await self._attempts.reconcile(self._read_running)
            if unknown:
                log.warning("handing back jobs of a claim whose answer was lost", jobs=len(unknown))
                await anyio.to_thread.run_sync(self._hand_back, unknown, limiter=self._limiter)

    async def _claim(self) -> int:
        types = self._types()
        urgent, self._urgent = self._urgent, False
        in_hand = [attempt.job.type for attempt in self._attempts]
        wanted = shares(self._appetite, types, self._costs, in_hand, least=0.0 if urgent else LEAST_ROOM)
        if not urgent:
            wanted = in_turn(wanted, self._appetite, self._rng)
        if not wanted:
            # Full, or the executor is not ready: no claim is due, and none can have stalled.
            self._health.rest("claim")
            return 0
        self._health.expect("claim")
        async with self._claiming:
            try:
                jobs = await anyio.to_thread.run_sync(self._take, wanted, limiter=self._limiter)
            except WorkerRetired:
                raise LeaseLost("a reaper retired this worker") from None
            except DatabaseError as error:
                self._metrics.count("database_errors_total", what="claim")
                log.warning("cannot claim", error=str(error))
                if isinstance(error, Unreachable):
                    self._health.report("database", ok=False, why=str(error))
                await self._clock.sleep(min(self._poll_s, 1.0))
                return 0
            self._health.report("database", ok=True, why="answers claims")
            self._health.tick("claim")
            for job in jobs:
                if self._stopped:
                    break
                self._start(job)
        if self._stopped and jobs:
            # Claimed while a drain began: they go back as they are.
            known = {attempt.job.fence.id for attempt in self._attempts}
            rest = [Running(j.fence.id, j.fence.attempt, False) for j in jobs if j.fence.id not in known]
            if rest:
                await self._give_back(rest)
        self._metrics.count("claims_total")
        self._metrics.count("claimed_jobs_total", len(jobs))
        for job in jobs:
            self._metrics.observe("queue_seconds", job.queued_s, type=job.type, lane=job.lane)
        return len(jobs)

    async def _give_back(self, rows: Sequence[Running]) -> None:
        try:
            await anyio.to_thread.run_sync(self._hand_back, rows, limiter=self._limiter)
        except DatabaseError as error:
            # The next look finds them as rows that we know nothing of; at the latest, the worker's last word does.
            log.warning("cannot hand back jobs that were claimed while a drain began", error=str(error))

    def _take(self, wanted: Sequence[Want]) -> list[ClaimedJob]:
        with self._database.transaction() as connection:
            return claim(connection, self._worker, wanted, self._has(), most=MOST_AT_ONCE)

    async def _read_running(self) -> Sequence[Running]:
        def read() -> Sequence[Running]:
            with self._database.transaction() as connection:
                return running(connection, self._worker)

        return await anyio.to_thread.run_sync(read, limiter=self._limiter)

    def _hand_back(self, rows: Sequence[Running]) -> None:
        error = {"type": "WorkerLost", "message": "handed back before it ran"}
        back = [
            Settlement(row.id, row.attempt, Ending.INTERRUPTED, worker_id=self._worker, error=error) for row in rows
        ]
        with self._database.transaction() as connection:
            settle(connection, back, self._rules)

    async def _rest(self) -> None:
        """Until woken, or until the next poll; jittered, so that workers do not poll in step."""
        with anyio.move_on_after(self._poll_s * self._rng.uniform(0.5, 1.5)):
            await self._wake.wait()
