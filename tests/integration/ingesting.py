"""Ingest on the test servers: in a thread of its own, with what it says of itself kept."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kafka.errors import RetriableError

from config.lanes import LANES, Lane
from config.settings import Settings
from handlers.registry import Registry
from handlers.test.noop import Noop
from intake.identity import new_id
from intake.kafka.consumer import GroupConsumer
from intake.kafka.ingest import Ingest
from intake.kafka.options import KafkaOptions
from intake.kafka.reads import Reads
from intake.kafka.signals import Culprit, Outcome, PauseReason, RebuildReason
from intake.message import Rules
from storage.database import Database
from storage.rejections import NewRejection
from tests.fixtures import JobTable
from tests.servers.kafka import Kafka
from tests.servers.leashed import wait_until

WITHIN_S = 20.0


def noop(**more: Any) -> bytes:
    """The smallest message."""
    return json.dumps({"type": "test.noop", **more}).encode()


def with_id(**more: Any) -> bytes:
    """The smallest message, as a careful client sends it."""
    return noop(id=str(new_id()), **more)


class Heard:
    """What ingest has said of itself."""

    def __init__(self) -> None:
        self.turns = 0
        self.states: list[tuple[bool, str]] = []
        self.outcomes: Counter[Outcome] = Counter()
        self.failures: Counter[Culprit] = Counter()
        self.rebuilds: list[RebuildReason] = []
        self.lags: dict[Lane, int] = {}
        self.pauses: set[tuple[Lane, PauseReason]] = set()
        self.lost_messages: Counter[Lane] = Counter()
        self.unacknowledged: int | None = None

    @property
    def ok(self) -> bool:
        return bool(self.states) and self.states[-1][0]

    @property
    def why(self) -> str:
        return self.states[-1][1] if self.states else ""

    def pulse(self) -> None:
        self.turns += 1

    def state(self, ok: bool, why: str) -> None:
        self.states.append((ok, why))

    def received(self, lane: Lane, outcome: Outcome, messages: int) -> None:
        self.outcomes[outcome] += messages

    def failed(self, culprit: Culprit) -> None:
        self.failures[culprit] += 1

    def rebuilt(self, reason: RebuildReason) -> None:
        self.rebuilds.append(reason)

    def lag(self, lane: Lane, messages: int) -> None:
        self.lags[lane] = messages

    def paused(self, lane: Lane, why: PauseReason, is_paused: bool) -> None:
        (self.pauses.add if is_paused else self.pauses.discard)((lane, why))

    def lost(self, lane: Lane, messages: int) -> None:
        self.lost_messages[lane] += messages

    def lost_ranges(self, unacknowledged: int) -> None:
        self.unacknowledged = unacknowledged


class Ingester:
    """One process's ingest, as a thread."""

    def __init__(self, kafka: Kafka, database: Database, *, reads: Reads, **more: Any) -> None:
        self.heard = Heard()
        self.stop_event = threading.Event()
        self.error: Exception | None = None
        settings = Settings.load(environ=kafka.environ, files=[]).settings
        options = KafkaOptions.of(settings)
        assert options is not None
        keywords: dict[str, Any] = {"build": "test", "place": list[NewRejection], "signals": self.heard} | more
        rules = {lane: Rules.of(settings, lane=lane) for lane in LANES}
        self.ingest = Ingest(
            dataclasses.replace(options, request_s=5), reads, database, Registry([Noop]), rules, **keywords
        )
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.ingest.run(self.stop_event)
        except Exception as error:  # noqa: BLE001 the test's own thread raises it, see Stage.until
            self.error = error

    def start(self) -> Ingester:
        self._thread.start()
        return self

    def stop(self, within_s: float = 15) -> None:
        """Raises AssertionError where it does not end."""
        self.stop_event.set()
        self._thread.join(within_s)
        assert not self._thread.is_alive(), "ingest does not end"
        assert self.error is None

    def __enter__(self) -> Ingester:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()


class Stage:
    """A broker with the topics of all lanes, a database, and as many ingesters as a test wants."""

    def __init__(self, kafka: Kafka, database: Database, partitions: int = 1) -> None:
        self.kafka = kafka
        self.database = database
        self.table = JobTable(database)
        self._made: list[Ingester] = []
        settings = Settings.load(environ=kafka.environ, files=[]).settings
        self.reads = dataclasses.replace(
            Reads.of(settings), poll_s=0.1, session_s=6, heartbeat_s=0.5, metadata_s=0.5, survey_s=0.3, most_wait_s=0.3,
            answer_s=3,
        )  # fmt: skip
        self.topics = settings.lane_topics
        for lane in LANES:
            kafka.create_named(self.topics[lane], partitions)

    def ingester(self, *, open_consumer: Callable[..., GroupConsumer] = GroupConsumer, **more: Any) -> Ingester:
        """One that is not started yet; `more` goes over `reads` or to Ingest."""
        names = {field.name for field in dataclasses.fields(Reads)}
        reads = dataclasses.replace(self.reads, **{key: more.pop(key) for key in list(more) if key in names})
        database = more.pop("database", self.database)
        self._made.append(Ingester(self.kafka, database, reads=reads, open_consumer=open_consumer, **more))
        return self._made[-1]

    def send(self, *values: bytes | str | None, lane: Lane = "interactive", **more: Any) -> list[tuple[int, int]]:
        return self.kafka.produce(self.topics[lane], *values, **more)

    def count(self, table: str = "jobs") -> int:
        found: int = self.table.rows(f"SELECT count(*)::int AS n FROM {table}")[0]["n"]
        return found

    def until(self, happens: Callable[[], bool], what: str, within_s: float = WITHIN_S) -> None:
        """Raises TimeoutError, or what an ingester has died of."""

        def it() -> bool:
            for one in self._made:
                if one.error is not None:
                    raise one.error
            return happens()

        wait_until(it, within_s, what)

    def until_jobs(self, n: int) -> None:
        self.until(lambda: self.count() >= n, f"{n} jobs ({self.count()} there)")

    def until_committed(self, lane: Lane, offset: int, partition: int = 0) -> None:
        self.until(lambda: self.committed(lane, partition) == offset, f"a commit of {offset} in {lane}")

    def committed(self, lane: Lane = "interactive", partition: int = 0) -> int | None:
        try:
            return self.kafka.committed(self.topics[lane]).get(partition)
        except RetriableError:  # the broker has only begun to look for the group
            return None


@contextmanager
def running(*ingesters: Ingester) -> Iterator[None]:
    """All of them, until the end of the block."""
    for one in ingesters:
        one.start()
    try:
        yield
    finally:
        for one in ingesters:
            one.stop_event.set()
        for one in ingesters:
            one.stop()
