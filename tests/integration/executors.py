"""Real executors for tests: how they are started, and what is seen of them from outside."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio

from handlers.protocol import Hello, Limits, Order
from worker.executor import ExecutorSettings, Timeouts
from worker.sandbox import Command, Rlimits, Sandbox, SandboxMode, View, probe

PYTHON = Path(sys.prefix).parent / ".venv-executor" / "bin" / "python"
_HANDLERS = Path(__file__).parent / "executor_handlers.py"
_ENTRY_POINTS = """[mediamill.handlers]
code = executor_handlers:RunCode
act = executor_handlers:Act
"""


def without_bubblewrap(program: str) -> str | None:
    return None if program == "bwrap" else program


def sandboxes() -> list[Sandbox]:
    """One for each level that this host has; `none` always is."""
    found = [probe(SandboxMode.AUTO), probe(SandboxMode.AUTO, which=without_bubblewrap), probe(SandboxMode.OFF)]
    return list({sandbox.report.level: sandbox for sandbox in reversed(found)}.values())


def view(folder: Path, **given: Any) -> View:
    """A machine in a folder: `scratch`, `models`, and what is `private` to the courier."""
    info = folder / "executor_handlers-1.0.dist-info"
    for each in (folder / "scratch", folder / "models", folder / "private", info):
        each.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: executor-handlers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(_ENTRY_POINTS)
    plain: dict[str, Any] = {
        "python": PYTHON,
        "scratch": folder / "scratch",
        "private": folder / "private",
        "read_only": (folder / "models",),
        "packages": {_HANDLERS.name: _HANDLERS, info.name: info},
    }
    return View(**(plain | given))


def hello() -> Hello:
    limits = Limits(max_bytes=1 << 20, max_pixels=1 << 20, max_frames=10)
    return Hello(device="cpu", cpu_threads=4, max_batch=8, checkpoints=(), roles={}, limits=limits, test_types=True)


def settings(
    folder: Path,
    sandbox: Sandbox,
    *,
    timeouts: Timeouts | None = None,
    environ: Mapping[str, str] = os.environ,
    rlimits: Rlimits | None = None,
) -> ExecutorSettings:
    """An executor in that folder."""
    command: Command = sandbox.command(view(folder), rlimits=rlimits or Rlimits(), environ=environ)
    return ExecutorSettings("test", command, hello(), capacity=10, timeouts=timeouts or Timeouts(tick_s=0.02))


def order(folder: Path, type_: str = "test.noop", **params: Any) -> Order:
    """An attempt with a scratch folder of its own."""
    key = f"{uuid.uuid4()}:1"
    scratch = folder / "scratch" / key.replace(":", "-")
    scratch.mkdir()
    return Order(key=key, type=type_, params=params, inputs={}, scratch=str(scratch), seed=1)


def processes(*argv: str) -> list[int]:
    """Living processes that have these arguments one after the other."""
    words = "\0".join(argv)
    return [pid for pid, (_, line) in _living().items() if words in line]


def descendants(pid: int) -> list[int]:
    """Living processes that it started, and they, and so on."""
    living = _living()
    found = [pid]
    for each in found:
        found += [child for child, (parent, _) in living.items() if parent == each]
    return found[1:]


def is_living(pid: int) -> bool:
    """Whether there is such a process, and it is more than an exit status."""
    return pid in _living()


def _living() -> dict[int, tuple[int, str]]:
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            line = (folder / "cmdline").read_text(errors="replace")
        except OSError:
            continue
        if state != "Z":
            found[int(folder.name)] = (int(parent), line)
    return found


async def until(condition: Callable[[], object], *, seconds: float = 10) -> None:
    """Waits for something that only looking at the machine can tell."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await anyio.sleep(0.01)
