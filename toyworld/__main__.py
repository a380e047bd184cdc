"""Trains the toy checkpoints: `make toyworld`, `make toyworld MODEL=clip`, or

    python -m toyworld [--model NAME]... [--again] [--at-once 2]

Each is a process of its own with one thread. What was interrupted goes on where it was; what is finished is trained
anew only with `--again`. In the end the folders of `toyworld/checkpoints` are sealed: their locks are written.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from toyworld.shelf import CHECKPOINTS, seal

WORK = Path(".toyworld")

_ENVIRONMENT = {
    # Matrices this small are multiplied fastest by one thread; another training has the other core.
    "OMP_NUM_THREADS": "1",
    # What a step frees the next one needs again: glibc would give it back to the kernel, and get it anew page by page.
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
}

#: Model -> what must be there before. In the order in which they are begun.
MODELS: Mapping[str, Sequence[str]] = {
    "clip": (),
    "judge": (),
    "whisper": (),
    "stable_diffusion": ("clip", "judge"),
    "blip_caption": (),
    "blip_vqa": ("blip_caption",),
}


def train(wanted: Sequence[str], *, at_once: int, work: Path = WORK) -> None:
    """Trains these, so many at a time; raises SystemExit with the first that fails."""
    waiting = [model for model in MODELS if model in wanted]
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            for model in [model for model, process in running.items() if process.poll() is not None]:
                if code := running.pop(model).returncode:
                    raise SystemExit(f"toyworld: {model} ended with {code}")
            undone = {*waiting, *running}
            for model in [model for model in waiting if not undone & set(MODELS[model])]:
                if len(running) < at_once:
                    waiting.remove(model)
                    running[model] = _start(model, work)
            time.sleep(0.2)
    finally:
        for process in running.values():
            process.terminate()
            process.wait()


def _start(model: str, work: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"toyworld.train.{model}", "--work", str(work), "--out", str(CHECKPOINTS)]
    return subprocess.Popen(command, env=os.environ | _ENVIRONMENT)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="toyworld", description="Trains the toy checkpoints.")
    parser.add_argument("--model", choices=list(MODELS), action="append", help="this one alone; may be repeated")
    parser.add_argument("--again", action="store_true", help="from the beginning: forgets what was trained before")
    parser.add_argument("--at-once", type=int, default=2, help="how many at a time, a core for each")
    given = parser.parse_args()
    wanted = given.model or list(MODELS)
    if given.again:
        for model in wanted:
            shutil.rmtree(WORK / model, ignore_errors=True)
    # Told to end, it ends its trainings too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    started = time.monotonic()
    train(wanted, at_once=given.at_once)
    for folder in seal():
        sys.stdout.write(f"{folder}\n")
    sys.stdout.write(f"{len(wanted)} trained in {(time.monotonic() - started) / 60:.0f} minutes\n")


if __name__ == "__main__":
    main()
