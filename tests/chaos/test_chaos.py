"""Two thousand messages, three workers, and nine bad events: every message is accounted for, every job ends once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.chaos import ENVIRON, QUICK_WORKER, Chaos, Event
from tests.e2e.material import s3_environ
from tests.e2e.stage import stage
from tests.servers.kafka import Kafka
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Bucket

SEED = 20261121
EVENTS = [
    Event.KILL_WORKER,
    Event.KILL_EXECUTOR,
    Event.KILL_BROKER,
    Event.STOP_WORKER,
    Event.KILL_POSTGRES,
    Event.KILL_WORKER,
    Event.RESTART_WORKER,
    Event.KILL_EXECUTOR,
    Event.KILL_BOTH,
]


@pytest.mark.timeout(400)
def test_every_message_is_accounted_for_and_what_its_job_made_is_there_once(
    tmp_path: Path, s3_bucket: S3Bucket, own_kafka: Kafka, tiny_models: Path, pictures: list[Path]
) -> None:
    environ = {"MEDIAMILL_MODELS": str(tiny_models), **s3_environ(s3_bucket), **own_kafka.environ, **ENVIRON}
    with PostgresServer() as postgres, stage(tmp_path, environ, postgres.create_database("chaos")) as made:
        made.run("migrate")
        chaos = Chaos(made, postgres, own_kafka, s3_bucket, pictures, SEED, command=QUICK_WORKER)
        report = chaos.run(2000, EVENTS)
        assert report.clean, "\n".join(report.lines())
        assert len(report.events) == len(EVENTS)
        assert chaos.close() == []
