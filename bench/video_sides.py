"""Who is measured by `bench.video`: the worker's executor, ffmpeg by itself, and moviepy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.processes import cpu_s, tree
from bench.video_edit import EXECUTOR_PYTHON, Edit, Material
from handlers.protocol import Hello, Limits, Order, Outcome, Outcomes, Ready, Run, Stop, from_executor
from handlers.video.text import fonts

_ROOT = Path(__file__).resolve().parents[1]
#: Of an environment with moviepy in it, which is no dependency of ours.
PEER_PYTHON = _ROOT / ".venv-bench" / "bin" / "python"

_LIMITS = Limits(max_bytes=8 << 30, max_pixels=50_000_000, max_frames=1000)
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Spent:
    """What one film took."""

    wall_s: float
    cpu_s: float
    """User and system time of all processes."""


class Failed(Exception):
    """A contestant made no film."""


class Side(ABC):
    """A contestant."""

    name: str
    version: str

    @abstractmethod
    def make(self, edit: Edit, material: Material, out: Path) -> Spent:
        """Makes the film. Raises Failed."""

    def pids(self) -> list[int]:
        """Its processes that stay between two films."""
        return []


class Ours(Side):
    """An executor with the worker's defaults, which is given jobs of `video.edit` by the worker's protocol.

    It stays: its start is in no film's time, and in the CPU time of none. It has no sandbox.
    """

    name = "mediamill"

    def __init__(self, folder: Path) -> None:
        self.version = version("mediamill")
        self._folder = folder
        self._jobs = 0
        environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        with (folder / "executor.log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(EXECUTOR_PYTHON), "-m", "handlers.runtime"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=_ROOT,
                env=environ,
            )
        cores = len(os.sched_getaffinity(0))
        hello = Hello(
            device="cpu",
            cpu_threads=cores,
            programs=max(1, cores // 2),
            max_batch=1,
            checkpoints=(),
            roles={},
            fonts={name: str(path) for name, path in fonts.found().items()},
            limits=_LIMITS,
        )
        self._say(hello)
        while not isinstance(self._answer(), Ready):
            pass

    def pids(self) -> list[int]:
        return tree(self._process.pid)

    def make(self, edit: Edit, material: Material, out: Path) -> Spent:
        return self.run(edit.params(), edit.assets(material), out)

    def run(self, params: dict[str, Any], assets: Mapping[str, str], out: Path) -> Spent:
        """Any job of `video.edit`. Raises Failed."""
        self._jobs += 1
        scratch = self._folder / f"job{self._jobs}"
        order = Order(
            key=f"{uuid.uuid4()}:1",
            type="video.edit",
            params=params,
            inputs={"assets": dict(assets)},
            scratch=str(scratch),
            seed=0,
        )
        before, began = cpu_s(self.pids()), time.perf_counter()
        self._say(Run(jobs=(order,)))
        outcome = self._outcome()
        spent = Spent(time.perf_counter() - began, cpu_s(self.pids()) - before)
        if outcome.failure is not None:
            raise Failed(f"{outcome.failure.type}: {outcome.failure.message}\n{outcome.failure.traceback}")
        shutil.move(outcome.files[0].path, out)
        shutil.rmtree(scratch)
        return spent

    def close(self) -> None:
        """Ends the executor."""
        self._say(Stop())
        self._process.communicate(timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.close()
            return
        self._process.kill()
        self._process.communicate()

    def _say(self, line: Hello | Run | Stop) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.model_dump_json().encode() + b"\n")
        self._process.stdin.flush()

    def _answer(self) -> object:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise Failed(f"the executor ended: {(self._folder / 'executor.log').read_text()[-2000:]}")
        return from_executor.validate_json(line)

    def _outcome(self) -> Outcome:
        while True:
            if isinstance(answer := self._answer(), Outcomes):
                [outcome] = answer.items
                return outcome


class Raw(Side):
    """One run of ffmpeg, with a filter graph written by hand: nothing is looked at before or after."""

    name = "ffmpeg"

    def __init__(self) -> None:
        said = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True).stdout
        self.version = said.split()[2]

    def make(self, edit: Edit, material: Material, out: Path) -> Spent:
        began = time.perf_counter()
        process = subprocess.Popen(["ffmpeg", *edit.raw(material, out)])
        _, status, used = os.wait4(process.pid, 0)
        spent = Spent(time.perf_counter() - began, used.ru_utime + used.ru_stime)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise Failed(f"ffmpeg ended with {process.returncode}")
        return spent


class Moviepy(Side):
    """A process of its own for each film, which measures itself once all is imported; the same ffmpeg encodes."""

    name = "moviepy"

    def __init__(self, python: Path) -> None:
        self._python = python
        asked = [str(python), "-c", "from importlib.metadata import version; print(version('moviepy'))"]
        self.version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    def make(self, edit: Edit, material: Material, out: Path) -> Spent:
        ffmpeg = shutil.which("ffmpeg") or "ffmpeg"
        done = subprocess.run(
            [str(self._python), str(Path(__file__).with_name("video_moviepy.py"))],
            input=json.dumps(edit.moviepy(material, out)),
            env={**os.environ, "FFMPEG_BINARY": ffmpeg, "IMAGEIO_FFMPEG_EXE": ffmpeg},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Failed(done.stderr[-2000:])
        return Spent(**json.loads(done.stdout.splitlines()[-1]))


class Peak:
    """The most memory (resident, bytes) that this process's descendants had at once, but for those in `apart`.

    Looked at every 50 ms, which takes some CPU time: not in a round that is timed. Memory that processes share counts
    for each of them.
    """

    def __init__(self, apart: frozenset[int] = frozenset()) -> None:
        self.bytes = 0
        self._apart = apart | {os.getpid()}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.05):
            self.bytes = max(self.bytes, sum(resident(pid) for pid in tree(os.getpid()) if pid not in self._apart))


def resident(pid: int) -> int:
    """Bytes of a process in memory; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0
