"""Runs one batch so that a bad sample fails alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handlers.declaration import InferFunction
from handlers.errors import HandlerBug, ResourceExhausted
from handlers.runtime.device import Device, DeviceBroken


def compute(function: InferFunction, model: Any, samples: Sequence[Any], device: Device) -> list[Any]:
    """One result for each of `samples`, in their order; an exception stands for a sample that failed.

    An exception of the whole batch halves it, and so on: the guilty sample fails alone, and a neighbour is computed at
    most log2(n) + 1 times. A full memory is freed and the batch halved likewise; a single sample that does not fit is
    ResourceExhausted. Raises DeviceBroken.
    """
    results = _call(function, model, samples)
    if not isinstance(results, BaseException):
        return results
    if device.is_broken(results):
        raise DeviceBroken(str(results)) from results
    if device.is_full(results):
        # Its traceback holds the frames, and these the tensors that are in the way.
        results = ResourceExhausted(f"one sample alone does not fit into the device's memory: {results}")
        device.free()
    if len(samples) == 1:
        return [results]
    del results
    half = len(samples) // 2
    return [
        *compute(function, model, samples[:half], device),
        *compute(function, model, samples[half:], device),
    ]


def _call(function: InferFunction, model: Any, samples: Sequence[Any]) -> list[Any] | BaseException:
    try:
        results = list(function(model, samples))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it becomes the result of the guilty sample
        return error
    if len(results) != len(samples):
        name = getattr(function, "__qualname__", repr(function))
        return HandlerBug(f"{name} returned {len(results)} results for {len(samples)} samples: give one for each")
    return results
