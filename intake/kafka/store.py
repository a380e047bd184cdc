"""One batch of records into the tables: jobs and rejections in one transaction, again until it is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import structlog

from config.lanes import Lane
from intake.kafka.judge import Judge
from intake.kafka.positions import Partition
from intake.kafka.record import Arrived
from intake.kafka.signals import Outcome
from intake.problems import Code, Problem, safe
from intake.submit import conflict
from storage.database import Connection, Database, DataError, TooSlow, Unreachable, bisected
from storage.ingest import LostRange, record_lost
from storage.rejections import NewRejection, reject_within
from storage.submit import Admission, NewJob, Submitted, submit_within

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

#: What one statement carries at most, unless one message alone is more: 500 of a megabyte would be half a gigabyte.
STATEMENT_BYTES = 16 << 20

#: Puts what is too much for Postgres into the object store; see `storage.rejected_bodies.Overflow.place`.
Placing = Callable[[Sequence[NewRejection]], Sequence[NewRejection]]

_OUTCOMES = {
    Admission.INSERTED: Outcome.JOB,
    Admission.DUPLICATE: Outcome.DUPLICATE,
    Admission.DEDUPLICATED: Outcome.DEDUPLICATED,
}


@dataclass(frozen=True, slots=True)
class Judged:
    """A record, and what it is to be stored as."""

    arrived: Arrived
    verdict: NewJob | NewRejection


@dataclass(slots=True)
class Batch:
    """What is stored together; then its offsets are committed, and not before."""

    cluster_id: str
    judged: list[Judged] = field(default_factory=list)
    lost: list[LostRange] = field(default_factory=list)
    offsets: dict[Partition, int] = field(default_factory=dict)
    """The next offset to be read of each partition that it has records of."""
    placed: bool = False
    """Whether the bodies of its rejections are where they are to be kept: once for all its tries."""
    at_once: int = 1 << 30
    """Records in a transaction: fewer once that was too slow."""

    def parts(self) -> Iterator[Sequence[Judged]]:
        """What is written in one transaction each."""
        part, size = list[Judged](), 0
        for one in self.judged:
            bytes_ = len(one.arrived.value or b"")
            if part and (len(part) >= self.at_once or size + bytes_ > STATEMENT_BYTES):
                yield part
                part, size = [], 0
            part.append(one)
            size += bytes_
        if part:
            yield part

    def scheduled(self, lane: Lane) -> int:
        """How many of its messages for a lane ask for a later time."""
        now = datetime.now(UTC)
        jobs = (one.verdict for one in self.judged if isinstance(one.verdict, NewJob) and one.verdict.lane == lane)
        return sum(job.run_after is not None and job.run_after > now for job in jobs)

    def __bool__(self) -> bool:
        return bool(self.judged or self.lost or self.offsets)


Outcomes = Mapping[tuple[Lane, Outcome], int]


class Storage:
    """Writes batches."""

    def __init__(self, database: Database, judge: Judge, place: Placing) -> None:
        self._database = database
        self._judge = judge
        self._place = place

    def write(self, batch: Batch) -> Outcomes:
        """Stores a batch, and says what has become of its records. Writing it again changes nothing.

        A row that Postgres refuses becomes a rejection; its neighbours are stored. Raises DatabaseError and ObjectError
        where nothing, or not all, could be stored: the batch is to be held and written again.
        """
        if not batch.placed:
            batch.judged = self._placed(batch.judged)
            batch.placed = True
        if batch.lost:
            with self._database.transaction() as connection:
                record_lost(connection, batch.lost)
        if not batch.judged:
            return {}
        answers = [answer for part in batch.parts() for answer in self._written(batch, part)]
        late = [
            Judged(judged.arrived, self._rejection(judged, answer, batch.cluster_id))
            for judged, answer in zip(batch.judged, answers, strict=True)
            if not isinstance(answer, Outcome)
        ]
        if late:
            self._write(self._placed(late))
        return Counter(
            (judged.arrived.lane, answer if isinstance(answer, Outcome) else Outcome.REJECTED)
            for judged, answer in zip(batch.judged, answers, strict=True)
        )

    def _written(self, batch: Batch, part: Sequence[Judged]) -> list[Outcome | Problem | DataError]:
        def write(judged: Sequence[Judged]) -> list[Outcome | Problem]:
            try:
                return self._write(judged)
            except TooSlow as error:
                # Half of it with the next try, and not within this one: behind a lock each half would wait as long, and
                # meanwhile nobody polls.
                batch.at_once = max(1, len(judged) // 2)
                raise Unreachable(str(error)) from error

        return bisected(part, write)

    def _rejection(self, judged: Judged, answer: Problem | DataError, cluster_id: str) -> NewRejection:
        """Of a record that the tables do not take as what it was judged to be."""
        if isinstance(answer, DataError):
            first = str(answer).partition("\n")[0]
            log.error("Postgres refuses a value that validation let pass", topic=judged.arrived.topic, error=first)
            answer = Problem("", Code.BAD_VALUE, f"Postgres refuses it: {safe(first, 300)}", "")
        rejection = self._judge.rejection(judged.arrived, cluster_id, answer)
        # What is refused even as a rejection is kept by its bytes alone.
        bare = isinstance(judged.verdict, NewRejection)
        return replace(rejection, headers=(), key=None, trace=None) if bare else rejection

    def _write(self, judged: Sequence[Judged]) -> list[Outcome | Problem]:
        """In one transaction: what became of each; a Problem where a job's id is taken, which is yet to be rejected."""
        jobs = [one.verdict for one in judged if isinstance(one.verdict, NewJob)]
        rejections = [one.verdict for one in judged if isinstance(one.verdict, NewRejection)]

        def transaction(connection: Connection) -> list[Submitted]:
            submitted = submit_within(connection, jobs) if jobs else []
            reject_within(connection, rejections)
            return submitted

        answers = iter(self._database.retrying(transaction))
        became: list[Outcome | Problem] = []
        for one in judged:
            if isinstance(one.verdict, NewRejection):
                became.append(Outcome.REJECTED)
                continue
            answer = next(answers)
            if answer.admission is Admission.CONFLICT:
                became.append(conflict(answer.job_id))
                continue
            became.append(_OUTCOMES[answer.admission])
        return became

    def _placed(self, judged: Sequence[Judged]) -> list[Judged]:
        rejections = [one.verdict for one in judged if isinstance(one.verdict, NewRejection)]
        if not rejections:
            return list(judged)
        placed = iter(self._place(rejections))
        return [replace(one, verdict=next(placed)) if isinstance(one.verdict, NewRejection) else one for one in judged]
