"""Who is measured by `bench.overhead`: one worker of each, with a database of its own on the same Postgres."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from bench.processes import tree
from intake.identity import new_id
from storage.database import Database
from storage.sql import text
from storage.submit import NewJob, submit_within
from tests.servers.leashed import free_port, wait_until

_ROOT = Path(__file__).resolve().parents[1]
#: Of an environment with procrastinate in it, which is no dependency of ours.
PEER_PYTHON = _ROOT / ".venv-bench" / "bin" / "python"

EMPTY_CATALOGUE = "profiles: {default: {roles: {}}}\ncheckpoints: {}\n"
TYPE, LANE = "test.noop", "backfill"


class Contestant(ABC):
    """One worker, and who puts jobs in."""

    name: str
    #: Servers that it needs.
    servers: Sequence[str] = ("postgres",)

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self.database = database
        self._worker: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def put(self, n: int) -> None:
        """Puts that many jobs in that do nothing, as fast as is recommended."""

    @abstractmethod
    def steady(self, n: int, per_s: float) -> list[float]:
        """Puts jobs in one by one, so many a second; for each the seconds until its handler was entered."""

    @abstractmethod
    def finished(self) -> int:
        """Jobs whose end is recorded, and told where that is part of it."""

    def pids(self) -> Mapping[str, Sequence[int]]:
        """The worker's processes by what they are."""
        return {"worker": tree(self._started.pid)}

    def pause(self) -> None:
        """The worker stands still, until `go_on`."""
        self._started.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """The worker works again."""
        self._started.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends the worker."""
        self._started.send_signal(signal.SIGTERM)
        self._started.wait(60)
        self.database.close()

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        assert self._worker is not None
        return self._worker

    def _start(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        with (self.folder / f"{self.name.split()[0]}.log").open("ab") as log:
            self._worker = subprocess.Popen(
                command, env=dict(environ), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=_ROOT
            )

    def _scalar(self, sql: str, **values: Any) -> Any:
        with self.database.transaction() as connection:
            return connection.scalar(text(sql), values)


class Mediamill(Contestant):
    """`mediamill worker` with its sandboxed executor; jobs are inserted by `storage.submit`."""

    name = "mediamill"

    def __init__(self, folder: Path, database: Database, **settings: str) -> None:
        super().__init__(folder, database)
        catalogue = folder / "models.yaml"
        catalogue.write_text(EMPTY_CATALOGUE)
        port = free_port()
        environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ} | {
            "OMP_NUM_THREADS": "1",
            "MEDIAMILL_HOME": str(folder / "home"),
            "MEDIAMILL_DATABASE_URL": database.url,
            "MEDIAMILL_CATALOGUE": str(catalogue),
            "MEDIAMILL_TEST_TYPES": "true",
            "MEDIAMILL_DEVICE": "cpu",
            "MEDIAMILL_CPU_THREADS": "1",
            "MEDIAMILL_HTTP_BIND": f"127.0.0.1:{port}",
            **{f"MEDIAMILL_{name.upper()}": value for name, value in settings.items()},
        }
        command = [sys.executable, "-m", "console"]
        subprocess.run([*command, "migrate"], env=environ, cwd=_ROOT, check=True, capture_output=True)
        self._start([*command, "worker"], environ)
        wait_until(lambda: self._is_ready(port), 90, "the worker to be ready")

    def _is_ready(self, port: int) -> bool:
        import urllib.error
        import urllib.request

        if self._started.poll() is not None:
            raise RuntimeError((self.folder / "mediamill.log").read_text()[-2000:])
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def pids(self) -> Mapping[str, Sequence[int]]:
        courier, *others = tree(self._started.pid)
        return {"courier": [courier], "executor": others}

    def put(self, n: int) -> None:
        # One transaction, as the peer's batches are few: all of them are there at once.
        with self.database.transaction() as connection:
            for at in range(0, n, 500):
                submit_within(connection, [_job({}) for _ in range(min(500, n - at))])

    def steady(self, n: int, per_s: float) -> list[float]:
        return self._began_after(list(paced(n, per_s, self._put_timed)))

    def _put_timed(self) -> str:
        job = _job({"params": {"timed": True}})
        with self.database.transaction() as connection:
            submit_within(connection, [job])
        return str(job.id)

    def _began_after(self, sent: Sequence[tuple[str, float]]) -> list[float]:
        ids = [id_ for id_, _ in sent]
        done = "SELECT count(result) FROM job_details WHERE id = ANY(CAST(:ids AS uuid[]))"
        wait_until(lambda: self._scalar(done, ids=ids) == len(ids), 60, "the end of all jobs")
        began = "SELECT id::text, (result ->> 'began_at')::float FROM job_details WHERE id = ANY(CAST(:ids AS uuid[]))"
        with self.database.transaction() as connection:
            at = {row[0]: row[1] for row in connection.execute(text(began), {"ids": ids})}
        return [at[id_] - sent_at for id_, sent_at in sent]

    def finished(self) -> int:
        counted = self._scalar("SELECT sum(jobs) FROM ops.job_counts WHERE state = 'succeeded'")
        return int(counted or 0)


class MediamillThroughKafka(Mediamill):
    """The same, with jobs that come from a topic; they count as finished when their result events are published."""

    name = "mediamill through Kafka"
    servers = ("postgres", "kafka")

    def __init__(self, folder: Path, database: Database, bootstrap: str) -> None:
        from kafka import KafkaProducer

        super().__init__(folder, database, kafka_bootstrap=bootstrap, kafka_partitions="6")
        self._topic = f"mediamill.jobs.{LANE}"
        self._producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=0)

    def put(self, n: int) -> None:
        for _ in range(n):
            self._producer.send(self._topic, self._message(str(new_id())))
        self._producer.flush()

    def _put_timed(self) -> str:
        id_ = str(new_id())
        self._producer.send(self._topic, self._message(id_, params={"timed": True}))
        return id_

    def _message(self, id_: str, **more: Any) -> bytes:
        return json.dumps({"id": id_, "type": TYPE, **more}).encode()

    def finished(self) -> int:
        return super().finished() - int(self._scalar("SELECT count(*) FROM outbox"))

    def close(self) -> None:
        self._producer.close()
        super().close()


class Procrastinate(Contestant):
    """The peer, in an environment of its own."""

    name = "procrastinate"

    def __init__(self, folder: Path, database: Database, python: Path, concurrency: int) -> None:
        super().__init__(folder, database)
        self._began = folder / "procrastinate-began"
        side = Path(__file__).with_name("procrastinate_side.py")

        def command(role: str) -> list[str]:
            return [str(python), str(side), role, database.url, str(concurrency), str(self._began)]

        self._client = subprocess.Popen(command("client"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version: str = self._ask("migrate")["version"]
        self._start(command("worker"), os.environ)

    def put(self, n: int) -> None:
        self._ask(f"put {n}")

    def steady(self, n: int, per_s: float) -> list[float]:
        self._began.write_text("")
        self._ask(f"steady {n} {per_s}")
        wait_until(lambda: self._began.read_text().count("\n") == n, 60, "the end of all jobs")
        return [float(line) for line in self._began.read_text().split()]

    def finished(self) -> int:
        return int(self._scalar("SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"))

    def close(self) -> None:
        assert self._client.stdin is not None
        self._client.stdin.close()
        self._client.wait(60)
        super().close()

    def _ask(self, what: str) -> Any:
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        self._client.stdin.write(f"{what}\n")
        self._client.stdin.flush()
        if not (answer := self._client.stdout.readline()):
            raise RuntimeError(f"procrastinate's client ended while it was asked to {what}")
        return json.loads(answer)


def paced(n: int, per_s: float, put: Callable[[], str]) -> Iterator[tuple[str, float]]:
    """Calls `put` so many times a second; gives what it says, and when it was called."""
    started = time.monotonic()
    for at in range(n):
        time.sleep(max(0.0, started + at / per_s - time.monotonic()))
        sent_at = time.time()
        yield put(), sent_at


def _job(more: Mapping[str, Any]) -> NewJob:
    message = {"type": TYPE, **more}
    body = sha256(json.dumps(message).encode()).digest()
    return NewJob(id=new_id(), type=TYPE, lane=LANE, body_sha256=body, message=message)


@contextmanager
def closing(contestants: Sequence[Contestant]) -> Iterator[Sequence[Contestant]]:
    """Ends all of them, whatever happens."""
    try:
        yield contestants
    finally:
        for contestant in contestants:
            contestant.go_on()
            contestant.close()
