"""A job's way through the worker: fetch, execute, store, record. `Runner._stages` reads from top to bottom."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import structlog

from handlers.declaration import Many, Media, Named, One
from handlers.errors import HandlerBug, JobError
from handlers.protocol import CheckpointSpec, Order, Outcome
from handlers.registry import AnyHandler, Registry
from storage.claim import ClaimedJob, WorkerRetired, mark_alone
from storage.database import Database, DataError
from storage.objects.errors import ObjectError
from storage.settle import Artifact, Ending, Settlement
from worker.attempts import Attempt
from worker.backoff import Backoff
from worker.executor import Executor, ExecutorInterrupted, ExecutorLost
from worker.fetch import Fetcher, Files, reads
from worker.group import Closed, Group
from worker.judge import AttemptFailed, judge, stopped
from worker.media_limits import MediaLimits
from worker.metrics import Metrics
from worker.outage import Patience
from worker.outcome import EmbedSpace, Made, read_outcome
from worker.record import FenceLost, Picture, Record
from worker.scratch import Scratch
from worker.store import Outputs

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


EMBED_TYPE = "image.embed"
#: What is a picture among inputs of any kind, the handler says by embedding or probing it.
_MAY_BE_PICTURES = frozenset({Media.IMAGE, Media.ANY})
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"))

#: What may go wrong with a job, and `judge` knows what it means. An OSError is trouble with the local disk.
JUDGED = (JobError, ObjectError, AttemptFailed, ExecutorLost, ExecutorInterrupted, DataError, OSError)


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits of attempts, in seconds."""

    job_time_limit_s: float
    by_type: Mapping[str, float]

    def of(self, job: ClaimedJob, handler: AnyHandler) -> float:
        """The message's own limit, else the setting for the type, else the handler's, else the general one."""
        return job.timeout_s or self.by_type.get(job.type) or handler.time_limit_s or self.job_time_limit_s


class Runner:
    """Takes claimed jobs all the way; everything that it needs is handed to it."""

    def __init__(
        self,
        *,
        registry: Registry,
        database: Database,
        database_limiter: anyio.CapacityLimiter,
        patience: Patience,
        fetcher: Fetcher,
        executor: Executor,
        outputs: Outputs,
        record: Group[Record, str],
        space: EmbedSpace | None,
        checkpoints: Mapping[str, CheckpointSpec],
        roles: Mapping[str, str],
        limits: Limits,
        media_limits: MediaLimits,
        backoff: Backoff,
        scratch: Path,
        metrics: Metrics,
        alone: Callable[[], AbstractAsyncContextManager[None]],
        finished: Callable[[Attempt], None],
    ) -> None:
        """`alone` is entered by a job that must have the worker for itself; `finished` is told of every end."""
        self._registry = registry
        self._params = {type_: registry[type_].params_type() for type_ in registry}
        self._database = database
        self._database_limiter = database_limiter
        self._patience = patience
        self._fetcher = fetcher
        self._executor = executor
        self._outputs = outputs
        self._record = record
        self._space = space
        self._checkpoints = checkpoints
        self._roles = roles
        self._limits = limits
        self._media_limits = media_limits
        self._backoff = backoff
        self._scratch = Scratch(scratch)
        self._metrics = metrics
        self._alone = alone
        self._finished = finished

    async def run(self, attempt: Attempt) -> None:
        """Runs one attempt to its recorded end."""
        job = attempt.job
        # In the context of this task alone, until it has its next attempt.
        structlog.contextvars.bind_contextvars(job=str(job.fence.id), attempt=job.fence.attempt, type=job.type)
        try:
            async with AsyncExitStack() as held:
                await self._settled(attempt, self._stages(attempt, held))
        finally:
            if attempt.executed is not None:
                await self._scratch.remove(attempt.key, since=attempt.executed)

    async def _stages(self, attempt: Attempt, held: AsyncExitStack) -> None:
        """The way of a job; what can go wrong on it is `_settled`'s concern."""
        job = attempt.job
        handler = self._registry[job.type]
        if job.runs_alone:
            await self._be_alone(attempt, held)
        files = await self._fetch(attempt, handler, held)
        outcome = await self._execute(attempt, handler, files)
        artifacts = await self._store(attempt, outcome)
        await self._succeed(attempt, handler, files, outcome, artifacts)

    # --- the stages ---

    async def _be_alone(self, attempt: Attempt, held: AsyncExitStack) -> None:
        """Waits for this worker to have nothing else in hand, and marks it durably: who dies until `held` closes and
        the end of the attempt is recorded, the executor or the worker, died of this job.
        """
        with self._stage(attempt, "alone"):
            await held.enter_async_context(self._alone())
            # Ready first: a death between the mark and the start would be laid at this job's door.
            await self._executor.ready()
            await self._mark_alone(attempt)

    async def _fetch(self, attempt: Attempt, handler: AnyHandler, held: AsyncExitStack) -> Files:
        if not reads(attempt.job):
            return Files((), frozenset())
        with self._stage(attempt, "fetch"):
            return await self._fetcher.fetch(attempt.job, handler.inputs, held)

    async def _execute(self, attempt: Attempt, handler: AnyHandler, files: Files) -> Outcome:
        order = self._order(attempt, handler, files)
        limit, began = self._limits.of(attempt.job, handler), time.monotonic()
        attempt.stage = "execute"  # its parts are timed by the executor: prepare, wait, infer, finish
        try:
            outcome = await self._executor.run(order, time_limit_s=limit, progress=attempt.progressed)
        finally:
            attempt.executed = time.monotonic()
        longest = attempt.executed - began
        for stage in ("prepare", "wait", "infer", "finish"):
            # Claims are costed by these: a NaN or an infinity among them would stay in the average for ever.
            seconds = min(max(0.0, getattr(outcome.timings, stage)), longest)
            attempt.timings[stage] = round(seconds, 6)
            if seconds:  # most jobs skip some of them
                self._metrics.observe("stage_seconds", seconds, stage=stage, type=attempt.job.type)
        if outcome.failure is not None:
            raise AttemptFailed(outcome)
        return outcome

    async def _store(self, attempt: Attempt, outcome: Outcome) -> list[Artifact]:
        if not outcome.files:
            return []
        with self._stage(attempt, "store"):
            return await self._outputs.store(attempt.job, Path(self._scratch.of(attempt.key)), outcome.files)

    async def _succeed(
        self,
        attempt: Attempt,
        handler: AnyHandler,
        files: Files,
        outcome: Outcome,
        artifacts: list[Artifact],
    ) -> None:
        job = attempt.job
        contents = {file.pointer: file.pinned.sha256 for file in files.files}
        contents |= {f"outputs/{artifact.role}": artifact.sha256 for artifact in artifacts}
        made = read_outcome(outcome, contents, self._space)
        if job.type == EMBED_TYPE:
            self._check_embedded(job, files, made)
        settlement = Settlement.of(
            job.fence,
            Ending.SUCCEEDED,
            result=outcome.result,
            timings=attempt.timings,
            derivation_key=self._derivation_key(job, handler, files),
            artifacts=artifacts,
            texts=made.texts,
            embeddings=made.embeddings,
            probes=made.probes,
        )
        await self._settle(attempt, settlement, self._pictures(job, handler, files, artifacts, made))

    def _check_embedded(self, job: ClaimedJob, files: Files, made: Made) -> None:
        """The job that is to give pictures their embedding must not succeed without: nobody else would make it."""
        if self._space is None or not job.message.get("embed", True):
            return
        there = {bytes.fromhex(sha256) for sha256 in files.embedded} | {e.content for e in made.embeddings}
        lacking = [file.pointer for file in files.files if file.pinned.sha256 not in there]
        if lacking:
            raise HandlerBug(f"no embedding was made of {', '.join(lacking[:5])}")

    # --- around the stages ---

    async def _settled(self, attempt: Attempt, stages: Awaitable[None]) -> None:
        """Lets cancel, deadline and loss of the row end the attempt, and settles every way that it can end."""
        job = attempt.job
        if job.deadline is not None:
            attempt.scope.deadline = anyio.current_time() + (job.deadline - datetime.now(UTC)).total_seconds()
        settlement: Settlement | None = None
        try:
            with attempt.scope:
                try:
                    await stages
                except JUDGED as error:
                    settlement = judge(job, error, self._backoff)
                except FenceLost:
                    log.warning("the job was no longer ours when its end was to be recorded")
                except Closed:
                    log.warning("the worker's life ended before the job's end was recorded")
                except WorkerRetired:
                    raise
                except Exception as error:  # one strange job must not end the worker and its neighbours
                    log.exception("the worker itself failed on the job")
                    settlement = judge(job, HandlerBug(f"{type(error).__name__}: {error}"), self._backoff)
            if attempt.scope.cancelled_caught:
                settlement = stopped(attempt)
            if settlement is not None:
                with anyio.CancelScope(shield=True):
                    await self._settle_failure(attempt, settlement)
        finally:
            self._finished(attempt)

    def _stage(self, attempt: Attempt, name: str) -> _Stage:
        return _Stage(attempt, name, self._metrics)

    async def _mark_alone(self, attempt: Attempt) -> None:
        def mark() -> bool:
            with self._database.transaction() as connection:
                return mark_alone(connection, attempt.job.fence)

        marked = await anyio.to_thread.run_sync(
            lambda: self._patience.through("mark alone", mark), limiter=self._database_limiter
        )
        if not marked:
            raise FenceLost(str(attempt.job.fence.id))

    async def _settle(self, attempt: Attempt, settlement: Settlement, pictures: list[Picture]) -> str:
        attempt.stage, attempt.recording = "record", True
        job = attempt.job
        record = Record(settlement, time.monotonic(), pictures, job.tenant, job.lane, job.type, attempt.timings)
        if attempt.scope.cancel_called:
            with anyio.CancelScope(shield=True):
                state = await self._record(record)
        else:
            # A shield that is there already: to make another takes a tenth of a small job's time.
            attempt.scope.shield, attempt.scope.deadline = True, math.inf
            state = await self._record(record)
        attempt.recording = False
        # Successes are told together, by the recorder: a line for each takes longer than a small job.
        level = logging.DEBUG if settlement.ending is Ending.SUCCEEDED else logging.INFO
        log.log(level, "attempt ended", ending=settlement.ending.value, state=state, **attempt.timings)
        return state

    async def _settle_failure(self, attempt: Attempt, settlement: Settlement) -> None:
        try:
            try:
                await self._settle(attempt, settlement, [])
            except DataError as error:
                # Postgres refuses what was to be said of the failure: then that is what is said of it.
                await self._settle(attempt, judge(attempt.job, error, self._backoff), [])
        except (FenceLost, Closed):
            log.warning("the end of the attempt was not recorded: the job is no longer ours")

    # --- what follows from what ---

    def _order(self, attempt: Attempt, handler: AnyHandler, files: Files) -> Order:
        job = attempt.job
        params = dict(job.message.get("params") or {})
        embeds = bool(job.message.get("embed", True)) and self._space is not None
        return Order(
            key=attempt.key,
            type=job.type,
            params=params,
            inputs=_shaped(handler, files),
            scratch=self._scratch.of(attempt.key),
            seed=_seed(job.fence.id, params),
            limits=self._media_limits.over(file.pinned.bucket for file in files.files),
            embed=tuple(
                file.pointer
                for file in files.files
                if embeds
                and handler.inputs[file.role].media in _MAY_BE_PICTURES
                and file.pinned.sha256.hex() not in files.embedded
            ),
            embed_outputs=embeds,
        )

    def _pictures(
        self, job: ClaimedJob, handler: AnyHandler, files: Files, artifacts: list[Artifact], made: Made
    ) -> list[Picture]:
        """All pictures that the job read or made: there may be spaces that this worker does not fill."""
        if not job.message.get("embed", True):
            return []
        read = [
            Picture(f.pinned.sha256, f"s3://{f.pinned.bucket}/{f.pinned.key}", f.pinned.version_id, f.pinned.etag)
            for f in files.files
            if handler.inputs[f.role].media is Media.IMAGE or _is_picture(made.probes.get(f.pinned.sha256))
        ]
        written = [
            Picture(a.sha256, f"s3://{a.bucket}/{a.key}", a.version_id, a.etag)
            for a in artifacts
            if a.media_type.startswith("image/")
        ]
        return read + written

    def _derivation_key(self, job: ClaimedJob, handler: AnyHandler, files: Files) -> bytes | None:
        """sha256 over everything that the result follows from; None where that includes chance."""
        params = self._params[job.type].model_validate(job.message.get("params") or {})
        if handler.samples(params) and getattr(params, "seed", None) is None:
            return None
        specs = [self._checkpoints[self._roles.get(name, name)] for name in sorted(handler.checkpoints(params))]
        facts = {
            "contents": [[file.pointer, file.pinned.sha256.hex()] for file in files.files],
            "type": job.type,
            "version": handler.version,
            "checkpoints": [_identity(spec) for spec in specs],
            "params": params.model_dump(mode="json"),
        }
        return hashlib.sha256(_canonical.encode(facts).encode()).digest()


def _shaped(handler: AnyHandler, files: Files) -> dict[str, str | list[str] | dict[str, str]]:
    """The files as the handler declares its inputs."""
    shaped: dict[str, str | list[str] | dict[str, str]] = {}
    for role, shape in handler.inputs.items():
        mine = [file for file in files.files if file.role == role]
        if isinstance(shape, One) and mine:
            shaped[role] = str(mine[0].path)
        elif isinstance(shape, Many) and mine:
            shaped[role] = [str(file.path) for file in sorted(mine, key=lambda file: int(file.name))]
        elif isinstance(shape, Named):
            shaped[role] = {file.name: str(file.path) for file in mine}
    return shaped


def _identity(spec: CheckpointSpec) -> dict[str, Any]:
    """What of a checkpoint results follow from: its weights, and how the catalogue and the settings have it used."""
    return spec.model_dump(mode="json", exclude={"name", "path"}, exclude_defaults=True)


def _is_picture(probe: Mapping[str, Any] | None) -> bool:
    return probe is not None and str(probe.get("mime", "")).startswith("image/")


def _seed(id_: uuid.UUID, params: Mapping[str, Any]) -> int:
    seed = params.get("seed")
    return seed if isinstance(seed, int) else int.from_bytes(hashlib.sha256(id_.bytes).digest()[:4], "big")


class _Stage:
    """Times a stage. Not a generator: these take three times as long, and a job has several."""

    __slots__ = ("_attempt", "_metrics", "_name", "_started")

    def __init__(self, attempt: Attempt, name: str, metrics: Metrics) -> None:
        self._attempt, self._name, self._metrics = attempt, name, metrics

    def __enter__(self) -> None:
        self._attempt.stage = self._name
        self._started = time.monotonic()

    def __exit__(self, *raised: object) -> None:
        seconds = time.monotonic() - self._started
        self._attempt.timings[self._name] = round(seconds, 6)
        self._metrics.observe("stage_seconds", seconds, stage=self._name, type=self._attempt.job.type)
