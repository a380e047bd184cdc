"""Two thousand jobs, three workers, and eight bad events: every job ends once, and everything it made is there once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.chaos import ENVIRON, Chaos, Event
from tests.e2e.material import s3_environ
from tests.e2e.stage import stage
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Bucket

SEED = 20261121
EVENTS = [
    Event.KILL_WORKER,
    Event.KILL_EXECUTOR,
    Event.STOP_WORKER,
    Event.KILL_POSTGRES,
    Event.KILL_WORKER,
    Event.RESTART_WORKER,
    Event.KILL_EXECUTOR,
    Event.KILL_POSTGRES,
]


@pytest.mark.timeout(400)
def test_every_job_ends_once_and_what_it_made_is_there_once(
    tmp_path: Path, s3_bucket: S3Bucket, tiny_models: Path, pictures: list[Path]
) -> None:
    environ = {"MEDIAMILL_MODELS": str(tiny_models), **s3_environ(s3_bucket), **ENVIRON}
    with PostgresServer() as postgres:
        url = postgres.create_database("chaos")
        with stage(tmp_path, environ, url) as made:
            made.run("migrate")
            report = Chaos(made, postgres, s3_bucket, pictures, SEED).run(2000, EVENTS)
            assert report.clean, "\n".join(report.lines())
            assert len(report.events) == len(EVENTS)
            assert all(worker.drain() == 0 for worker in made.workers if worker.alive)
