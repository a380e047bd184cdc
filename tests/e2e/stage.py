"""A whole deployment on real servers, used as a person uses it: through the command line, with workers as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from storage.pooled import PooledDatabase
from tests.fixtures import JobTable
from tests.servers.leashed import free_port, wait_until

COMMAND = [sys.executable, "-m", "console"]


class Worker:
    """One `mediamill worker` process, or another program that is one."""

    def __init__(self, environ: Mapping[str, str], log: Path, command: Sequence[str] = (*COMMAND, "worker")) -> None:
        self.port = free_port()
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command,
                env={**environ, "MEDIAMILL_HTTP_BIND": f"127.0.0.1:{self.port}"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of one of the worker's pages; 0 while nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def wait_until_ready(self, seconds: float = 60) -> Worker:
        """Returns when `/readyz` is green. Fails with the end of the log when the process ends before."""

        def ready() -> bool:
            if not self.alive:
                raise AssertionError(f"the worker ended with {self._process.returncode}:\n{self.said()}")
            return self.get("/readyz")[0] == 200

        wait_until(ready, seconds, f"the worker to be ready; it said:\n{self.said()}")
        return self

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4000:]

    def executors(self) -> list[int]:
        """Process ids of everything that the worker started, directly or not."""
        return _descendants(self.pid)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal; does nothing to a dead one."""
        if self.alive:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        self.signal(signal.SIGKILL)
        self._process.wait()

    def drain(self, seconds: float = 60) -> int:
        """SIGTERM, and waits for the end; its exit code."""
        self.signal(signal.SIGTERM)
        return self._process.wait(seconds)

    def wait(self, seconds: float) -> int:
        """Its exit code."""
        return self._process.wait(seconds)


class Stage:
    """Settings, a database and an object store; makes workers and runs commands."""

    def __init__(self, folder: Path, environ: Mapping[str, str], database_url: str) -> None:
        self.folder = folder
        self.environ = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ},
            "OMP_NUM_THREADS": "1",
            "MEDIAMILL_HOME": str(folder / "home"),
            "MEDIAMILL_DATABASE_URL": database_url,
            "MEDIAMILL_CATALOGUE": "tiny",
            "MEDIAMILL_TEST_TYPES": "true",
            "MEDIAMILL_PRELOAD": "[]",
            "MEDIAMILL_CPU_THREADS": "1",
            "MEDIAMILL_LOG_FORMAT": "json",
            "MEDIAMILL_HTTP_BIND": "off",
            **environ,
        }
        self.database = PooledDatabase(database_url)
        self.table = JobTable(self.database)
        self.workers: list[Worker] = []

    def worker(self, *roles: str, **settings: str) -> Worker:
        """Starts a worker, of all roles or of these; `settings` are variables without their prefix (`lease="2s"`)."""
        environ = self.environ | {f"MEDIAMILL_{name.upper()}": value for name, value in settings.items()}
        command = [*COMMAND, "worker", *(f"--role={role}" for role in roles)]
        worker = Worker(environ, self.folder / f"worker-{len(self.workers)}.log", command)
        self.workers.append(worker)
        return worker

    def run(self, *arguments: str | Path, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `mediamill ...`; fails with what it said unless it exits with 0 (`check=False`: any code)."""
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            env=self.environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def json(self, *arguments: str | Path, stdin: str = "") -> Any:
        """What a command prints with `--json`."""
        return json.loads(self.run(*arguments, "--json", stdin=stdin).stdout)

    def wait_until_finished(self, seconds: float = 120) -> dict[str, int]:
        """Returns the jobs by state when none is waiting, queued or running any more."""
        end = time.monotonic() + seconds
        while True:
            rows = self.table.rows("SELECT state, count(*)::int AS n FROM jobs GROUP BY state")
            states = {row["state"]: row["n"] for row in rows}
            if states and not states.keys() & {"waiting", "queued", "running"}:
                return states
            if time.monotonic() > end:
                said = "\n".join(f"--- {worker.log.name}\n{worker.said()}" for worker in self.workers)
                raise AssertionError(f"not finished after {seconds} s: {states}\n{said}")
            time.sleep(0.05)

    def close(self) -> None:
        """Kills what is left."""
        for worker in self.workers:
            worker.signal(signal.SIGCONT)
            worker.kill()
        self.database.close()


@contextmanager
def stage(folder: Path, environ: Mapping[str, str], database_url: str) -> Iterator[Stage]:
    """A stage that leaves nothing behind."""
    made = Stage(folder, environ, database_url)
    try:
        yield made
    finally:
        made.close()


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(status.parent.name))
    found, ahead = [], [pid]
    while ahead:
        ahead += (mine := children.get(ahead.pop(), []))
        found += mine
    return found
