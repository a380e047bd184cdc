"""What the tests of the relay have in common: jobs that end, and a relay that runs in a thread."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from storage import destinations
from storage.database import Database
from storage.settle import Ending, Rules, Settlement, settle
from tests.fixtures import JobTable
from worker.backoff import Backoff
from worker.health import Check, Health
from worker.metrics import Metrics
from worker.publisher import Publisher
from worker.relay import Pace, Relay

#: Quick, so that no test waits for a turn.
QUICK = Pace(busy_s=0.005, idle_s=0.02, away_s=0.02, look_s=0.02, tries=3)
AT_ONCE = Backoff(0, 0, random.Random(1))
TOPICS = {destinations.RESULTS: "results"}
NO = {"type": "InvalidInput", "message": "no picture"}


def end_jobs(table: JobTable, n: int = 1, ending: Ending = Ending.SUCCEEDED, **more: Any) -> list[uuid.UUID]:
    """`n` jobs that have come to an end; `more` are fields of NewJob."""
    ids = table.add(n, **more)
    end_again(table, ids, ending)
    return ids


def end_again(table: JobTable, ids: list[uuid.UUID], ending: Ending = Ending.SUCCEEDED) -> None:
    """Claims queued jobs and ends their attempts."""
    claimed = table.claim(table.worker(), len(ids))
    assert {job.fence.id for job in claimed} == set(ids)
    more: dict[str, Any] = {"result": {"n": 1}} if ending is Ending.SUCCEEDED else {"error": NO}
    with table.database.transaction() as connection:
        settle(connection, [Settlement.of(job.fence, ending, **more) for job in claimed], Rules())


def ensure(database: Database, cluster: str | None = "here", topics: Mapping[str, str] = TOPICS) -> None:
    """The destinations, as a worker makes them at its start."""
    with database.transaction() as connection:
        for name, topic in topics.items():
            destinations.ensure(connection, name, topic, cluster)


class Running:
    """A relay and what it says of itself."""

    def __init__(self, database: Database, publisher: Publisher, pace: Pace, topics: Mapping[str, str]) -> None:
        self.health, self.metrics = Health(), Metrics()
        self.relay = Relay(
            database,
            publisher,
            topics=topics,
            health=self.health,
            metrics=self.metrics,
            backoff=AT_ONCE,
            pace=pace,
        )
        self.stop = threading.Event()

    def outbox(self) -> Check | None:
        """What it says of the outbox."""
        return next((check for check in self.health.checks() if check.name == "outbox"), None)

    def run(self) -> None:
        self.relay.run(self.stop)


@contextmanager
def relaying(
    database: Database, publisher: Publisher, pace: Pace = QUICK, topics: Mapping[str, str] = TOPICS
) -> Iterator[Running]:
    """A relay in a thread, told to stop at the end."""
    running = Running(database, publisher, pace, topics)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        yield running
    finally:
        running.stop.set()
        running.relay.wake()
        thread.join(30)
        assert not thread.is_alive()


def outbox_rows(table: JobTable) -> list[dict[str, Any]]:
    """The outbox, oldest first."""
    return table.rows("SELECT * FROM outbox ORDER BY seq")
