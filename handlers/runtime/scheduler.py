"""Whose samples are on the device next: the simplest real form.

One thread runs the device. Whenever it is free it takes the key whose oldest sample has waited longest, and with it all
ready samples of that key, up to `max_batch`; there is no wait for more to come.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import anyio

from handlers.declaration import InferFunction
from handlers.errors import JobError, ResourceExhausted, Retry
from handlers.models import CheckpointBroken
from handlers.runtime.batch import compute
from handlers.runtime.device import Device, DeviceBroken
from handlers.runtime.hub import Hub

#: Samples may share a batch when function, checkpoint and key are equal.
BatchKey = tuple[InferFunction, str, Hashable]


@dataclass(slots=True, eq=False)
class Usage:
    """What one job has of the device now, and has had, in seconds (see `protocol.Timings`)."""

    job: str
    queued: int = 0
    on_device: int = 0
    wait: float = 0.0
    infer: float = 0.0


@dataclass(slots=True, eq=False)
class _Request:
    """The samples of one call of `infer`."""

    usage: Usage
    results: list[Any]
    left: int
    since: float
    waited: float = 0.0
    #: Whoever asked has gone, and left samples on the device.
    left_behind: bool = False
    done: anyio.Event = field(default_factory=anyio.Event)

    def finish(self, samples: int) -> None:
        self.left -= samples
        if self.left == 0:
            self.done.set()


@dataclass(slots=True, eq=False)
class _Sample:
    request: _Request
    index: int
    value: Any


@dataclass(slots=True)
class _Batch:
    key: BatchKey
    samples: list[_Sample]


class Scheduler:
    """Gathers samples of all jobs into batches; `run` must be running."""

    def __init__(
        self, hub: Hub, device: Device, *, max_batch: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._hub = hub
        self._device = device
        self._max_batch = max_batch
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")
        # Insertion order is age, and a sample that is withdrawn leaves at once.
        self._waiting: dict[BatchKey, dict[_Sample, None]] = {}
        self._wake = anyio.Event()
        self._current: _Batch | None = None
        self._current_since = 0.0

    @property
    def on_device(self) -> tuple[str, ...]:
        """Keys of the jobs with a sample in the batch that is running."""
        if self._current is None:
            return ()
        return tuple(dict.fromkeys(sample.request.usage.job for sample in self._current.samples))

    @property
    def busy_s(self) -> float:
        """For how long that batch has been running, loading its checkpoint included."""
        return 0.0 if self._current is None else self._clock() - self._current_since

    async def infer(
        self, usage: Usage, function: InferFunction, checkpoint: str, samples: Sequence[Any], key: Hashable
    ) -> list[Any]:
        """See `Context.infer`. Cancelled, it withdraws what is queued, and awaits what is on the device for it alone.

        A batch that other jobs wait for as well goes on without it: else the courier, which gives a cancelled job a
        few seconds to end, would end the whole executor for a long batch, and all of its neighbours with it.
        """
        if not samples:
            return []
        self._hub.spec(checkpoint)
        batch_key = (function, checkpoint, key)
        request = _Request(usage, [None] * len(samples), len(samples), self._clock())
        queue = self._waiting.setdefault(batch_key, {})
        queue.update(dict.fromkeys(_Sample(request, index, value) for index, value in enumerate(samples)))
        usage.queued += len(samples)
        self._wake.set()
        try:
            await request.done.wait()
        except anyio.get_cancelled_exc_class():
            self._withdraw(request, batch_key)
            if self._is_wanted_by_others(usage):
                request.left_behind = True
            else:
                with anyio.CancelScope(shield=True):
                    await request.done.wait()
            raise
        finally:
            usage.wait += request.waited / len(samples)
        for result in request.results:
            if isinstance(result, BaseException):
                raise result
        return request.results

    async def run_on_device(self, function: Callable[[], Any]) -> Any:
        """Runs something else in the device's thread: loading a checkpoint ahead."""
        with anyio.CancelScope(shield=True):
            return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def run(self) -> None:
        """Runs batches until cancelled. Raises DeviceBroken."""
        while True:
            while (batch := self._take()) is not None:
                await self._run(batch)
                del batch
            await self._wake.wait()
            self._wake = anyio.Event()

    def close(self) -> None:
        """Ends the device's thread after the batch at hand."""
        self._thread.shutdown(wait=False)

    def _take(self) -> _Batch | None:
        if not self._waiting:
            return None
        key, queue = min(self._waiting.items(), key=lambda item: next(iter(item[1])).request.since)
        samples = [sample for sample, _ in zip(queue, range(self._max_batch), strict=False)]
        for sample in samples:
            self._remove(key, sample)
            sample.request.usage.on_device += 1
        return _Batch(key, samples)

    async def _run(self, batch: _Batch) -> None:
        self._current, self._current_since = batch, self._clock()
        try:
            started, ended, results = await self.run_on_device(lambda: self._compute(batch))
        except DeviceBroken as error:
            # The process ends now; nobody may be left waiting for these samples while it does.
            for sample in batch.samples:
                sample.request.results[sample.index] = error
                sample.request.finish(1)
            raise
        self._current = None
        share = (ended - started) / len(batch.samples)
        for sample, result in zip(batch.samples, results, strict=True):
            request, usage = sample.request, sample.request.usage
            request.results[sample.index] = result
            request.waited += started - request.since
            usage.infer += share
            usage.on_device -= 1
            request.finish(1)

    def _compute(self, batch: _Batch) -> tuple[float, float, list[Any]]:
        """In the device's thread: when the batch began and ended, and its results."""
        function, checkpoint, _ = batch.key
        samples = [sample.value for sample in batch.samples]
        with ExitStack() as leases:
            try:
                model = leases.enter_context(self._hub.lease(checkpoint))
            except Exception as error:  # noqa: BLE001 - whatever a loader raises is the answer to these samples
                now = self._clock()
                return now, now, [self._not_loaded(checkpoint, error) for _ in samples]
            started = self._clock()
            results = compute(function, model, samples, self._device)
            return started, self._clock(), results

    def _not_loaded(self, checkpoint: str, error: Exception) -> JobError:
        if self._device.is_full(error):
            return ResourceExhausted(f"checkpoint {checkpoint!r} does not fit into the device's memory: {error}")
        # Not the job's fault, and it may be mended before the next attempt.
        return Retry(str(error) if isinstance(error, CheckpointBroken) else f"checkpoint {checkpoint!r}: {error!r}")

    def _is_wanted_by_others(self, usage: Usage) -> bool:
        """Whether another job waits for the batch on the device."""
        running = [] if self._current is None else self._current.samples
        return any(sample.request.usage is not usage and not sample.request.left_behind for sample in running)

    def _withdraw(self, request: _Request, key: BatchKey) -> None:
        mine = [sample for sample in self._waiting.get(key, ()) if sample.request is request]
        for sample in mine:
            self._remove(key, sample)
        request.finish(len(mine))

    def _remove(self, key: BatchKey, sample: _Sample) -> None:
        queue = self._waiting[key]
        del queue[sample]
        sample.request.usage.queued -= 1
        if not queue:
            del self._waiting[key]
