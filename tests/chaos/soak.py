"""The long chaos run: `make soak JOBS= SEED= MINUTES=`. Starts its own servers; exit code 1 when anything was wrong.

Three parts: messages through a whole deployment that is broken again and again, restarts of a group of ingesters,
and a flood of garbage.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from tests.chaos import chaos, flood, rebalance
from tests.e2e.material import draw_pictures, make_tiny_models, s3_environ
from tests.e2e.stage import Stage, stage
from tests.servers.kafka import Kafka, KafkaServer
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Bucket, S3Server

#: Messages of one round of chaos; each round has as many events.
ROUND_MESSAGES, ROUND_EVENTS = 2000, 10
INGESTERS, REBALANCED_MESSAGES, RESTARTS = 8, 100_000, 16
GARBAGE, FLOOD_S = 50_000, 60.0
#: Growth of the ingesting process's memory in the second half of the flood that still is none.
FLAT_BYTES = 32 << 20


class Part(StrEnum):
    """What is run."""

    CHAOS = "chaos"
    REBALANCE = "rebalance"
    FLOOD = "flood"


class Report(Protocol):
    """What a part says at its end."""

    @property
    def clean(self) -> bool: ...

    def lines(self) -> Iterator[str]: ...


@dataclass(frozen=True, slots=True)
class Servers:
    """Those of one part."""

    postgres: PostgresServer
    kafka: Kafka
    bucket: S3Bucket
    folder: Path

    @contextmanager
    def stage(self, environ: Mapping[str, str]) -> Iterator[Stage]:
        """A deployment on them, with tiny checkpoints."""
        models = self.folder / "models"
        make_tiny_models(models)
        own = {"MEDIAMILL_MODELS": str(models), **s3_environ(self.bucket), **self.kafka.environ, **environ}
        with stage(self.folder, own, self.postgres.create_database("soak")) as made:
            made.run("migrate")
            yield made


@contextmanager
def servers() -> Iterator[Servers]:
    """New ones."""
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="mediamill-soak-")))
        s3, postgres = held.enter_context(S3Server()), held.enter_context(PostgresServer())
        client = s3.client()
        held.callback(client.close)
        kafka = Kafka(held.enter_context(KafkaServer()))
        held.callback(kafka.close)
        yield Servers(postgres, kafka, S3Bucket.create(s3, client), folder)


def soak(on: Servers, messages: int, seed: int, minutes: float) -> Report:
    """Rounds of messages and events until there were `messages` of them or the time is over."""
    drawn = on.folder / "pictures"
    drawn.mkdir()
    with on.stage(chaos.ENVIRON) as made:
        run = chaos.Chaos(made, on.postgres, on.kafka, on.bucket, draw_pictures(drawn, 12), seed, say=_say)
        rng = random.Random(seed)
        end = time.monotonic() + minutes * 60
        left = messages
        while True:
            events = [rng.choice(list(chaos.Event)) for _ in range(ROUND_EVENTS)]
            report = run.run(min(ROUND_MESSAGES, left), events)
            left = messages - report.messages
            _say(f"round over: {report.messages} messages, {'clean' if report.clean else 'NOT CLEAN'}")
            if not report.clean or left <= 0 or time.monotonic() > end:
                report.wrong += run.close()
                return report


def rebalances(on: Servers, seed: int) -> Report:
    """A group of ingesters."""
    with on.stage(rebalance.ENVIRON) as made:
        return rebalance.Rebalance(made, on.kafka, seed, INGESTERS, _say).run(REBALANCED_MESSAGES, RESTARTS)


def floods(on: Servers, seed: int) -> Report:
    """A flood of garbage."""
    with on.stage(flood.ENVIRON) as made:
        report = flood.Flood(made, on.kafka, on.bucket, seed, say=_say).run(GARBAGE, FLOOD_S)
        if report.growth > FLAT_BYTES:
            report.wrong.append(f"the ingesting process has grown by {report.growth:,} bytes in the second half")
        return report


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20_000, help="messages of chaos")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10, help="after which no further round of chaos begins")
    parser.add_argument("--only", type=Part, choices=list(Part), help="one part")
    given = parser.parse_args()
    parts: dict[Part, Callable[[Servers], Report]] = {
        Part.REBALANCE: lambda on: rebalances(on, given.seed),
        Part.FLOOD: lambda on: floods(on, given.seed),
        Part.CHAOS: lambda on: soak(on, given.jobs, given.seed, given.minutes),
    }
    clean = True
    for part, run in parts.items():
        if given.only in (None, part):
            _say(f"--- {part}, seed {given.seed}")
            with servers() as on:
                report = run(on)
            _say("\n".join(report.lines()))
            clean = clean and report.clean
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
