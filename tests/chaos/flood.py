"""A flood of garbage with good messages in it: what it may cost, and what it must not."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from config.lanes import LANES
from intake.identity import new_id
from tests.chaos.lanes import Lanes, Sent
from tests.chaos.messages import BAD_KINDS, MESSAGE_BYTES, Draft, Fate
from tests.chaos.verdict import Verdict
from tests.e2e.stage import Stage, Worker
from tests.servers.kafka import Kafka
from tests.servers.leashed import wait_until
from tests.servers.s3 import S3Bucket

#: Of bodies in Postgres.
BUDGET_BYTES = 1 << 20
#: Between two shares of the flood.
TICK_S = 0.1

ENVIRON = {
    "MEDIAMILL_KAFKA_PARTITIONS": "4",
    "MEDIAMILL_LOG_LEVEL": "warning",
    "MEDIAMILL_MESSAGE_BYTES": str(MESSAGE_BYTES),
    "MEDIAMILL_REJECTED_BYTES": str(BUDGET_BYTES),
}


@dataclass(slots=True)
class Report(Verdict):
    """What it has cost."""

    garbage: int
    garbage_bytes: int = 0
    seconds: float = 0
    """Until the last of it was sent."""
    caught_up_s: float = 0
    """From then until the last of it was stored."""
    good: int = 0
    latency_s: list[float] = field(default_factory=list)
    """Of good ones: from the record's time until the handler was entered."""
    in_postgres: int = 0
    """Bytes of bodies."""
    in_store: int = 0
    objects: int = 0
    rss: list[int] = field(default_factory=list)
    """Of the ingesting process, in bytes: before, all along, after."""

    @property
    def growth(self) -> int:
        """Bytes of memory by which the peak of the second half is above that of the first, which warms up."""
        half = len(self.rss) // 2
        return max(self.rss[half:]) - max(self.rss[:half])

    def lines(self) -> Iterator[str]:
        """For people."""
        yield (
            f"garbage    {self.garbage:,} messages, {self.garbage_bytes >> 20} MiB, in {self.seconds:.0f} s;"
            f" caught up after {self.caught_up_s:.1f} s"
        )
        cuts = quantiles(self.latency_s, n=20) if len(self.latency_s) > 1 else [0.0] * 19
        worst = max(self.latency_s, default=0)
        yield (
            f"good ones  {self.good} ran, {median(self.latency_s or [0]):.2f} s (p50), {cuts[18]:.2f} s (p95),"
            f" {worst:.2f} s (max) after they were sent"
        )
        yield (
            f"kept       {self.in_postgres:,} bytes in Postgres (budget {BUDGET_BYTES:,}),"
            f" {self.in_store:,} in {self.objects} objects"
        )
        before, peak, after = (round(n / (1 << 20)) for n in (self.rss[0], max(self.rss), self.rss[-1]))
        yield f"memory     {before} MiB before, {peak} MiB at most, {after} MiB after"
        tenth = max(1, len(self.rss) // 10)
        peaks = (max(self.rss[at : at + tenth]) >> 20 for at in range(0, len(self.rss), tenth))
        yield f"by tenths  {', '.join(map(str, peaks))} MiB at most; second half {self.growth / (1 << 20):+.0f} MiB"
        yield from self.faults()


class Flood:
    """Sends the flood, and looks what became of it."""

    def __init__(
        self,
        stage: Stage,
        kafka: Kafka,
        bucket: S3Bucket,
        seed: int,
        roles: Sequence[Sequence[str]] = (("ingest",), ("work", "relay")),
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`roles`: of each worker; none: all. The first is the one that ingests."""
        self._stage = stage
        self._bucket = bucket
        self._rng = random.Random(seed)
        self._say = say
        self._lanes = Lanes(kafka)
        self._workers = [stage.worker(*of) for of in roles]
        self._garbage: dict[str, tuple[bytes | None, str]] = {}
        """Record's id -> sha256 of the body, and what is wrong with it."""
        self._good: dict[str, int] = {}
        """Job -> when its message was sent, in milliseconds since 1970."""

    def run(self, garbage: int, seconds: float, good_per_s: float = 10) -> Report:
        """So many bad messages in so many seconds."""
        for worker in self._workers:
            worker.wait_until_ready(120)
        report = Report(garbage)
        report.rss.append(_rss(self._workers[0]))
        self._send(report, garbage, seconds, good_per_s)
        sent = time.monotonic()
        self._wait(report)
        report.caught_up_s = time.monotonic() - sent
        self._count(report)
        return report

    def _send(self, report: Report, garbage: int, seconds: float, good_per_s: float) -> None:
        began = time.monotonic()
        ticks = max(1, round(seconds / TICK_S))
        with self._lanes.producer() as producer:
            for tick in range(ticks):
                drafts = [self._bad() for _ in range(garbage * (tick + 1) // ticks - garbage * tick // ticks)]
                wanted = round(good_per_s * TICK_S * (tick + 1)) - round(good_per_s * TICK_S * tick)
                drafts += [self._fine() for _ in range(wanted)]
                self._rng.shuffle(drafts)
                for sent in self._lanes.send_by(producer, drafts):
                    self._note(sent)
                report.rss.append(_rss(self._workers[0]))
                time.sleep(max(0.0, began + (tick + 1) * TICK_S - time.monotonic()))
                if tick % 50 == 49:
                    self._say(f"{time.monotonic() - began:5.0f} s  {len(self._garbage):,} sent; {self._kept():,} kept")
        report.seconds = time.monotonic() - began
        report.good = len(self._good)

    def _bad(self) -> Draft:
        lane = self._rng.choice(LANES)
        if self._rng.random() < 0.3:
            noise = b"\x00" + self._rng.randbytes(self._rng.randint(1 << 10, 16 << 10))
            return Draft(Fate.REJECTED, lane, noise, "noise")
        kind = self._rng.choice(sorted(BAD_KINDS))
        made = BAD_KINDS[kind](self._rng, lane)
        value, headers = made if isinstance(made, tuple) else (made, ())
        return Draft(Fate.REJECTED, lane, value, kind, b"key" if value is None else None, headers)

    def _fine(self) -> Draft:
        message = {"id": str(new_id())}
        value = f'{{"type": "test.noop", "id": "{message["id"]}", "params": {{"timed": true}}}}'
        return Draft(Fate.JOB, self._rng.choice(LANES), value.encode(), "noop", message=message)

    def _note(self, sent: Sent) -> None:
        if sent.draft.fate is Fate.JOB:
            self._good[sent.job_id] = sent.timestamp_ms
            return
        value = sent.draft.value
        self._garbage[sent.record_id] = (None if value is None else sha256(value).digest(), sent.draft.kind)

    def _wait(self, report: Report) -> None:
        def over() -> bool:
            report.rss.append(_rss(self._workers[0]))
            if self._kept() < len(self._garbage):
                return False
            return not self._rows("SELECT 1 FROM outbox LIMIT 1") and not self._live()

        wait_until(over, 300, "the end of the flood")

    def _live(self) -> bool:
        ended = self._rows("SELECT count(*)::int AS n FROM jobs WHERE finished_at IS NOT NULL")[0]["n"]
        return int(ended) < len(self._good)

    def _kept(self) -> int:
        rows = self._rows("SELECT coalesce(sum(messages), 0)::int AS n FROM rejected_counts")
        return int(rows[0]["n"])

    def _rows(self, sql: str) -> list[dict[str, Any]]:
        return self._stage.table.rows(sql)

    def _count(self, report: Report) -> None:
        self._count_good(report)
        digests: dict[str, bytes | None] = {}
        places: dict[str, list[tuple[str, int, int]]] = {}
        for row in self._rows("""
            SELECT id::text, size, sha256(body) AS digest, octet_length(body) AS bytes, body_uri, body_at
            FROM rejected_messages
        """):
            report.garbage_bytes += row["size"]
            report.in_postgres += row["bytes"] or 0
            digests[row["id"]] = None if row["digest"] is None else bytes(row["digest"])
            if row["body_uri"] is not None:
                places.setdefault(row["body_uri"], []).append((row["id"], row["body_at"], row["size"]))
        report.objects = len(places)
        for uri, of in places.items():
            key = uri.removeprefix(self._bucket.uri(""))
            body = self._bucket.client.get_object(Bucket=self._bucket.name, Key=key)["Body"].read()
            for id_, at, size in of:
                report.in_store += size
                digests[id_] = sha256(body[at : at + size]).digest()
        report.lost += [f"{id_} ({kind})" for id_, (_, kind) in self._garbage.items() if id_ not in digests]
        report.wrong += [f"rejection {id_}, of nothing that was sent" for id_ in digests.keys() - self._garbage.keys()]
        for id_, (digest, kind) in self._garbage.items():
            if id_ in digests and digests[id_] != digest:
                report.wrong.append(f"rejection {id_} ({kind}) has other bytes")
        if report.in_postgres > BUDGET_BYTES:
            report.wrong.append(f"{report.in_postgres:,} bytes of bodies in Postgres are over the budget")

    def _count_good(self, report: Report) -> None:
        rows = self._rows("""
            SELECT id::text, state, (result ->> 'began_at')::float AS began_at FROM jobs JOIN job_details USING (id)
        """)
        states = {row["id"]: row for row in rows}
        report.lost += [f"good message {id_}" for id_ in self._good.keys() - states.keys()]
        report.wrong += [f"job {id_} was never asked for" for id_ in states.keys() - self._good.keys()]
        for id_, row in states.items():
            if row["state"] != "succeeded":
                report.wrong.append(f"{id_} is {row['state']}")
            elif id_ in self._good:
                report.latency_s.append(row["began_at"] - self._good[id_] / 1000)


def _rss(worker: Worker) -> int:
    """Resident memory of a process, in bytes; 0 of one that has ended."""
    with suppress(FileNotFoundError):
        status = Path(f"/proc/{worker.pid}/status").read_text()
        if match := re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE):
            return int(match[1]) << 10
    return 0
