"""What it takes to start a worker: `python -m bench.start`.

`mediamill worker` with the embedded Postgres, its schema in place, no checkpoints to load (`MEDIAMILL_PRELOAD=[]`), and
otherwise its defaults, sandbox included. Time runs from the start of the process until `/readyz` is green, asked every
5 ms: by then the worker has its database, and its executor (a process of its own) has said that it is ready. Either
Postgres runs already, as it does for a minute after any command, or the worker starts it. Memory is what the kernel
counts as resident (VmRSS), shared libraries included, once it is ready; the worker's process is the *courier*. Beside
it a bare interpreter, and one that imports what the worker's command does. All in turn, in each round; the first round,
in which bytecode is written and files come into the page cache, does not count.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.contestants import EMPTY_CATALOGUE
from bench.overhead import machine
from bench.page import markdown, measured_on
from bench.processes import tree
from storage.embedded import EmbeddedPostgres
from tests.servers.leashed import alive, free_port, wait_until

_ROOT = Path(__file__).resolve().parents[1]
_COMMAND = (sys.executable, "-m", "console")
#: What the worker's command imports before it does anything.
IMPORTS = "import console.cli, console.commands.worker"
POLL_S, READY_WITHIN_S = 0.005, 60.0
#: What it should not exceed.
MOST_S, MOST_MB = 1.0, 150.0


@dataclass(frozen=True, slots=True)
class Started:
    """One start of a worker."""

    ready_s: float
    courier_mb: float
    """The worker's own process."""
    executor_mb: float
    """All that it has started: the sandbox and the executor in it; and Postgres, where it did start that."""


@dataclass(slots=True)
class Measured:
    """What was seen in all rounds, seconds."""

    bare_s: list[float] = field(default_factory=list)
    imported_s: list[float] = field(default_factory=list)
    warm: list[Started] = field(default_factory=list)
    """Postgres runs already."""
    cold: list[Started] = field(default_factory=list)
    """The worker starts Postgres."""

    def figures(self) -> dict[str, dict[str, float]]:
        """By what is measured: the median, the least and the most; of times in seconds, of memory in MB."""
        imports = [imported - bare for imported, bare in zip(self.imported_s, self.bare_s, strict=True)]
        return {
            "a bare interpreter, s": spread(self.bare_s),
            "imports of the courier, s": spread(imports),
            "until ready, Postgres runs, s": spread([start.ready_s for start in self.warm]),
            "until ready, Postgres is started too, s": spread([start.ready_s for start in self.cold]),
            "memory of the courier, MB": spread([start.courier_mb for start in self.warm]),
            "memory of the executor and its sandbox, MB": spread([start.executor_mb for start in self.warm]),
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Of the rounds."""
    return {"median": round(median(values), 3), "least": round(min(values), 3), "most": round(max(values), 3)}


def table(figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    """In Markdown."""
    limits = {
        "imports of the courier, s": MOST_S,
        "until ready, Postgres runs, s": MOST_S,
        "memory of the courier, MB": MOST_MB,
    }
    rows = []
    for name, found in figures.items():
        digits = 0 if name.endswith("MB") else 2
        limit = f"{limits[name]:.0f}" if name in limits else ""
        rows.append([name, *(f"{found[key]:.{digits}f}" for key in ("median", "least", "most")), limit])
    return markdown(["", "median", "least", "most", "wanted: at most"], rows)


def resident_mb(pid: int) -> float:
    """Of one process; 0 where it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def timed(code: str, environ: Mapping[str, str]) -> float:
    """Seconds that an interpreter takes to run it, from its start to its end. Raises CalledProcessError."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=dict(environ), cwd=_ROOT, check=True)
    return time.perf_counter() - began


class Starts:
    """Starts workers of one home folder."""

    def __init__(self, folder: Path) -> None:
        catalogue = folder / "models.yaml"
        catalogue.write_text(EMPTY_CATALOGUE)
        self._home, self._log = folder / "home", folder / "worker.log"
        self.environ = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            "MEDIAMILL_HOME": str(self._home),
            "MEDIAMILL_CATALOGUE": str(catalogue),
            "MEDIAMILL_PRELOAD": "[]",
            "MEDIAMILL_DEVICE": "cpu",
        }

    @property
    def pgdata(self) -> Path:
        return self._home / "pgdata"

    def migrate(self) -> None:
        """Makes the embedded Postgres and its schema."""
        subprocess.run([*_COMMAND, "migrate"], env=self.environ, cwd=_ROOT, check=True, capture_output=True)

    def one(self) -> Started:
        """A worker from its start until it is ready; it is ended then. Raises RuntimeError where it is not ready."""
        port = free_port()
        environ = self.environ | {"MEDIAMILL_HTTP_BIND": f"127.0.0.1:{port}"}
        with self._log.open("ab") as log:
            began = time.perf_counter()
            process = subprocess.Popen(
                [*_COMMAND, "worker"], env=environ, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            while not _is_ready(port):
                if process.poll() is not None or time.perf_counter() - began > READY_WITHIN_S:
                    raise RuntimeError(self._log.read_text(errors="replace")[-2000:])
                time.sleep(POLL_S)
            took = time.perf_counter() - began
            courier, *others = tree(process.pid)
            return Started(took, resident_mb(courier), sum(map(resident_mb, others)))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)

    def stop_postgres(self) -> None:
        """Its fast shutdown, as its keeper does it when it has been unused for long enough."""
        with suppress(FileNotFoundError):
            pid = int((self.pgdata / "postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGINT)
            wait_until(lambda: not alive(pid), 60, "the end of the embedded Postgres")


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The whole run."""
    facts = machine()
    measured = Measured()
    with tempfile.TemporaryDirectory(prefix="mediamill-bench-") as folder:
        starts = Starts(Path(folder))
        starts.migrate()
        try:
            for n in range(given.rounds + 1):
                into = Measured() if n == 0 else measured
                into.bare_s.append(timed("pass", starts.environ))
                into.imported_s.append(timed(IMPORTS, starts.environ))
                starts.stop_postgres()
                into.cold.append(starts.one())
                with EmbeddedPostgres(starts.pgdata):
                    into.warm.append(starts.one())
                warm, cold = into.warm[-1].ready_s, into.cold[-1].ready_s
                print(
                    f"round {n}: ready after {warm:.2f} s, with the start of Postgres {cold:.2f} s",
                    file=sys.stderr,
                )
        finally:
            starts.stop_postgres()
    facts["load_after"] = round(os.getloadavg()[0], 1)
    figures = measured.figures()
    lines = table(figures)
    print("\n".join(lines))
    return {"machine": facts, "rounds": given.rounds, "measured": figures, "table": lines}


def write(found: Mapping[str, Any], folder: Path) -> None:
    """Keeps the last run, and a page of it."""
    folder.mkdir(exist_ok=True)
    (folder / "start.json").write_text(json.dumps(found, indent=2) + "\n")
    page = ["# The start of a worker", "", *(__doc__ or "").strip().splitlines()[2:], ""]
    page += [
        f"`python -m bench.start --rounds {found['rounds']}`",
        "",
        measured_on(found["machine"]),
        "",
        *found["table"],
    ]
    (folder / "start.md").write_text("\n".join(page) + "\n")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--results", type=Path, help="folder to write to; none: only print")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("at least 1 round")
    found = measure(given)
    if given.results is not None:
        write(found, given.results)


if __name__ == "__main__":
    main()
