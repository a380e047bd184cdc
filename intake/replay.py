"""Rejected messages validated again: by people's wish, or because a build knows more than the one that refused them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from config.lanes import Lane
from handlers.registry import Registry
from intake.admission import new_job
from intake.kafka.record import Arrived, message_in
from intake.message import JobSpec, Rules, parse
from intake.problems import Problem, Refused
from intake.rejections import error_of, fingerprint_of, refused_by_postgres
from intake.submit import conflict
from storage import replay as rows
from storage.database import Connection, Database, DataError, bisected
from storage.objects.base import ObjectStore
from storage.objects.errors import ObjectError
from storage.rejected_bodies import Bodies, Sent
from storage.rejected_lookup import Filter, until_now
from storage.replay import PAGE, RefusedAgain
from storage.submit import Admission, Submitted, submit_within


@dataclass(frozen=True, slots=True)
class Door:
    """What a message has to pass: the types that this build knows, and each lane's rules."""

    registry: Registry
    rules_for: Callable[[Lane | None], Rules]
    build: str
    """Of `intake.rejections.build_of`."""

    def spec(self, lane: Lane | None, sent: Sent) -> JobSpec:
        """The job that a message asks for; raises Refused, as ingest does for the same record."""
        rules = self.rules_for(lane)
        arrived = Arrived(lane or "interactive", "", 0, 0, -1, sent.key, sent.headers, sent.body)
        return parse(message_in(arrived, rules), self.registry, rules)


class Answer(StrEnum):
    """What became of a rejected message."""

    JOB = "job"
    ALREADY = "already a job"
    """A job with its id and body, or one that holds its dedupe key, is there."""
    REFUSED = "refused"
    UNREADABLE = "unreadable"
    """Its body is in the object store, and cannot be had from there."""
    TAKEN = "taken"
    """Another replay is at it, or was."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer for one message."""

    id: uuid.UUID
    fingerprint: str
    """Of why it was refused before."""
    answer: Answer
    job_id: uuid.UUID | None = None
    problems: Sequence[Problem] = ()
    why: str | None = None
    """Of a body that cannot be read."""


class Replay:
    """Makes jobs of rejected messages that can be jobs now. Of one thread."""

    def __init__(self, database: Database, bodies: Bodies, door: Door, *, dry_run: bool = False) -> None:
        """`dry_run`: every answer is given, and nothing is changed."""
        self._database = database
        self._bodies = bodies
        self._door = door
        self._dry_run = dry_run

    def run(self, wanted: Filter, *, limit: int | None = None) -> Iterator[list[Outcome]]:
        """Replays what the filter lets through, oldest first, `limit` at most: the answers page by page, as they come.

        A page is a transaction; no body is fetched within one. Messages that come later are left alone. Two at once
        share the work. Raises DatabaseError, and StoreUnavailable: the pages before are done, and running it again
        goes on with the rest.
        """
        with self._database.transaction() as connection:
            wanted = until_now(connection, wanted)
        after: tuple[datetime, uuid.UUID] | None = None
        left = limit
        while left is None or left > 0:
            with self._database.transaction() as connection:
                page = rows.waiting(connection, wanted, most=PAGE if left is None else min(left, PAGE), after=after)
            if not page:
                return
            after = (page[-1].received_at, page[-1].id)
            left = None if left is None else left - len(page)
            yield self._replayed(page)

    def _replayed(self, page: Sequence[Any]) -> list[Outcome]:
        judged = [self._judged(row) for row in page]
        answers = bisected(judged, lambda some: self._database.retrying(lambda c: self._settled(c, some)))
        return [
            self._noted(one, answer) if isinstance(answer, DataError) else answer
            for one, answer in zip(judged, answers, strict=True)
        ]

    def _judged(self, row: Any) -> _Judged:
        try:
            return _Judged(row, self._door.spec(row.lane, self._bodies.of(row)))
        except Refused as refused:
            return _Judged(row, refused)
        except ObjectError as error:
            if not error.permanent:
                raise
            return _Judged(row, error)

    def _noted(self, one: _Judged, error: DataError) -> Outcome:
        """Postgres refuses the job: this is why the message is rejected from now on."""
        again = _Judged(one.row, refused_by_postgres(error))
        [outcome] = self._database.retrying(lambda connection: self._settled(connection, [again]))
        return outcome

    def _settled(self, connection: Connection, judged: Sequence[_Judged]) -> list[Outcome]:
        if not self._dry_run:
            return self._written(connection, judged)
        with rows.undone(connection):
            return self._written(connection, judged)

    def _written(self, connection: Connection, judged: Sequence[_Judged]) -> list[Outcome]:
        mine = rows.lock(connection, [one.row.id for one in judged])
        ours = [one for one in judged if one.row.id in mine]
        jobs = [(one, one.verdict) for one in ours if isinstance(one.verdict, JobSpec)]
        submitted = submit_within(
            connection, [new_job(spec, spec.id or one.row.id, one.row.trace) for one, spec in jobs]
        )
        admitted = {one.row.id: answer for (one, _), answer in zip(jobs, submitted, strict=True)}
        outcomes = [one.outcome(one.row.id in mine, admitted.get(one.row.id)) for one in judged]
        rows.became(connection, {o.id: o.job_id for o in outcomes if o.job_id is not None})
        rows.refused_again(connection, [self._again(o) for o in outcomes if _is_refused(o)])
        return outcomes

    def _again(self, outcome: Outcome) -> RefusedAgain:
        if outcome.answer is Answer.UNREADABLE:
            return RefusedAgain(outcome.id, self._door.build)
        return RefusedAgain(
            outcome.id,
            self._door.build,
            error_of(outcome.problems),
            fingerprint_of(outcome.problems),
            Refused(outcome.problems).may_be_newer,
        )


def _is_refused(outcome: Outcome) -> bool:
    return outcome.answer in (Answer.REFUSED, Answer.UNREADABLE)


@dataclass(frozen=True, slots=True)
class _Judged:
    """A message's row, and what this build says of it."""

    row: Any
    verdict: JobSpec | Refused | ObjectError

    def outcome(self, is_mine: bool, submitted: Submitted | None) -> Outcome:
        id_, fingerprint = self.row.id, self.row.fingerprint
        if not is_mine:
            return Outcome(id_, fingerprint, Answer.TAKEN)
        if isinstance(self.verdict, Refused):
            return Outcome(id_, fingerprint, Answer.REFUSED, problems=self.verdict.problems)
        if isinstance(self.verdict, ObjectError):
            return Outcome(id_, fingerprint, Answer.UNREADABLE, why=str(self.verdict))
        assert submitted is not None
        if submitted.admission is Admission.CONFLICT:
            return Outcome(id_, fingerprint, Answer.REFUSED, problems=[conflict(submitted.job_id)])
        answer = Answer.JOB if submitted.admission is Admission.INSERTED else Answer.ALREADY
        return Outcome(id_, fingerprint, answer, job_id=submitted.job_id)


@dataclass(frozen=True, slots=True)
class Revalidated:
    """What a build made of messages that an older one had refused."""

    jobs: int = 0
    refused: int = 0


def revalidate(database: Database, store: ObjectStore, scratch: Path, door: Door, *, most: int = PAGE) -> Revalidated:
    """Validates messages again that an older build refused for a name that this one may know, `most` at a time.

    Those that pass are jobs now; of the others it is noted that this build refuses them, and why. To be called now and
    then by every process of a build, and again at once while it finds some. Raises DatabaseError and ObjectError.
    """
    jobs = refused = 0
    with database.transaction() as connection:
        older = rows.older_builds(connection, door.build)
    with Bodies(store, scratch) as bodies:
        for build in older:
            wanted = Filter(builds=[build], may_be_newer=True)
            for page in Replay(database, bodies, door).run(wanted, limit=most - jobs - refused):
                jobs += sum(one.job_id is not None for one in page)
                refused += sum(_is_refused(one) for one in page)
    return Revalidated(jobs, refused)
