"""Jobs of the command line into the tables: many in a transaction, an answer for each.

A client makes the id of its job before it sends it, so that sending again is the same job: this one does so too.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

from intake.admission import new_job
from intake.identity import new_id
from intake.message import JobSpec
from intake.problems import Code, Problem, Refused
from storage.database import Database, DataError, bisected
from storage.submit import Admission, NewJob, Submitted, submit

T = TypeVar("T")

#: Jobs in a transaction: enough that its round trips cost little, few enough that it holds no key for long.
BATCH = 500


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message that is a job now, or was one before."""

    line: int
    spec: JobSpec
    submitted: Submitted


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that is no job, and why."""

    line: int
    problems: Sequence[Problem]


Answer = Accepted | Rejected


def submit_specs(database: Database, specs: Sequence[JobSpec]) -> list[Submitted]:
    """Stores valid messages as jobs and says what became of each, in their order; `BATCH` in a transaction.

    Raises DataError where Postgres refuses a value: the batches before are stored.
    """
    jobs = iter([new_job(spec, spec.id or new_id()) for spec in specs])
    return [answer for batch in batches(jobs, BATCH) for answer in submit(database, batch)]


def submit_lines(
    database: Database, lines: Iterable[tuple[int, JobSpec | Refused]], *, batch: int = BATCH
) -> Iterator[Answer]:
    """Stores what is valid of numbered messages; an answer for each, in their order, as soon as its batch is stored.

    A message that Postgres refuses is found by bisection and costs no other its place.
    """
    for numbered in batches(iter(lines), batch):
        jobs = [
            (line, spec, new_job(spec, spec.id or new_id())) for line, spec in numbered if not isinstance(spec, Refused)
        ]
        stored = _store(database, [job for _, _, job in jobs])
        answers = {line: _answer(line, spec, one) for (line, spec, _), one in zip(jobs, stored, strict=True)}
        for line, spec in numbered:
            yield Rejected(line, spec.problems) if isinstance(spec, Refused) else answers[line]


def _answer(line: int, spec: JobSpec, outcome: Submitted | DataError) -> Answer:
    if isinstance(outcome, DataError):
        first = str(outcome).partition("\n")[0]
        return Rejected(line, [Problem("", Code.BAD_VALUE, f"Postgres refuses it: {first}", "")])
    if outcome.admission is Admission.CONFLICT:
        return Rejected(line, [conflict(outcome.job_id)])
    return Accepted(line, spec, outcome)


def conflict(id_: uuid.UUID) -> Problem:
    """The problem of an id that another message has."""
    return Problem("/id", Code.CONTRADICTION, f"is {id_}, the id of a job with another body", "make a new id, or none")


def _store(database: Database, jobs: Sequence[NewJob]) -> list[Submitted | DataError]:
    """The answers in the order of the jobs."""
    return bisected(jobs, partial(submit, database))


def batches(items: Iterator[T], most: int) -> Iterator[list[T]]:
    """Lists of at most `most` items."""
    while batch := list(islice(items, most)):
        yield batch
