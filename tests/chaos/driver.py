"""Plays a plan against three workers and a Postgres of their own, and keeps what is needed to judge it."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import Any

from config.settings import Settings
from handlers.registry import Registry
from intake.message import Rules, parse
from intake.submit import submit_specs
from storage.database import Database, Unreachable
from storage.schema import migrate
from tests.chaos.plan import Blow, Plan, Planned, Wave
from tests.e2e.stage import Stage, Worker, stage
from tests.servers.leashed import alive
from tests.servers.postgres import PostgresServer

WORKERS = 3
LEASE_S, BEAT_S = 3.0, 0.5
TICK_S = 0.02
SAID_EVERY_S = 10.0

ENVIRON = {
    "MEDIAMILL_LEASE": f"{LEASE_S}s",
    "MEDIAMILL_BEAT": f"{BEAT_S}s",
    "MEDIAMILL_POLL_INTERVAL_S": "0.3",
    "MEDIAMILL_BACKOFF_BASE_S": "0.2",
    "MEDIAMILL_DRAIN_GRACE_S": "3",
    # What kills here is the driver: no job may be quarantined for having been in its way.
    "MEDIAMILL_CRASH_LIMIT": "100",
}


@dataclass(frozen=True, slots=True)
class Silence:
    """A worker's life that was killed or stopped with jobs in hand."""

    blow: Blow
    at: datetime
    worker: uuid.UUID
    jobs: frozenset[uuid.UUID]


@dataclass(frozen=True, slots=True)
class Process:
    """One process for good: numbers come back."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this number now."""
        with suppress(OSError):
            return cls(pid, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        return None

    @property
    def alive(self) -> bool:
        """Whether it is still there."""
        return alive(self.pid) and Process.of(self.pid) == self


@dataclass
class Observed:
    """What the driver did and saw."""

    blows: list[tuple[datetime, Blow]] = field(default_factory=list)
    outages: list[tuple[datetime, datetime]] = field(default_factory=list)
    silences: list[Silence] = field(default_factory=list)
    processes: set[Process] = field(default_factory=set)
    exit_codes: list[int] = field(default_factory=list)
    seconds: float = 0


@contextmanager
def deployment(folder: Path, models: Path) -> Iterator[tuple[Stage, PostgresServer]]:
    """A stage on a folder with a Postgres that may be killed; nothing runs yet."""
    with PostgresServer() as server:
        database = Database(server.url)
        migrate(database)
        database.close()
        with stage(folder, {"MEDIAMILL_MODELS": str(models), **ENVIRON}, server.url) as made:
            yield made, server


class Chaos:
    """One run: `play` returns when every job has ended, or raises when that takes too long."""

    def __init__(self, made: Stage, server: PostgresServer, plan: Plan, say: Callable[[str], None]) -> None:
        self._stage = made
        self._server = server
        self._plan = plan
        self._say = say
        self._registry = Registry.load(test_types=True)
        self._rules = Rules.of(Settings.load(environ=made.environ, files=[]).settings)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._submitted = 0
        self._began = self._said = time.monotonic()
        self.observed = Observed()

    def play(self, *, within_s: float) -> Observed:
        """Plays the plan, waits for the ends of all jobs, drains the workers. Raises TimeoutError."""
        for _ in range(WORKERS):
            self._stage.worker()
        for worker in self._stage.workers:
            worker.wait_until_ready()
        self._began = self._said = time.monotonic()
        for wave in self._plan.waves:
            self._at(wave.at_s, lambda wave=wave: self._submit(wave))  # type: ignore[misc]  # bound by its default
        for planned in self._plan.blows:
            self._at(planned.at_s, lambda planned=planned: self._strike(planned))  # type: ignore[misc]
        while self._agenda or not self._all_ended():
            now = time.monotonic() - self._began
            if now > within_s:
                raise TimeoutError(f"not ended after {within_s:.0f} s: {self._states()}")
            while self._agenda and self._agenda[0][0] <= now:
                heappop(self._agenda)[2]()
            self._tell(now)
            time.sleep(TICK_S if self._agenda else 10 * TICK_S)
        self.observed.seconds = time.monotonic() - self._began
        self._drain()
        return self.observed

    def _at(self, at_s: float, act: Callable[[], None]) -> None:
        heappush(self._agenda, (at_s, next(self._order), act))

    def _in(self, seconds: float, act: Callable[[], None]) -> None:
        self._at(time.monotonic() - self._began + seconds, act)

    # --- jobs ---

    def _submit(self, wave: Wave) -> None:
        specs = [parse(message, self._registry, self._rules) for message in wave.messages]
        try:
            submit_specs(self._stage.database, specs)
        except Unreachable:
            # As a client does that has no answer: the same again, under the same ids.
            self._in(0.5, lambda: self._submit(wave))
        else:
            self._submitted += len(specs)

    def _states(self) -> dict[str, int]:
        rows = self._stage.table.rows("SELECT state, count(*)::int AS n FROM jobs GROUP BY state ORDER BY state")
        return {row["state"]: row["n"] for row in rows}

    def _all_ended(self) -> bool:
        try:
            return not self._states().keys() & {"waiting", "queued", "running"}
        except Unreachable:
            return False

    def _tell(self, now: float) -> None:
        if time.monotonic() - self._said >= SAID_EVERY_S:
            self._said = time.monotonic()
            try:
                states = ", ".join(f"{n} {state}" for state, n in self._states().items())
            except Unreachable:
                states = "the database is away"
            self._say(f"{now:6.0f} s  {self._submitted} submitted: {states}")

    # --- blows ---

    def _strike(self, planned: Planned) -> None:
        # Those that do not run their jobs already would show nothing.
        living = [worker for worker in self._stage.workers if worker.alive and not _stopped(worker)]
        worker = living[int(planned.victim * len(living))]
        self._say(f"{time.monotonic() - self._began:6.1f} s  {planned.blow}")
        self._keep_processes()
        self.observed.blows.append((datetime.now(UTC), planned.blow))
        match planned.blow:
            case Blow.KILL_WORKER:
                worker.kill()
                self._fell_silent(planned.blow, worker)
                self._stage.worker()
            case Blow.STOP_WORKER:
                worker.signal(signal.SIGSTOP)
                self._fell_silent(planned.blow, worker)
                self._in(planned.lasts_s, lambda: worker.signal(signal.SIGCONT))
            case Blow.DRAIN_WORKER:
                worker.signal(signal.SIGTERM)
                self._stage.worker()
            case Blow.KILL_EXECUTOR:
                for pid in worker.executors():
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            case Blow.RESTART_POSTGRES | Blow.POSTGRES_AWAY:
                self._server.kill()
                self._stage.database.close()
                went = datetime.now(UTC)
                self._in(planned.lasts_s, lambda: self._bring_back(went))

    def _bring_back(self, went: datetime) -> None:
        self._server.start()
        self.observed.outages.append((went, datetime.now(UTC)))

    def _fell_silent(self, blow: Blow, worker: Worker) -> None:
        at = datetime.now(UTC)
        sql = """
            SELECT w.id, array_agg(j.id) AS jobs FROM workers w
            JOIN jobs j ON j.worker_id = w.id AND j.state = 'running'
            WHERE w.pid = :pid AND w.retired_at IS NULL GROUP BY w.id
        """
        with suppress(Unreachable):
            rows: list[dict[str, Any]] = self._stage.table.rows(sql, pid=worker.pid)
            for row in rows:
                self.observed.silences.append(Silence(blow, at, row["id"], frozenset(row["jobs"])))

    # --- the end ---

    def _keep_processes(self) -> None:
        for worker in self._stage.workers:
            if worker.alive:
                self.observed.processes |= {p for pid in worker.executors() if (p := Process.of(pid)) is not None}

    def _drain(self) -> None:
        self._keep_processes()
        living = [worker for worker in self._stage.workers if worker.alive]
        for worker in living:
            worker.signal(signal.SIGTERM)
        self.observed.exit_codes += [worker.wait(60) for worker in living]


def _stopped(worker: Worker) -> bool:
    return Path(f"/proc/{worker.pid}/stat").read_text().rpartition(") ")[2][0] == "T"
