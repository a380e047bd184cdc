"""A worker without its executor: the real way of a job through Postgres and store, with scripted answers."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import anyio

from config.settings import Settings
from handlers.declaration import Handler, Job, Many, Media, Params, Result
from handlers.protocol import CheckpointSpec, Order, Outcome
from handlers.registry import AnyHandler, Registry
from storage.database import Database
from storage.objects.base import ObjectStore
from storage.objects.cache import ContentCache
from storage.objects.reader import ObjectReader
from storage.settle import Rules
from tests.fixtures import JobTable
from worker.attempts import Attempts
from worker.backoff import Backoff
from worker.clock import RealClock
from worker.embedding import embed_job
from worker.executor import Executor
from worker.fetch import Fetcher, Pinner
from worker.group import Group
from worker.media_limits import MediaLimits
from worker.metrics import Metrics
from worker.outage import Patience
from worker.outcome import EmbedSpace
from worker.record import Recorder
from worker.run import Limits as TimeLimits
from worker.run import Runner
from worker.store import Outputs

TYPE = "image.look"
CLIP = CheckpointSpec(name="clip", family="clip", path="/", dtype="float32", digest="1")
Behaviour = Callable[[Order], Outcome]


class LookResult(Result):
    """Nothing."""


class Look(Handler[Params, LookResult]):
    """Reads pictures."""

    type = TYPE
    version = 1
    inputs = {"images": Many(Media.IMAGE)}  # noqa: RUF012

    def checkpoints(self, params: Params) -> frozenset[str]:
        return frozenset()

    async def run(self, job: Job[Params], ctx: object) -> LookResult:
        raise AssertionError("its answers are scripted")


def success(order: Order, **more: Any) -> Outcome:
    return Outcome(key=order.key, result={}, **more)


class ScriptedExecutor:
    """Answers orders as it is told to, and keeps them."""

    def __init__(self) -> None:
        self.behave: Behaviour = success
        self.orders: list[Order] = []

    async def run(self, order: Order, *, time_limit_s: float, progress: object) -> Outcome:
        self.orders.append(order)
        return self.behave(order)

    async def ready(self) -> None:
        """It always is."""


class OneWorker:
    """Claims jobs and takes them all the way to their recorded end; `run` returns when all have ended."""

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        folder: Path,
        cache: ContentCache,
        *,
        space: EmbedSpace | None = None,
        output: str = "s3://media/derived/",
        handlers: Sequence[type[AnyHandler]] = (),
        media_limits: MediaLimits | None = None,
        max_bytes: int = 1 << 20,
    ) -> None:
        self.database = database
        self.table = JobTable(database)
        self.metrics = Metrics()
        self.executor = ScriptedExecutor()
        self.reader = ObjectReader(store, cache)
        self.worker = self.table.worker()
        self.space = space
        self._store = store
        self._scratch = folder
        self._output = output
        self._max_bytes = max_bytes
        self._registry = Registry([Look, *handlers])
        settings = Settings.load(environ={}, files=[]).settings
        self._media_limits = media_limits or MediaLimits.of(settings)
        self.attempts = Attempts(RealClock())

    async def run(self, type_: str = TYPE) -> Counter[str]:
        """Runs all that can be claimed now; how many jobs are in which state then."""
        claimed = self.table.claim(self.worker, 1000, type_=type_, has=[f"space:{self.space.id}"] if self.space else [])
        database_limiter = anyio.CapacityLimiter(4)
        patience = Patience(lambda: False, self.metrics)
        recorder = Recorder(
            self.database, self.worker, rules=Rules(), metrics=self.metrics, embed_job=embed_job, patience=patience
        )
        record = Group(recorder.write, limiter=database_limiter)
        pinner = Pinner(self.database, self.space.id if self.space else None, patience)
        pin = Group(pinner.write, limiter=database_limiter)
        fetch_limiter = anyio.CapacityLimiter(32)
        runner = Runner(
            registry=self._registry,
            database=self.database,
            database_limiter=database_limiter,
            patience=patience,
            fetcher=Fetcher(self.reader, pin, max_bytes=self._max_bytes, limiter=fetch_limiter, metrics=self.metrics),
            executor=cast(Executor, self.executor),
            outputs=Outputs(
                self._store,
                default_prefix=self._output,
                max_bytes=self._max_bytes,
                limiter=fetch_limiter,
                metrics=self.metrics,
            ),
            record=record,
            space=self.space,
            checkpoints={CLIP.name: CLIP},
            roles={"embed": CLIP.name},
            limits=TimeLimits(60, {}),
            media_limits=self._media_limits,
            backoff=Backoff(1e-6, 1e-6, random.Random(1)),
            scratch=self._scratch,
            metrics=self.metrics,
            alone=self.attempts.alone,
            finished=self.attempts.remove,
        )
        async with anyio.create_task_group() as group:
            group.start_soon(record.keep)
            group.start_soon(pin.keep)
            async with anyio.create_task_group() as attempts:
                for job in claimed:
                    attempts.start_soon(runner.run, self.attempts.add(job))
            group.cancel_scope.cancel()
        rows = self.table.rows("SELECT state FROM jobs WHERE id = ANY(:ids)", ids=[job.fence.id for job in claimed])
        return Counter(row["state"] for row in rows)

    def measured(self, name: str) -> float:
        """The sum over a counter's series."""
        series = re.findall(rf"^mediamill_{name}(?:{{.*}})? (\S+)$", self.metrics.text().decode(), re.MULTILINE)
        return sum(map(float, series))


@contextmanager
def one_worker(database: Database, store: ObjectStore, folder: Path, **more: Any) -> Iterator[OneWorker]:
    """A worker with a cache of its own."""
    with ContentCache(folder / "cache", 1 << 30) as cache:
        scratch = folder / "scratch"
        scratch.mkdir(exist_ok=True)
        yield OneWorker(database, store, scratch, cache, **more)
