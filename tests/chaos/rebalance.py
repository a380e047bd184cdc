"""Many ingesters of one group, restarted by chance while they read: no message is lost, and none is a job twice."""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from config.lanes import LANES
from intake.identity import new_id
from storage.database import Unreachable
from tests.chaos.lanes import Lanes
from tests.chaos.messages import Draft, Fate
from tests.chaos.verdict import Verdict
from tests.e2e.stage import Stage, Worker
from tests.servers.kafka import Kafka

ENVIRON = {
    "MEDIAMILL_LANE_CAP": "10000000",  # nobody runs the jobs
    "MEDIAMILL_KAFKA_PARTITIONS": "12",
    "MEDIAMILL_LOG_LEVEL": "info",
}
#: Seconds between two restarts, at least and at most: some fall into the rebalance after the one before. A share of the
#: messages is sent after each, so that there is something to read.
MOMENT_S = (0.2, 5.0)
#: When nothing is stored for so long after the last restart, something is stuck: members that died while they joined
#: hold the group up for several session times, one after the other.
STUCK_S = 120.0

_DUPLICATES = re.compile(r'^mediamill_ingest_messages_total\{.*outcome="duplicate".*\} ([0-9.e+]+)$', re.MULTILINE)
_REBALANCED = "partitions are read"


@dataclass(slots=True)
class Report(Verdict):
    """What is left when all is over."""

    messages: int
    ingesters: int
    kills: int = 0
    terminations: int = 0
    seconds: float = 0
    """From the first message until the last is stored."""
    standstill_s: float = 0
    """The longest time in which nothing was stored."""
    redelivered: int = 0
    """Messages that were stored before: at least, since a killed process no longer says what it did last."""
    generations: int = 0
    """Of the group: one for each rebalance."""

    def lines(self) -> Iterator[str]:
        """For people."""
        yield (
            f"messages   {self.messages:,} by {self.ingesters} ingesters in {self.seconds:.0f} s:"
            f" {self.messages / self.seconds:,.0f} a second"
        )
        yield f"restarts   {self.kills} by SIGKILL, {self.terminations} by SIGTERM; generation {self.generations}"
        yield f"standstill {self.standstill_s:.1f} s, the longest"
        yield f"redelivery {self.redelivered:,} messages, at least"
        yield from self.faults()


class Rebalance:
    """Runs a group of ingesters through restarts."""

    def __init__(
        self, stage: Stage, kafka: Kafka, seed: int, ingesters: int = 8, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self._stage = stage
        self._rng = random.Random(seed)
        self._say = say
        self._lanes = Lanes(kafka)
        self._workers = [stage.worker("ingest") for _ in range(ingesters)]
        self._leaving: list[tuple[Worker, bool]] = []
        """Told to end; and whether they were up."""
        self._started = self._moved = time.monotonic()
        self._stored = 0
        self._report = Report(0, ingesters)

    def run(self, messages: int, restarts: int) -> Report:
        """Sends all messages, restarts ingesters while they are read, waits for the rest, and counts."""
        for worker in self._workers:
            worker.wait_until_ready(120)
        self._report.messages = messages
        drafts = [self._draft() for _ in range(messages)]
        size = -(-messages // (restarts + 1))
        kinds = ([signal.SIGKILL, signal.SIGTERM] * restarts)[:restarts]
        self._started = self._moved = time.monotonic()
        with ThreadPoolExecutor(1) as sender:
            sent = [sender.submit(self._lanes.send, drafts[:size])]
            for n, kind in enumerate(self._rng.sample(kinds, restarts), 1):
                self._wait(messages, self._rng.uniform(*MOMENT_S))
                self._restart(kind)
                sent.append(sender.submit(self._lanes.send, drafts[n * size : (n + 1) * size]))
            for each in sent:
                each.result()
        self._wait(messages, None)
        self._report.seconds = time.monotonic() - self._started
        self._end()
        self._count()
        return self._report

    def _draft(self) -> Draft:
        """Every other one names its id."""
        lane = self._rng.choice(LANES)
        id_ = f'"id": "{new_id()}", ' if self._rng.random() < 0.5 else ""
        value = f'{{"type": "test.noop", {id_}"labels": {{"n": "{self._rng.getrandbits(40)}"}}}}'
        return Draft(Fate.JOB, lane, value.encode(), "noop", message={"id": id_[7:43]} if id_ else {})

    def _restart(self, kind: signal.Signals) -> None:
        place = self._rng.randrange(len(self._workers))
        worker = self._workers[place]
        self._say(f"{time.monotonic() - self._started:5.0f} s  {kind.name}; stored so far: {self._stored:,}")
        up = self._note(worker)
        if kind is signal.SIGKILL:
            worker.kill()
            self._report.kills += 1
        else:
            worker.signal(kind)
            self._leaving.append((worker, up))
            self._report.terminations += 1
        self._workers[place] = self._stage.worker("ingest")

    def _note(self, worker: Worker) -> bool:
        """What it says of itself before it ends; whether it is up."""
        status, text = worker.get("/metrics")
        self._report.redelivered += sum(int(float(n)) for n in _DUPLICATES.findall(text.decode()))
        return status == 200

    def _wait(self, stored: int, within_s: float | None) -> None:
        """Until so much is stored, or that time is over."""
        began = time.monotonic()
        while True:
            now = time.monotonic()
            if (count := self._count_jobs()) != self._stored:
                self._stored, self._moved = count, now
            self._report.standstill_s = max(self._report.standstill_s, now - self._moved)
            if self._stored >= stored or (within_s is not None and now - began > within_s):
                return
            if now - max(self._moved, began) > STUCK_S:
                said = "\n".join(f"--- {worker.log.name}\n{worker.said()}" for worker in self._workers)
                raise AssertionError(f"stored {self._stored:,} of {stored:,}, and nothing more for {STUCK_S} s\n{said}")
            time.sleep(0.2)

    def _count_jobs(self) -> int:
        try:
            rows = self._stage.table.rows("SELECT coalesce(sum(delta), 0)::int AS n FROM job_counts")
        except Unreachable:
            return self._stored
        return int(rows[0]["n"])

    def _end(self) -> None:
        for worker in self._workers:
            self._leaving.append((worker, self._note(worker)))
            worker.signal(signal.SIGTERM)
        for worker, up in self._leaving:
            code = worker.wait(60)
            # One that was not up yet simply dies of the signal.
            if code != 0 and (up or code != -signal.SIGTERM):
                self._report.wrong.append(f"an ingester ended with {code}:\n{worker.said()}")

    def _count(self) -> None:
        jobs = {str(row["id"]) for row in self._stage.table.rows("SELECT id FROM jobs")}
        wanted = {sent.job_id for sent in self._lanes.sent}
        self._report.lost += sorted(wanted - jobs)
        self._report.doubled += sorted(jobs - wanted)
        again = self._stage.table.rows("SELECT id FROM job_events GROUP BY id HAVING count(*) > 1")
        self._report.doubled += [f"{row['id']} was submitted twice" for row in again]
        for table in ("rejected_messages", "lost_ranges"):
            if n := self._stage.table.rows(f"SELECT count(*)::int AS n FROM {table}")[0]["n"]:
                self._report.wrong.append(f"{n} rows in {table}")
        if unread := self._lanes.unread():
            self._report.wrong.append(f"{unread} messages are stored and not committed")
        generations = re.findall(
            rf'(?:"generation": (\d+).*{_REBALANCED}|{_REBALANCED}.*"generation": (\d+))',
            "\n".join(worker.log.read_text(errors="replace") for worker in self._stage.workers),
        )
        self._report.generations = max((int(a or b) for a, b in generations), default=0)
