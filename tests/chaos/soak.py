"""The long chaos run: `make soak JOBS= SEED= MINUTES=`. Starts its own servers; exit code 1 when anything was wrong."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.chaos import ENVIRON, Chaos, Event, Report
from tests.e2e.material import draw_pictures, make_tiny_models, s3_environ
from tests.e2e.stage import stage
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Bucket, S3Server

#: Jobs of one round; each round has as many events.
ROUND_JOBS, ROUND_EVENTS = 2000, 8


def soak(jobs: int, seed: int, minutes: float) -> Report:
    """Rounds of jobs and events until there were `jobs` of them or the time is over."""
    with (
        tempfile.TemporaryDirectory(prefix="mediamill-soak-") as folder,
        S3Server() as s3,
        PostgresServer() as postgres,
    ):
        client = s3.client()
        bucket = S3Bucket.create(s3, client)
        models = Path(folder) / "models"
        make_tiny_models(models)
        drawn = Path(folder) / "pictures"
        drawn.mkdir()
        environ = {"MEDIAMILL_MODELS": str(models), **s3_environ(bucket), **ENVIRON}
        with stage(Path(folder), environ, postgres.create_database("soak")) as made:
            made.run("migrate")
            chaos = Chaos(made, postgres, bucket, draw_pictures(drawn, 12), seed, say=_say)
            rng = random.Random(seed)
            end = time.monotonic() + minutes * 60
            left = jobs
            while True:
                events = [rng.choice(list(Event)) for _ in range(ROUND_EVENTS)]
                report = chaos.run(min(ROUND_JOBS, left), events)
                left = jobs - report.jobs
                _say(f"round over: {report.jobs} jobs, {'clean' if report.clean else 'NOT CLEAN'}")
                if not report.clean or left <= 0 or time.monotonic() > end:
                    client.close()
                    return report


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10)
    given = parser.parse_args()
    report = soak(given.jobs, given.seed, given.minutes)
    for line in report.lines():
        _say(line)
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main())
