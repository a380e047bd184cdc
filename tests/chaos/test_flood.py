"""A flood of garbage: good messages in it run, every byte of it is kept, within the budget or in the object store."""

from __future__ import annotations

from pathlib import Path

from storage.database import Database
from tests.chaos.flood import BUDGET_BYTES, ENVIRON, Flood
from tests.e2e.material import s3_environ
from tests.e2e.stage import stage
from tests.servers.kafka import Kafka
from tests.servers.s3 import S3Bucket

SEED = 20261121
#: A process warms up by a third of this in so short a flood; whether it grows on and on is seen in `make soak`.
WARM_UP_BYTES = 80 << 20


def test_good_messages_in_a_flood_of_garbage_run_and_the_garbage_stays_within_its_budget(
    tmp_path: Path, database: Database, kafka: Kafka, s3_bucket: S3Bucket, tiny_models: Path
) -> None:
    environ = {"MEDIAMILL_MODELS": str(tiny_models), **s3_environ(s3_bucket), **kafka.environ, **ENVIRON}
    with stage(tmp_path, environ, database.url) as made:
        report = Flood(made, kafka, s3_bucket, SEED, roles=[()]).run(2000, 3, good_per_s=20)
        said = "\n".join(report.lines())
        assert report.clean, said
        assert len(report.latency_s) == report.good == 60, said
        assert report.in_postgres <= BUDGET_BYTES < report.in_store, said
        assert max(report.rss) - report.rss[0] < WARM_UP_BYTES, said
