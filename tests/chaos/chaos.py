"""Chaos: workers, executors and Postgres are killed, stopped and restarted while jobs run; then everything is counted.

What is broken when, and on whom, comes from the seed alone; what was going on at that moment does not.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

from storage.database import Unreachable
from tests.e2e.stage import Stage, Worker
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Bucket

LEASE_S, BEAT_S = 4.0, 0.5
WORKERS = 3
#: When nothing ends for so long, something is stuck.
STUCK_S = 90.0

ENVIRON = {
    "MEDIAMILL_LEASE": f"{LEASE_S}s",
    "MEDIAMILL_BEAT": f"{BEAT_S}s",
    "MEDIAMILL_POLL_INTERVAL_S": "0.3",
    "MEDIAMILL_BACKOFF_BASE_S": "0.1",
    "MEDIAMILL_BACKOFF_CAP_S": "2",
    "MEDIAMILL_DRAIN_GRACE_S": "1",
    "MEDIAMILL_LOG_LEVEL": "warning",
}


class Event(StrEnum):
    """What is done to the deployment."""

    KILL_WORKER = "kill worker"
    STOP_WORKER = "stop worker"
    """SIGSTOP until well after its lease, then SIGCONT."""
    RESTART_WORKER = "restart worker"
    KILL_EXECUTOR = "kill executor"
    KILL_POSTGRES = "kill postgres"
    """SIGKILL of its postmaster, and a start on the same data: crash recovery."""


@dataclass(slots=True)
class Report:
    """What is left when all is over."""

    jobs: int
    seconds: float
    states: dict[str, int]
    events: list[str]
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    reclaim_s: list[float] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing was lost, doubled or otherwise wrong."""
        return not (self.lost or self.doubled or self.wrong)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"jobs       {self.jobs} in {self.seconds:.0f} s: {json.dumps(self.states)}"
        yield f"events     {len(self.events)}: {', '.join(self.events)}"
        reclaim = f"p50 {median(self.reclaim_s):.1f} s, max {max(self.reclaim_s):.1f} s" if self.reclaim_s else "none"
        yield f"reclaim    {reclaim} (worker's death to its jobs' return, {len(self.reclaim_s)} jobs)"
        for name, found in (("lost", self.lost), ("doubled", self.doubled), ("wrong", self.wrong)):
            yield f"{name:10} {len(found)}{': ' + '; '.join(found[:10]) if found else ''}"


def messages(rng: random.Random, n: int, pictures: Sequence[str]) -> list[dict[str, Any]]:
    """A mix of small jobs; ids are set by the client, so that a submission that is sent again is the same."""
    made = []
    for _ in range(n):
        kind = rng.choices(["noop", "output", "input", "caption", "retry", "bug", "sleep", "death", "bad"],
                           [55, 15, 8, 6, 5, 4, 5, 1, 1])[0]  # fmt: skip
        message: dict[str, Any] = {"type": "test.noop", "lane": rng.choice(["interactive", "upload", "backfill"])}
        if kind == "output":
            message["params"] = {"output_bytes": rng.randint(1, 2000)}
        elif kind == "input":
            message["inputs"] = {"files": {"a": rng.choice(pictures)}}
        elif kind == "caption":
            message |= {"type": "image.caption", "inputs": {"image": rng.choice(pictures)}, "params": {"max_tokens": 4}}
        elif kind in _FAULTS:
            message |= {"type": "test.fault", "params": {"only_first_attempts": 1, **_FAULTS[kind]}}
            if kind == "sleep":
                message["params"]["seconds"] = round(rng.uniform(0.1, 1.5), 2)
            if kind == "bad":
                del message["params"]["only_first_attempts"]
        message["id"] = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        message["max_attempts"] = 5
        made.append(message)
    return made


_FAULTS: dict[str, dict[str, Any]] = {
    "retry": {"fault": "retry", "retry_after_s": 0.2},
    "bug": {"fault": "raise"},
    "sleep": {"fault": "sleep"},
    "death": {"fault": "kill"},
    "bad": {"fault": "invalid_input"},
}


class Chaos:
    """Runs one deployment through a number of events."""

    def __init__(
        self,
        stage: Stage,
        postgres: PostgresServer,
        bucket: S3Bucket,
        pictures: Sequence[Path],
        seed: int,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._stage = stage
        self._postgres = postgres
        self._bucket = bucket
        self._rng = random.Random(seed)
        self._say = say
        self._workers: list[Worker] = []
        self._stopped: list[tuple[Worker, float]] = []
        self._done: list[str] = []
        self._deaths: dict[int, float] = {}
        self._submitted: list[dict[str, Any]] = []
        self._pictures = [self._put(path) for path in pictures]
        self._started = time.monotonic()

    def run(self, jobs: int, events: Sequence[Event]) -> Report:
        """Submits jobs, lets each event happen when its share of them has ended, waits for the rest, and counts."""
        while len(self._workers) < WORKERS:
            self._workers.append(self._stage.worker())
        for worker in self._workers:
            worker.wait_until_ready()
        before = self._ended()
        self.submit(jobs)
        for n, event in enumerate(events):
            self._wait_for(before + jobs * (n + 1) // (len(events) + 2))
            self.happen(event)
        self._wait_for(len(self._submitted), all_=True)
        return self.report()

    def submit(self, n: int) -> None:
        """Submits through the command line, from standard input."""
        made = messages(self._rng, n, self._pictures)
        self._submitted += made
        lines = "\n".join(json.dumps(message) for message in made)
        self._stage.run("submit", "--from", "-", "--json", stdin=lines)

    # --- events ---

    def happen(self, event: Event) -> None:
        """Does it, to a worker by chance."""
        place = self._rng.randrange(WORKERS)
        worker = self._workers[place]
        self._done.append(event.value)
        self._say(f"{time.monotonic() - self._started:5.0f} s  {event.value}; ended so far: {self._ended()}")
        match event:
            case Event.KILL_WORKER:
                self._deaths[worker.pid] = time.time()
                worker.kill()
                self._workers[place] = self._stage.worker()
            case Event.STOP_WORKER:
                worker.signal(signal.SIGSTOP)
                self._stopped.append((worker, time.monotonic() + LEASE_S + 4))
            case Event.RESTART_WORKER:
                worker.signal(signal.SIGCONT)
                starting = worker.get("/healthz")[0] == 0
                worker.signal(signal.SIGTERM)
                code = worker.wait(60)
                # One that is not up yet has claimed nothing, and simply dies of the signal.
                if code != 0 and not (starting and code == -signal.SIGTERM):
                    raise AssertionError(f"a drained worker ended with {code}:\n{worker.said()}")
                self._workers[place] = self._stage.worker()
            case Event.KILL_EXECUTOR:
                children = worker.executors()
                if children:
                    os.kill(self._rng.choice(sorted(children)), signal.SIGKILL)
            case Event.KILL_POSTGRES:
                self._postgres.kill()
                self._postgres.start()

    def _wake_stopped(self, *, all_: bool = False) -> None:
        for worker, until in list(self._stopped):
            if all_ or time.monotonic() > until:
                worker.signal(signal.SIGCONT)
                self._stopped.remove((worker, until))

    # --- waiting ---

    def _wait_for(self, ended: int, *, all_: bool = False) -> None:
        last, since = -1, time.monotonic()
        while True:
            self._wake_stopped()
            now = self._ended(mine_only=not all_)
            live = self._live() if all_ else 0
            if now >= ended and not live:
                self._wake_stopped(all_=all_)
                return
            if now != last:
                last, since = now, time.monotonic()
            if time.monotonic() - since > STUCK_S:
                said = "\n".join(f"--- {worker.log.name}\n{worker.said()}" for worker in self._workers)
                raise AssertionError(f"nothing has ended for {STUCK_S} s at {now} of {ended}\n{said}")
            time.sleep(0.1)

    def _ended(self, *, mine_only: bool = True) -> int:
        where = "type <> 'image.embed' AND" if mine_only else ""
        return self._count(f"SELECT count(*) AS n FROM jobs WHERE {where} finished_at IS NOT NULL")

    def _live(self) -> int:
        return self._count("SELECT count(*) AS n FROM jobs WHERE finished_at IS NULL")

    def _count(self, sql: str) -> int:
        for _ in range(20):
            try:
                n: int = self._stage.table.rows(sql)[0]["n"]
            except Unreachable:  # our own connections died with the server
                time.sleep(0.1)
            else:
                return n
        raise AssertionError("Postgres did not come back")

    # --- counting ---

    def report(self) -> Report:
        """Compares what was asked for with what is there."""
        table = self._stage.table
        states = {r["state"]: r["n"] for r in table.rows("SELECT state, count(*)::int AS n FROM jobs GROUP BY state")}
        report = Report(len(self._submitted), time.monotonic() - self._started, states, list(self._done))
        rows = {str(r["id"]): r for r in table.rows("SELECT id, type, state FROM jobs")}
        for message in self._submitted:
            row = rows.get(message["id"])
            wanted = "failed" if message.get("params", {}).get("fault") == "invalid_input" else "succeeded"
            if row is None:
                report.lost.append(message["id"])
            elif row["state"] != wanted:
                report.wrong.append(f"{message['id']} ({message['type']}) is {row['state']}")
        ends = table.rows("""
            SELECT id, count(*) AS n FROM job_events
            WHERE state IN ('succeeded', 'failed', 'cancelled', 'quarantined') GROUP BY id HAVING count(*) <> 1
        """)
        report.doubled += [f"{row['id']} ended {row['n']} times" for row in ends]
        self._check_counts(report, states)
        self._check_artifacts(report)
        self._check_embeddings(report)
        report.reclaim_s = self._reclaimed()
        return report

    def _check_counts(self, report: Report, states: dict[str, int]) -> None:
        if (counted := self._stage.table.counts()) != states:
            report.wrong.append(f"ops.job_counts says {counted}")

    def _check_artifacts(self, report: Report) -> None:
        """Each succeeded job that makes an output has one; its bytes are there; and nothing else is, but for sweeps."""
        table = self._stage.table
        artifacts = table.rows("SELECT job_id, key, encode(content, 'hex') AS sha256, size FROM artifacts")
        having = {str(a["job_id"]) for a in artifacts}
        if len(having) != len(artifacts):
            report.doubled.append(f"{len(artifacts) - len(having)} artifacts too many")
        for message in self._submitted:
            makes = message["type"] == "image.caption" or message.get("params", {}).get("output_bytes")
            if bool(makes) != (message["id"] in having):
                report.wrong.append(
                    f"{message['id']} ({message['type']}): artifact {'missing' if makes else 'too many'}"
                )
        stored = dict(self._objects("derived/"))
        for artifact in artifacts:
            body = stored.pop(artifact["key"], None)
            if body is None:
                report.lost.append(f"object {artifact['key']}")
            elif sha256(body).hexdigest() != artifact["sha256"]:
                report.wrong.append(f"object {artifact['key']} has other bytes than its artifact")
        due = {(str(row["job_id"]), row["attempt"]) for row in table.rows("SELECT job_id, attempt FROM sweeps")}
        for key in stored:
            _, job, attempt, _ = key.split("/")
            if (job, int(attempt.partition("-")[0])) not in due:
                report.wrong.append(f"object {key} is nobody's, and will not be swept")

    def _check_embeddings(self, report: Report) -> None:
        table = self._stage.table
        doubled = table.rows("SELECT content FROM embeddings GROUP BY content, space HAVING count(*) > 1")
        report.doubled += [f"embedding of {bytes(row['content']).hex()}" for row in doubled]
        missing = table.rows("""
            SELECT DISTINCT i.content FROM job_inputs i JOIN jobs j ON j.id = i.job_id
            WHERE j.type = 'image.caption' AND j.state = 'succeeded'
              AND NOT EXISTS (SELECT FROM embeddings e WHERE e.content = i.content)
        """)
        report.lost += [f"embedding of {bytes(row['content']).hex()}" for row in missing]

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

    # --- the object store ---

    def _put(self, path: Path) -> str:
        self._bucket.client.put_object(Bucket=self._bucket.name, Key=f"pictures/{path.name}", Body=path.read_bytes())
        return self._bucket.uri(f"pictures/{path.name}")

    def _objects(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        pages = self._bucket.client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket.name, Prefix=prefix)
        for page in pages:
            for found in page.get("Contents", []):
                answer = self._bucket.client.get_object(Bucket=self._bucket.name, Key=found["Key"])
                yield found["Key"], answer["Body"].read()
