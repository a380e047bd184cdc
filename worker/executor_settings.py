"""The executor's settings, from the worker's parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from handlers.protocol import Hello
from handlers.video.text.fonts import found
from worker.executor import ExecutorSettings, Timeouts
from worker.media_limits import MediaLimits
from worker.parts import Parts
from worker.sandbox import Rlimits, View

#: Jobs that an executor should have at a time, whatever they are.
CAPACITY = 512
#: An encoder alone makes up to 128, where there are so many cores.
_THREADS_OF_A_PROGRAM = 512


def executor_settings(parts: Parts, scratch: Path) -> ExecutorSettings:
    """One executor on the device of the settings, confined to `scratch`."""
    settings = parts.settings
    device = settings.device
    hello = Hello(
        device=device,
        cpu_threads=settings.cpu_threads,
        programs=settings.programs,
        max_batch=settings.max_batch,
        checkpoints=tuple(parts.checkpoints.values()),
        roles=dict(parts.roles),
        preload=tuple(dict.fromkeys(name for role, name in parts.roles.items() if role in settings.preload)),
        fonts={name: str(path) for name, path in (found() | settings.fonts).items()},
        limits=MediaLimits.of(settings).general,
        test_types=settings.test_types,
    )
    view = View(
        python=settings.executor_python,
        scratch=scratch,
        private=settings.home / "executor",
        # A checkpoint may lie outside of the models folder, where the catalogue says so.
        read_only=(
            settings.cache,
            *(Path(spec.path) for spec in parts.checkpoints.values()),
            # The files alone: what lies beside a font may be anything.
            *settings.fonts.values(),
        ),
        gpu=device != "cpu",
    )
    rlimits = Rlimits(data_bytes=settings.executor_memory)
    rlimits = replace(rlimits, processes=rlimits.processes + _THREADS_OF_A_PROGRAM * settings.programs)
    command = parts.sandbox.command(view, rlimits=rlimits, environ=parts.environ)
    return ExecutorSettings(
        name=device,
        command=command,
        hello=hello,
        capacity=CAPACITY,
        timeouts=Timeouts(start_s=settings.executor_start_s, cancel_grace_s=10),
    )
