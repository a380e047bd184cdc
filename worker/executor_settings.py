"""The executor's settings, from the worker's parts."""

from __future__ import annotations

from pathlib import Path

from handlers.protocol import Hello, Limits
from worker.executor import ExecutorSettings, Timeouts
from worker.parts import Parts
from worker.sandbox import Rlimits, View

#: Jobs that an executor should have at a time, whatever they are.
CAPACITY = 512


def executor_settings(parts: Parts, scratch: Path) -> ExecutorSettings:
    """One executor on the device of the settings, confined to `scratch`."""
    settings = parts.settings
    device = settings.device
    hello = Hello(
        device=device,
        cpu_threads=settings.cpu_threads,
        max_batch=settings.max_batch,
        checkpoints=tuple(parts.checkpoints.values()),
        roles=dict(parts.roles),
        preload=tuple(dict.fromkeys(parts.roles.values())) if settings.preload else (),
        limits=Limits(
            max_bytes=settings.image_bytes, max_pixels=settings.image_pixels, max_frames=settings.image_frames
        ),
        test_types=settings.test_types,
    )
    view = View(
        python=settings.executor_python,
        scratch=scratch,
        private=settings.home / "executor",
        # A checkpoint may lie outside of the models folder, where the catalogue says so.
        read_only=(settings.cache, *(Path(spec.path) for spec in parts.checkpoints.values())),
        gpu=device != "cpu",
    )
    command = parts.sandbox.command(view, rlimits=Rlimits(data_bytes=settings.executor_memory), environ=parts.environ)
    return ExecutorSettings(
        name=device,
        command=command,
        hello=hello,
        capacity=CAPACITY,
        timeouts=Timeouts(start_s=settings.executor_start_s, cancel_grace_s=10),
    )
