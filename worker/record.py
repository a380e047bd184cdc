"""The recorder: ends of attempts, gathered into one transaction.

What is handed to it will be written, or be known not to be ours: it holds results through an outage of the database and
looks, after a commit whose answer was lost, whether it had happened.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from storage import settle as settling
from storage import spaces
from storage.claim import hold_worker
from storage.database import Connection, Database, bisected
from storage.settle import Rules, Settlement
from storage.submit import NewJob, submit_within
from worker.metrics import Metrics
from worker.outage import Patience

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class FenceLost(Exception):
    """The row was no longer ours: nothing was written."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that a job read or made, which must have its embedding when the job has succeeded."""

    sha256: bytes
    uri: str
    version_id: str | None
    etag: str | None


@dataclass(frozen=True, slots=True)
class Record:
    """One end of an attempt, on its way into the database."""

    settlement: Settlement
    handed_over: float
    """`time.monotonic()` when the recorder got it."""
    pictures: Sequence[Picture] = ()
    tenant: str = "default"
    lane: str = "backfill"
    type: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    """Those of the settlement, if it has any; the recorder adds its own."""


#: Makes the `image.embed` job of a picture that lacks its embedding in a space.
EmbedJob = Callable[[Record, Picture, spaces.Space], NewJob]


class Recorder:
    """Writes records; `write` is what a `Group` calls."""

    def __init__(
        self,
        database: Database,
        worker: uuid.UUID,
        *,
        rules: Rules,
        metrics: Metrics,
        embed_job: EmbedJob,
        patience: Patience,
    ) -> None:
        self._database = database
        self._worker = worker
        self._rules = rules
        self._metrics = metrics
        self._embed_job = embed_job
        self._patience = patience

    def write(self, records: Sequence[Record]) -> list[str | Exception]:
        """Writes all records; answers the state that follows for each, FenceLost, or the DataError of a bad row.

        Blocks through an outage of the database. Raises WorkerRetired.
        """
        self._metrics.observe("record_batch_size", len(records))
        written = self._patience.through("record", lambda: bisected(records, self._together))
        log.info("ends recorded", jobs=len(records), **Counter(map(_word, written)))
        self._count(records, written)
        return list(written)

    def _count(self, records: Sequence[Record], written: Sequence[str | Exception]) -> None:
        ends = [(record, state) for record, state in zip(records, written, strict=True) if isinstance(state, str)]
        for (type_, ending), n in Counter((r.type, r.settlement.ending.value) for r, _ in ends).items():
            self._metrics.count("attempts_total", n, type=type_, ending=ending)
        for (type_, lane, state), n in Counter((r.type, r.lane, state) for r, state in ends).items():
            if state != "queued":
                self._metrics.count("jobs_finished_total", n, type=type_, lane=lane, state=state)

    def _together(self, records: Sequence[Record]) -> list[str | FenceLost]:
        states = self._database.retrying(
            lambda connection: self._transaction(connection, records), conflict=self._deadlock
        )
        return [states.get(record.settlement.id, FenceLost(str(record.settlement.id))) for record in records]

    def _deadlock(self) -> None:
        self._metrics.count("record_retries_total", reason="deadlock")

    def _transaction(self, connection: Connection, records: Sequence[Record]) -> dict[uuid.UUID, str]:
        hold_worker(connection, self._worker)
        # Held FOR SHARE: a cut-over to another space must not happen between this look and this write.
        if any(record.pictures for record in records):
            spaces.live(connection, shared=True)
        now = time.monotonic()
        for record in records:
            record.timings["record"] = round(now - record.handed_over, 6)
        states = settling.settle(connection, [record.settlement for record in records], self._rules)
        mine = [record for record in records if record.settlement.id in states]
        self._complete_embeddings(connection, [r for r in mine if states[r.settlement.id] == "succeeded"])
        rest = [record.settlement for record in records if record.settlement.id not in states]
        return states | settling.already_settled(connection, rest)

    def _complete_embeddings(self, connection: Connection, records: Sequence[Record]) -> None:
        pictures = {p.sha256.hex(): (record, p) for record in records for p in record.pictures}
        missing = spaces.missing(connection, list(pictures))
        if missing:
            submit_within(connection, [self._embed_job(*pictures[gap.content], gap.space) for gap in missing])


def _word(state: str | Exception) -> str:
    return state if isinstance(state, str) else type(state).__name__
