"""What somebody has to do now and then: every worker tries, the database lets one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import anyio
import anyio.to_thread
import structlog

from storage import jobs, partitions, rejections, sweep
from storage.claim import Fence
from storage.database import Database, DatabaseError
from storage.objects.base import ObjectStore
from storage.objects.errors import ObjectError, StoreUnavailable
from storage.rejected_bodies import delete_unused
from storage.settle import Rules
from storage.sweep import Unsuccessful
from worker.clock import Clock
from worker.metrics import Metrics
from worker.store import output_prefix

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Chore:
    """Work to do every `every_s` seconds."""

    name: str
    every_s: float
    work: Callable[[], object]


class Maintenance:
    """Expires deadlines and rejected messages, folds counts, sweeps outputs without success, keeps partitions."""

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        *,
        output: str,
        rules: Rules,
        history_kept: timedelta,
        clock: Clock,
        limiter: anyio.CapacityLimiter,
        metrics: Metrics,
        rejected_kept: timedelta = timedelta(days=90),
    ) -> None:
        self._database = database
        self._store = store
        self._output = output
        self._rules = rules
        self._history_kept = history_kept
        self._clock = clock
        self._limiter = limiter
        self._metrics = metrics
        self._rejected_kept = rejected_kept

    @property
    def chores(self) -> tuple[Chore, ...]:
        """All chores; each is safe to do at any time and by several workers at once."""
        return (
            Chore("expire deadlines", 2, self.expire),
            Chore("fold counts", 10, self.fold),
            Chore("sweep outputs", 30, self.sweep),
            Chore("keep partitions", 3600, self.keep_partitions),
            Chore("forget rejected messages", 600, self.forget_rejected),
        )

    async def keep(self) -> None:
        """Does every chore when it is due, until cancelled."""
        async with anyio.create_task_group() as group:
            for chore in self.chores:
                group.start_soon(self._every, chore)

    async def _every(self, chore: Chore) -> None:
        while True:
            try:
                await anyio.to_thread.run_sync(chore.work, limiter=self._limiter)
            except (DatabaseError, ObjectError) as error:
                log.warning("chore not done, trying again later", chore=chore.name, error=str(error))
            await self._clock.sleep(chore.every_s)

    def expire(self) -> None:
        """Fails queued jobs whose deadline has passed."""
        with self._database.transaction() as connection:
            expired = jobs.expire(connection, self._rules)
        if expired:
            log.info("deadlines passed in the queue", jobs=len(expired))

    def fold(self) -> None:
        """Sums up the counts."""
        with self._database.transaction() as connection:
            jobs.fold_counts(connection)
        with self._database.transaction() as connection:
            rejections.fold_rejected(connection)

    def sweep(self) -> int:
        """Deletes outputs of attempts that ended without success; returns how many objects went."""
        with self._database.transaction() as connection:
            due = sweep.take_due(connection)
        deleted = sum(self._sweep(attempt) for attempt in due)
        if deleted:
            log.info("swept outputs of attempts without success", attempts=len(due), objects=deleted)
        return deleted

    def _sweep(self, attempt: Unsuccessful) -> int:
        """One attempt's outputs; where the store refuses them, they are due again later and keep no other waiting."""
        fence = Fence(attempt.job_id, attempt.attempt, attempt.worker_id)
        prefix = output_prefix(self._output, attempt.output, fence)
        deleted = 0
        try:
            # The prefix names one attempt of one job: the listing sees nothing that is not its own.
            for info in self._store.list(prefix.bucket, f"{prefix.key}/"):
                self._store.delete(info.uri)
                deleted += 1
        except StoreUnavailable:
            self._metrics.count("store_errors_total", what="sweep")
            raise  # the next one would wait as long for the same
        except ObjectError as error:
            log.warning("outputs cannot be swept, trying again later", prefix=str(prefix), error=str(error))
            return deleted
        with self._database.transaction() as connection:
            sweep.swept(connection, attempt)
        return deleted

    def keep_partitions(self) -> None:
        """Makes the months ahead, drops those whose history is no longer kept, and what else has had its time."""
        partitions.ensure_partitions(self._database)
        if dropped := partitions.drop_expired(self._database, kept=self._history_kept):
            log.info("dropped history", partitions=dropped)
        with self._database.transaction() as connection:
            jobs.forget(connection, kept=self._history_kept)

    def forget_rejected(self) -> None:
        """Forgets rejected messages that have had their time, then the objects that none needs any more."""
        forgotten = 0
        while True:
            with self._database.transaction() as connection:
                some = rejections.expire_rejected(connection, kept=self._rejected_kept)
            forgotten += some
            if some < rejections.EXPIRED_AT_ONCE:
                break
        deleted = delete_unused(self._database, self._store, kept=self._rejected_kept)
        for error in deleted.refused:
            log.warning("an object of rejected messages cannot be deleted, trying again in a day", error=str(error))
        if forgotten or deleted.objects:
            log.info("forgot rejected messages", messages=forgotten, objects=deleted.objects)
