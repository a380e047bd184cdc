"""One life of a worker: one id, from its row in the database to its last word.

Order of a drain, and why:

1. claim nothing more, or the rest would never end;
2. let what is in hand finish within the grace: an hour's render that needs ten seconds more should have them;
3. end the rest, transfers and executor, *before* handing it back: a job must not run here and elsewhere;
4. record all that, and only then stop beating, or a reaper would count the jobs as lost.
"""

from __future__ import annotations

import os
import platform
import shutil
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial

import anyio
import anyio.to_thread
import structlog

from handlers.protocol import Ready
from handlers.registry import Registry
from storage import spaces, workers
from storage.database import DatabaseError
from storage.objects.errors import ObjectError
from storage.settle import Ending
from worker.attempts import Attempt, Attempts, Stop
from worker.backoff import Backoff
from worker.claiming import Appetite, Claimer
from worker.costs import Costs
from worker.crew import Crew
from worker.embedding import embed_job
from worker.executor import Executor, ExecutorState
from worker.executor_settings import executor_settings
from worker.fetch import Fetcher, Pinner
from worker.group import Group
from worker.lease import Lease
from worker.maintenance import Maintenance
from worker.media_limits import MediaLimits
from worker.outage import Patience
from worker.outcome import EmbedSpace
from worker.parts import Parts
from worker.reaper import Reaper
from worker.record import Record, Recorder
from worker.run import Limits, Runner
from worker.store import Outputs
from worker.wake import listen

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

#: Threads for downloads, and as many for uploads: they wait, mostly.
STORE_THREADS = 32
STORE_CHECK_S = 15.0
#: Bytes that must be free where inputs and outputs pass through: with less, jobs would only come back.
LEAST_FREE = 256 << 20
#: Between two tries to say the last word.
LAST_WORD_AGAIN_S = 0.5


def runnable(ready: Ready, registry: Registry) -> Sequence[str]:
    """The types that both sides know: what an executor says alone would be claimed from workers that can run it."""
    return [type_ for type_ in registry if type_ in ready.types]


class Life:
    """One worker id, from its row to its last word."""

    def __init__(self, parts: Parts, worker: uuid.UUID, previous: uuid.UUID | None) -> None:
        """`previous` is this process's life before, whose lease was lost."""
        settings = parts.settings
        self.parts = parts
        self.worker = worker
        self._previous = previous
        self._attempts = Attempts(parts.clock)
        self._costs = Costs()
        # One connection and one thread are kept back for the beat: a full pool must never look like a dead worker.
        self._database_limiter = anyio.CapacityLimiter(settings.database_connections - 1)
        self._beat_limiter = anyio.CapacityLimiter(1)
        self._fetch_limiter = anyio.CapacityLimiter(STORE_THREADS)
        self._store_limiter = anyio.CapacityLimiter(STORE_THREADS)
        self._scratch = settings.scratch / str(worker)
        self._executor = Executor(executor_settings(parts, self._scratch), clock=parts.clock, rng=parts.rng)
        self._lease = Lease(
            parts.database,
            worker,
            beat_s=settings.beat,
            lease_s=settings.lease,
            clock=parts.clock,
            limiter=self._beat_limiter,
            doing=self._attempts.doing,
        )
        self._space: EmbedSpace | None = None
        self._claimer: Claimer | None = None

    async def begin(self) -> None:
        """Makes the worker's row. Raises Unreachable."""
        await anyio.to_thread.run_sync(self._register)

    def _register(self) -> None:
        parts = self.parts
        with parts.database.transaction() as connection:
            if self._previous is not None:
                # Its children are dead, and nothing of it runs: nobody needs to wait a lease for that.
                workers.retire(connection, self._previous, "its lease was lost")
                why = "the worker had lost its lease"
                workers.end_running(connection, self._previous, Ending.INTERRUPTED, why, parts.rules)
            workers.register(
                connection,
                self.worker,
                host=platform.node(),
                pid=os.getpid(),
                build=parts.build,
                devices=[{"executor": self._executor.name}],
            )
        if (embed := parts.embed) is not None:
            space = spaces.ensure_space(
                parts.database, checkpoint=embed.name, revision=embed.revision, dimension=embed.dimension
            )
            self._space = EmbedSpace(space.id, embed.name, embed.dimension)
            if space.state != "active":
                log.warning("this worker fills an embedding space that is not searched", space=space.id)

    async def run(self, group: anyio.abc.TaskGroup, drain: anyio.Event) -> None:
        """Works until `drain`, then drains. Raises LeaseLost, in a group."""
        parts = self.parts
        # Every task of this life inherits it: each line of the log names the worker.
        structlog.contextvars.bind_contextvars(worker=str(self.worker))
        patience = Patience(give_up=self._lease_is_lost, metrics=parts.metrics)
        recorder = Recorder(
            parts.database,
            self.worker,
            rules=parts.rules,
            metrics=parts.metrics,
            embed_job=embed_job,
            patience=patience,
        )
        record = Group(recorder.write, limiter=self._database_limiter)
        pinner = Pinner(parts.database, self._space.id if self._space else None, patience)
        pin = Group(pinner.write, limiter=self._database_limiter)
        runner = self._runner(
            Fetcher(
                parts.reader,
                pin,
                max_bytes=parts.settings.object_bytes,
                limiter=self._fetch_limiter,
                metrics=parts.metrics,
            ),
            record,
            patience,
        )
        claimer = self._claimer = self._make_claimer(Crew(group, runner.run).start)
        group.start_soon(self._executor.serve)
        for keep in (self._lease.keep, self._lease.watch, record.keep, pin.keep, self._reaper().keep):
            group.start_soon(keep)
        group.start_soon(self._maintenance().keep)
        group.start_soon(
            partial(
                listen,
                parts.database.url,
                new_jobs=claimer.wake,
                cancel=self._cancel,
                clock=parts.clock,
                limiter=anyio.CapacityLimiter(1),
            )
        )
        group.start_soon(self._reconcile, claimer)
        group.start_soon(self._report)
        group.start_soon(self._watch_store)
        group.start_soon(claimer.keep)
        parts.metrics.set("build_info", 1, version=parts.build)
        log.info("worker started", executor=self._executor.name)
        await drain.wait()
        await self._drain(claimer)

    async def _drain(self, claimer: Claimer) -> None:
        parts = self.parts
        parts.health.report("draining", ok=False, why="the worker was told to stop")
        claimer.stop()
        await claimer.stopped()
        with anyio.move_on_after(parts.settings.drain_grace_s):
            await self._attempts.wait_for_none()
        if len(self._attempts):
            log.info("grace is over: the rest is ended and handed back", jobs=len(self._attempts))
            self._attempts.stop_all(Stop.DRAIN)
            await self._attempts.wait_for_none()

    async def end(self) -> None:
        """Says goodbye, so that nobody waits a lease for this worker, and no job of it is counted as lost.

        For as long as the lease: within that time of an outage of the database no reaper has taken the jobs back.
        Nothing of this life may run any more.
        """
        with anyio.move_on_after(self.parts.settings.lease):
            while True:
                try:
                    await anyio.to_thread.run_sync(self._retire)
                except DatabaseError as error:
                    log.warning("cannot say goodbye, trying again", worker=str(self.worker), error=str(error))
                    await self.parts.clock.sleep(LAST_WORD_AGAIN_S)
                else:
                    log.info("worker ended", worker=str(self.worker))
                    return
        log.error("ended without goodbye: its jobs are taken back after the lease", worker=str(self.worker))

    def _retire(self) -> None:
        with self.parts.database.transaction() as connection:
            workers.retire(connection, self.worker, "drained")
            # What could not be handed back before is interrupted, and not lost.
            why = "the worker was shut down"
            back = workers.end_running(connection, self.worker, Ending.INTERRUPTED, why, self.parts.rules)
        if back:
            log.warning("handed back with the last word", worker=str(self.worker), jobs=len(back))

    # --- parts of a life ---

    def _runner(self, fetcher: Fetcher, record: Group[Record, str], patience: Patience) -> Runner:
        parts, settings = self.parts, self.parts.settings
        return Runner(
            registry=parts.registry,
            database=parts.database,
            database_limiter=self._database_limiter,
            patience=patience,
            fetcher=fetcher,
            executor=self._executor,
            outputs=Outputs(
                parts.store,
                default_prefix=settings.output_prefix,
                max_bytes=settings.object_bytes,
                limiter=self._store_limiter,
                metrics=parts.metrics,
            ),
            record=record,
            space=self._space,
            checkpoints=parts.checkpoints,
            roles=parts.roles,
            limits=Limits(settings.job_time_limit_s, settings.job_time_limits),
            media_limits=MediaLimits.of(settings),
            backoff=Backoff(settings.backoff_base_s, settings.backoff_cap_s, parts.rng),
            scratch=self._scratch,
            metrics=parts.metrics,
            alone=self._attempts.alone,
            finished=self._finished,
        )

    def _make_claimer(self, start: Callable[[Attempt], object]) -> Claimer:
        parts, settings = self.parts, self.parts.settings
        return Claimer(
            parts.database,
            self.worker,
            appetite=Appetite(settings.lane_weights, settings.claim_ahead_s),
            types=self._types,
            has=self._has,
            attempts=self._attempts,
            costs=self._costs,
            start=lambda job: start(self._attempts.add(job)),
            rules=parts.rules,
            poll_s=settings.poll_interval_s,
            clock=parts.clock,
            rng=parts.rng,
            limiter=self._database_limiter,
            metrics=parts.metrics,
            health=parts.health,
        )

    def _reaper(self) -> Reaper:
        settings = self.parts.settings
        return Reaper(
            self.parts.database,
            lease_s=settings.lease,
            every_s=min(settings.beat, 5.0) / 2,
            rules=self.parts.rules,
            clock=self.parts.clock,
            limiter=self._database_limiter,
            metrics=self.parts.metrics,
        )

    def _maintenance(self) -> Maintenance:
        settings = self.parts.settings
        return Maintenance(
            self.parts.database,
            self.parts.store,
            output=settings.output_prefix,
            rules=self.parts.rules,
            history_kept=timedelta(seconds=settings.history_kept),
            rejected_kept=timedelta(seconds=settings.rejected_kept),
            clock=self.parts.clock,
            limiter=self._database_limiter,
            metrics=self.parts.metrics,
        )

    # --- what the parts ask of each other ---

    def _types(self) -> Sequence[str]:
        """What can be run now: nothing beside a job that must run alone, and what the executor and the disk permit."""
        info = self._executor.info
        if info is None or self._attempts.one_wants_to_be_alone or self._disk_is_full():
            return ()
        return runnable(info, self.parts.registry)

    def _has(self) -> Sequence[str]:
        """Checkpoints, roles and the embedding space, without those whose checkpoint cannot be loaded here."""
        parts, info = self.parts, self._executor.info
        broken = info.broken if info is not None else {}
        names = [name for name in parts.checkpoints if name not in broken]
        roles = [role for role, name in parts.roles.items() if name not in broken]
        spaces_ = [f"space:{space.id}" for space in (self._space,) if space and space.checkpoint not in broken]
        return [*names, *roles, *spaces_]

    def _disk_is_full(self) -> bool:
        return shutil.disk_usage(self.parts.settings.home).free < LEAST_FREE

    def _lease_is_lost(self) -> bool:
        return self._lease.lost

    def _finished(self, attempt: Attempt) -> None:
        self._attempts.remove(attempt)
        if "infer" in attempt.timings:
            self._costs.learn(attempt.job.type, attempt.timings["infer"] + attempt.timings.get("prepare", 0.0))
        if self._claimer is not None:
            self._claimer.wake()

    def _cancel(self, id_: uuid.UUID) -> None:
        if (attempt := self._attempts.get(id_)) is not None:
            attempt.stop(Stop.CANCELLED)

    async def _reconcile(self, claimer: Claimer) -> None:
        """Compares notes with the database once a beat, but not in the beat's own task, which must wait for nobody."""
        while True:
            await self.parts.clock.sleep(self.parts.settings.beat)
            try:
                await claimer.reconcile()
            except DatabaseError as error:
                log.warning("cannot compare notes with the database", error=str(error))

    async def _watch_store(self) -> None:
        """Asks the object store how it is, so that `/readyz` says so before a job finds out."""
        while True:
            try:
                await anyio.to_thread.run_sync(self.parts.store.check, limiter=self._store_limiter)
                self.parts.health.report("store", ok=True, why="answers")
            except (ObjectError, OSError) as error:
                self.parts.metrics.count("store_errors_total", what="check")
                self.parts.health.report("store", ok=False, why=str(error))
            await self.parts.clock.sleep(STORE_CHECK_S)

    async def _report(self) -> None:
        """Feeds health and metrics, and wakes the claim loop when the executor has become ready."""
        health, metrics, executor = self.parts.health, self.parts.metrics, self._executor
        before, starts = executor.state, 1
        missing = self.parts.sandbox.report.missing()
        health.report("sandbox", ok=not missing, why=", ".join(missing) or self.parts.sandbox.report.level)
        while True:
            ready = executor.state is ExecutorState.READY
            health.tick("loop")
            health.report("executor", ok=ready, why=executor.state if ready else executor.last_error or executor.state)
            # A worker that is full does not claim: only its beat tells then that the database is away.
            age_s = self._lease.age_s
            late = age_s > 2 * self.parts.settings.beat
            health.report("lease", ok=not late, why=f"no beat was confirmed for {age_s:.0f} s" if late else "it beats")
            full = self._disk_is_full()
            health.report("disk", ok=not full, why=f"less than {LEAST_FREE >> 20} MiB are free" if full else "has room")
            if executor.info is not None:
                broken = executor.info.broken
                health.report("checkpoints", ok=not broken, why="; ".join(broken.values()) or "can be loaded")
            metrics.set("beat_age_seconds", age_s)
            metrics.set("jobs_in_hand", len(self._attempts))
            if ready and before is not executor.state and self._claimer is not None:
                self._claimer.wake()
            if executor.starts > starts:
                metrics.count("executor_restarts_total", executor.starts - starts, reason="died")
                starts = executor.starts
            before = executor.state
            await self.parts.clock.sleep(0.2)
