"""Waiting for jobs: polls their state, shows how far they are, and says what came of them."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from console import output
from console.job_view import brief
from storage import jobs

if TYPE_CHECKING:
    from storage.database import Database

#: How many ids one look asks for: a look stays a matter of milliseconds.
_AT_ONCE = 2000
_LEAST_PAUSE_S = 0.02
_MOST_PAUSE_S = 0.5
_PLAIN_EVERY_S = 5.0
_MOST_SHOWN = 20


def wait_for(database: Database, ids: Sequence[uuid.UUID], *, quiet: bool) -> dict[uuid.UUID, str]:
    """Returns the final state of each job when all have ended. Raises Unreachable when the database goes away."""
    pending = list(dict.fromkeys(ids))
    states: dict[uuid.UUID, str] = {}
    pause = _LEAST_PAUSE_S
    with _progress(len(pending), quiet) as progress:
        while True:
            ended = _ended(database, pending[:_AT_ONCE])
            states |= ended
            progress.advance(ended)
            pending = [id_ for id_ in pending if id_ not in ended]
            if not pending:
                return {id_: states[id_] for id_ in ids}
            pause = _LEAST_PAUSE_S if ended else min(pause * 1.5, _MOST_PAUSE_S)
            time.sleep(pause)


def _ended(database: Database, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]:
    with database.transaction() as connection:
        found = jobs.finished_at(connection, ids)
    return {id_: state for id_, (state, ended) in found.items() if ended is not None}


class _Progress(Protocol):
    def advance(self, ended: Mapping[uuid.UUID, str]) -> None:
        """These have ended since the last call."""


class _Silent:
    def advance(self, ended: Mapping[uuid.UUID, str]) -> None:
        """Says nothing."""


class _Lines:
    """A line now and then, for logs."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._states: Counter[str] = Counter()
        self._last = time.monotonic()

    def advance(self, ended: Mapping[uuid.UUID, str]) -> None:
        """Counts; a line at most every few seconds."""
        self._states.update(ended.values())
        if time.monotonic() - self._last >= _PLAIN_EVERY_S:
            self._last = time.monotonic()
            said = ", ".join(f"{count} {state}" for state, count in sorted(self._states.items()))
            output.note(f"{self._states.total()} of {self._total} have ended{': ' if said else ''}{said}")


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[_Progress]:
    if quiet or not total:
        yield _Silent()
    elif not output.on_terminal():
        yield _Lines(total)
    else:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=output.terminal(stderr=True), transient=True) as bar:
            yield _Bar(bar, total)


class _Bar:
    def __init__(self, bar: Any, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("waiting", total=total)

    def advance(self, ended: Mapping[uuid.UUID, str]) -> None:
        """Moves the bar."""
        self._bar.advance(self._task, len(ended))


def tell(database: Database, states: Mapping[uuid.UUID, str], *, details: bool) -> None:
    """What came of the jobs: of one all that matters, of many how they ended, and the first that did not succeed."""
    if details:
        for id_ in states:
            with database.transaction() as connection:
                record = jobs.show(connection, id_)
            if record is not None:
                brief(record)
        return
    counts = Counter(states.values())
    output.line(", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "nothing to wait for")
    unhappy = [id_ for id_, state in states.items() if state != "succeeded"]
    for id_, job in records(database, unhappy[:_MOST_SHOWN]).items():
        error = job["error"] or {}
        output.line(f"{id_}  {job['state']}  {error.get('type', '')}: {error.get('message', '')}")
    if len(unhappy) > _MOST_SHOWN:
        output.line(f"... and {len(unhappy) - _MOST_SHOWN} more: mediamill jobs list --state failed")


def records(database: Database, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, dict[str, Any]]:
    """The columns of `jobs list` for each job."""
    found: dict[uuid.UUID, dict[str, Any]] = {}
    for start in range(0, len(ids), _AT_ONCE):
        wanted = ids[start : start + _AT_ONCE]
        with database.transaction() as connection:
            for job in jobs.find(connection, jobs.Filter(ids=wanted), limit=len(wanted)):
                found[job["id"]] = job
    return {id_: found[id_] for id_ in ids if id_ in found}
