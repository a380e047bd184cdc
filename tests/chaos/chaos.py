"""Chaos: workers, executors, broker and Postgres are killed, stopped and restarted while messages come in and jobs run.

What is broken when, and on whom, comes from the seed alone; what was going on at that moment does not.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

from storage.database import Unreachable
from tests.chaos.accounts import Accounts, Report
from tests.chaos.lanes import Lanes
from tests.chaos.messages import MESSAGE_BYTES, Author, Fate
from tests.e2e.stage import COMMAND, Stage, Worker
from tests.servers.kafka import Kafka
from tests.servers.leashed import alive, wait_until
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Bucket

LEASE_S, BEAT_S = 4.0, 0.5
WORKERS = 3
#: When nothing ends for so long, it is said where things are, and then: something is stuck.
QUIET_S, STUCK_S = 8.0, 90.0

ENVIRON = {
    "MEDIAMILL_LEASE": f"{LEASE_S}s",
    "MEDIAMILL_BEAT": f"{BEAT_S}s",
    "MEDIAMILL_KAFKA_SESSION": f"{LEASE_S}s",
    "MEDIAMILL_POLL_INTERVAL_S": "0.3",
    "MEDIAMILL_BACKOFF_BASE_S": "0.1",
    "MEDIAMILL_BACKOFF_CAP_S": "2",
    "MEDIAMILL_DRAIN_GRACE_S": "1",
    "MEDIAMILL_LOG_LEVEL": "warning",
    "MEDIAMILL_KAFKA_PARTITIONS": "4",
    "MEDIAMILL_MESSAGE_BYTES": str(MESSAGE_BYTES),
    # So little that most rejections go to the object store.
    "MEDIAMILL_REJECTED_BYTES": "16384",
}
#: Deaths of its like are noticed as soon as its jobs' leases end.
QUICK_WORKER = (sys.executable, "-m", "tests.chaos.quick_worker", "worker")


class Event(StrEnum):
    """What is done to the deployment."""

    KILL_WORKER = "kill worker"
    STOP_WORKER = "stop worker"
    """SIGSTOP until well after its lease, then SIGCONT."""
    RESTART_WORKER = "restart worker"
    KILL_EXECUTOR = "kill executor"
    KILL_POSTGRES = "kill postgres"
    """SIGKILL of its postmaster, and a start on the same data: crash recovery."""
    KILL_BROKER = "kill broker"
    """The same for Kafka."""
    KILL_BOTH = "kill broker and postgres"


class Chaos:
    """Runs one deployment through a number of events."""

    def __init__(
        self,
        stage: Stage,
        postgres: PostgresServer,
        kafka: Kafka,
        bucket: S3Bucket,
        pictures: Sequence[Path],
        seed: int,
        *,
        command: Sequence[str] = (*COMMAND, "worker"),
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`command`: a worker."""
        self._stage = stage
        self._postgres = postgres
        self._kafka = kafka
        self._bucket = bucket
        self._seed = seed
        self._command = command
        self._say = say
        self._lanes = Lanes(kafka)
        self._author = Author(random.Random(seed), [self._put(path) for path in pictures])
        self._workers: list[Worker] = []
        self._stopped: list[tuple[Worker, float]] = []
        self._done: list[str] = []
        self._deaths: dict[int, float] = {}
        self._pids: set[int] = set()
        """Of everything that was ever started, as far as it was seen."""
        self._again: Counter[str] = Counter()
        self._started = time.monotonic()

    def run(self, messages: int, events: Sequence[Event]) -> Report:
        """Sends messages in shares, lets an event happen after each, waits for the rest, and counts.

        An event does not wait for the recovery from the one before: two shares may be on their way.
        """
        while len(self._workers) < WORKERS:
            self._workers.append(self._start())
        for worker in self._workers:
            worker.wait_until_ready()
        shares = [messages * (n + 1) // (len(events) + 1) - messages * n // (len(events) + 1)
                  for n in range(len(events) + 1)]  # fmt: skip
        ended_enough = [self._ended()] * 2
        for share, event in zip(shares, events, strict=False):
            ended_enough.append(self._wanted())
            self._wait_for(ended_enough.pop(0))
            self._send(share)
            self.happen(event)
            if len(self._done) % len(events) == len(events) - 1:
                self._ask_again()
        self._send(shares[-1])
        self._wait_for_all()
        return self._report()

    def close(self) -> list[str]:
        """Drains what still runs; what is wrong with how it ended."""
        wrong = []
        for worker in self._workers:
            self._note(worker)
            if worker.alive and (code := worker.drain()) != 0:
                wrong.append(f"a worker ended with {code}:\n{worker.said()}")
        return wrong + [f"process {pid} is left behind" for pid in sorted(self._pids) if alive(pid)]

    def _start(self) -> Worker:
        started = self._stage.workers
        worker = Worker(self._stage.environ, self._stage.folder / f"worker-{len(started)}.log", self._command)
        started.append(worker)
        return worker

    def _note(self, worker: Worker) -> None:
        if worker.alive:
            self._pids |= {worker.pid, *worker.executors()}

    def _send(self, n: int) -> None:
        self._lanes.send(self._author.write(n))

    def _ask_again(self) -> None:
        """For the jobs that have failed: they fail once more, and what is told of that comes later."""
        answers = self._stage.json("jobs", "retry", "--state", "failed", "--all")
        self._again.update(answer["id"] for answer in answers if answer["answer"] == "queued")

    # --- events ---

    def happen(self, event: Event) -> None:
        """Does it, to a worker by chance."""
        # Of its own: how much chance an event takes depends on what is there, and the next one must not depend on that.
        rng = random.Random(f"{self._seed} {len(self._done)}")
        place = rng.randrange(WORKERS)
        worker = self._workers[place]
        self._note(worker)
        self._done.append(event.value)
        self._say(f"{time.monotonic() - self._started:5.0f} s  {event.value}; ended so far: {self._ended()}")
        match event:
            case Event.KILL_WORKER:
                self._deaths[worker.pid] = time.time()
                worker.kill()
                self._workers[place] = self._start()
            case Event.STOP_WORKER:
                worker.signal(signal.SIGSTOP)
                self._stopped.append((worker, time.monotonic() + LEASE_S + 4))
            case Event.RESTART_WORKER:
                self._restart(worker)
                self._workers[place] = self._start()
            case Event.KILL_EXECUTOR:
                children = worker.executors()
                if children:
                    os.kill(rng.choice(sorted(children)), signal.SIGKILL)
            case Event.KILL_POSTGRES:
                self._postgres.restart()
            case Event.KILL_BROKER:
                self._kafka.server.restart()
            case Event.KILL_BOTH:
                self._kafka.server.kill()
                self._postgres.restart()
                self._kafka.server.start()

    def _restart(self, worker: Worker) -> None:
        worker.signal(signal.SIGCONT)
        starting = worker.get("/healthz")[0] == 0
        worker.signal(signal.SIGTERM)
        code = worker.wait(60)
        # One that is not up yet has claimed nothing, and simply dies of the signal.
        if code != 0 and not (starting and code == -signal.SIGTERM):
            raise AssertionError(f"a drained worker ended with {code}:\n{worker.said()}")

    def _wake_stopped(self, *, all_: bool = False) -> None:
        for worker, until in list(self._stopped):
            if all_ or time.monotonic() > until:
                worker.signal(signal.SIGCONT)
                self._stopped.remove((worker, until))

    # --- waiting ---

    def _wanted(self) -> int:
        return len(self._lanes.of(Fate.JOB))

    def _wait_for(self, ended: int) -> None:
        """Until so many of the jobs that were asked for have ended."""
        self._watch(lambda: (now := self._ended(), now >= ended), f"{ended} jobs to end")

    def _wait_for_all(self) -> None:
        """Until every message is read, every job has ended, and every event is published."""

        def left() -> tuple[int, bool]:
            live, outbox = self._count("jobs WHERE finished_at IS NULL"), self._count("outbox")
            missing = max(0, self._wanted() - self._ended())
            unread = self._lanes.unread() if not missing + live + outbox else 0
            return missing + live + outbox + unread, not missing + live + outbox + unread

        self._watch(left, "all to be over")
        self._wake_stopped(all_=True)

    def _watch(self, look: Callable[[], tuple[int, bool]], what: str) -> None:
        """`look`: a number that changes while there is progress, and whether it is enough."""
        last, since, told = -1, time.monotonic(), False
        while True:
            self._wake_stopped()
            now, enough = look()
            if enough:
                return
            if now != last:
                last, since, told = now, time.monotonic(), False
            if not told and time.monotonic() - since > QUIET_S:
                self._say(f"{time.monotonic() - self._started:5.0f} s  {self._standstill()}")
                told = True
            if time.monotonic() - since > STUCK_S:
                said = "\n".join(f"--- {worker.log.name}\n{worker.said()}" for worker in self._workers)
                raise AssertionError(f"waiting for {what}, {now} for {STUCK_S} s\n{said}")
            time.sleep(0.1)

    def _standstill(self) -> str:
        """Where what is not over is."""
        live = self._count("jobs WHERE finished_at IS NULL AND worker_id IS NULL")
        held = self._count("jobs WHERE finished_at IS NULL AND worker_id IS NOT NULL")
        unread = self._lanes.unread()
        return f"no end for {QUIET_S:.0f} s: {live} jobs wait, {held} are held by workers, {unread} messages are unread"

    def _ended(self) -> int:
        return self._count("jobs WHERE type <> 'image.embed' AND finished_at IS NOT NULL")

    def _count(self, what: str) -> int:
        counted: list[int] = []

        def there() -> bool:
            try:
                counted.append(self._stage.table.rows(f"SELECT count(*)::int AS n FROM {what}")[0]["n"])
            except Unreachable:  # our own connections died with the server
                return False
            return True

        wait_until(there, 20, "Postgres to be back")
        return counted[-1]

    # --- counting ---

    def _report(self) -> Report:
        table = self._stage.table
        states = {r["state"]: r["n"] for r in table.rows("SELECT state, count(*)::int AS n FROM jobs GROUP BY state")}
        report = Report(len(self._lanes.sent), time.monotonic() - self._started, states, list(self._done))
        report.reclaim_s = self._reclaimed()
        return Accounts(table, self._lanes, self._kafka, self._bucket, self._again, report).close()

    def _reclaimed(self) -> list[float]:
        """Seconds from a worker's death to the return of each of its jobs."""
        seconds = []
        for pid, died in self._deaths.items():
            rows = self._stage.table.rows(
                """
                SELECT extract(epoch FROM e.at)::float AS at FROM job_events e JOIN workers w ON w.id = e.worker_id
                WHERE w.pid = :pid AND e.kind IN ('lost', 'crashed') AND e.at > to_timestamp(:died)
                """,
                pid=pid,
                died=died,
            )
            seconds += [row["at"] - died for row in rows]
        return seconds

    def _put(self, path: Path) -> str:
        self._bucket.client.put_object(Bucket=self._bucket.name, Key=f"pictures/{path.name}", Body=path.read_bytes())
        return self._bucket.uri(f"pictures/{path.name}")
