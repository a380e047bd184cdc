"""`mediamill jobs`: list, show, retry, cancel."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from console import job_view, output
from console.compose import Deployment
from console.failures import Exit, refused
from console.lookup import Row, meant, pages
from console.options import JobFilters, job_filters, json_option, taken
from storage import jobs as store
from storage.database import Database
from storage.jobs import CancelAnswer, Filter
from storage.lookup import RECENT, by_suffix

#: What can be tried again, and what can still be cancelled.
_RETRYABLE = ("failed", "cancelled", "quarantined")
_LIVE = ("waiting", "queued", "running")


@click.group()
def jobs() -> None:
    """List, show, retry and cancel jobs.

    A job is named by its id, or by the last six or more digits of it.
    """


@jobs.command("list")
@job_filters
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@json_option
def list_(limit: int, as_json: bool, **filters: Any) -> None:
    """List jobs, newest first."""
    with Deployment.load() as deployment:
        found: list[dict[str, Any]] = []
        for page in _pages(deployment.database, _filter(taken(filters)), limit):
            found += page
    if as_json:
        output.print_json(found)
    else:
        job_view.show_list(found, empty="no such jobs")


@jobs.command()
@click.argument("id_", metavar="ID")
@json_option
def show(id_: str, as_json: bool) -> None:
    """Show all that is known of a job."""
    with Deployment.load() as deployment, deployment.database.transaction() as connection:
        [wanted] = _ids(connection, [id_])
        record = store.show(connection, wanted)
    if record is None:
        raise refused(f"there is no job {wanted}")
    if as_json:
        output.print_json(job_view.as_json(record))
    else:
        job_view.show(record)


@jobs.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@job_filters
@click.option("--all", "all_", is_flag=True, help="All jobs that the filters let through.")
@click.option("--dry-run", is_flag=True, help="Only say which.")
@json_option
def retry(ids: Sequence[str], all_: bool, dry_run: bool, as_json: bool, **filters: Any) -> int:
    """Put failed, cancelled and quarantined jobs back into the queue, with clean counters."""
    chosen = taken(filters)
    _check_choice(ids, chosen, all_)

    def act(connection: Any, some: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]:
        again = store.retry(connection, some)
        states = store.finished_at(connection, some)
        return {id_: "queued" if id_ in again else _why_not_retried(states, id_) for id_ in some}

    among = _filter(chosen, _RETRYABLE)
    with Deployment.load() as deployment:
        answers = _act(deployment.database, ids, among, act, dry_run, _RETRYABLE)
    _tell(answers, as_json, dry_run, "queued again", "queued")
    return Exit.REFUSED if ids and not dry_run and any(answer != "queued" for answer in answers.values()) else Exit.DONE


def _why_not_retried(states: dict[uuid.UUID, tuple[str, Any]], id_: uuid.UUID) -> str:
    if id_ not in states:
        return CancelAnswer.UNKNOWN
    state = states[id_][0]
    return "its dedupe key is another job's now" if state in _RETRYABLE else f"is {state}"


@jobs.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@job_filters
@click.option("--all", "all_", is_flag=True, help="All jobs that the filters let through.")
@click.option("--dry-run", is_flag=True, help="Only say which.")
@json_option
def cancel(ids: Sequence[str], all_: bool, dry_run: bool, as_json: bool, **filters: Any) -> int:
    """End jobs that nobody wants any more: queued ones at once, running ones as soon as their worker hears of it."""
    chosen = taken(filters)
    _check_choice(ids, chosen, all_)
    among = _filter(chosen, _LIVE)
    with Deployment.load() as deployment:
        rules = deployment.settle_rules

        def act(connection: Any, some: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]:
            return dict(store.cancel(connection, some, rules))

        answers = _act(deployment.database, ids, among, act, dry_run, _LIVE)
    _tell(answers, as_json, dry_run, "cancelled, or asked to end", CancelAnswer.CANCELLED, CancelAnswer.REQUESTED)
    unknown = any(answer == CancelAnswer.UNKNOWN for answer in answers.values())
    return Exit.REFUSED if unknown else Exit.DONE


def _check_choice(ids: Sequence[str], chosen: JobFilters, all_: bool) -> None:
    if bool(ids) == all_:
        raise click.UsageError("name jobs by their ids, or all that some filters let through by --all")
    if ids and chosen.any:
        raise click.UsageError("filters go with --all, not with ids")
    if all_ and not chosen.any:
        raise click.UsageError("--all wants a filter: --state, --type, --lane, --label, --tenant or an age")


def _act(
    database: Database,
    ids: Sequence[str],
    among: Filter,
    act: Callable[[Any, Sequence[uuid.UUID]], dict[uuid.UUID, str]],
    dry_run: bool,
    states: Sequence[str],
) -> dict[uuid.UUID, str]:
    """Does `act` for each page of jobs in a transaction of its own; dry, says the state of those it would be for."""
    answers: dict[uuid.UUID, str] = {}
    if ids:
        with database.transaction() as connection:
            wanted = _ids(connection, ids)
        among = Filter(ids=wanted, states=states if dry_run else ())
        if not dry_run:
            return database.retrying(lambda connection: act(connection, wanted))
    for page in _pages(database, among, None):
        some = [job["id"] for job in page]
        if dry_run:
            answers |= {job["id"]: job["state"] for job in page}
        else:
            answers |= database.retrying(lambda connection, some=some: act(connection, some))  # type: ignore[misc]
    return answers


def _tell(answers: dict[uuid.UUID, str], as_json: bool, dry_run: bool, done: str, *good: str) -> None:
    if as_json:
        output.print_json([{"id": id_, "answer": str(answer)} for id_, answer in answers.items()])
        return
    for id_, answer in answers.items():
        output.line(f"{id_}  {answer}", style="" if dry_run or answer in good else "yellow")
    count = sum(dry_run or answer in good for answer in answers.values())
    output.note(f"{count} would be {done}" if dry_run else f"{count} {done}")


def _filter(chosen: JobFilters, states: Sequence[str] = ()) -> Filter:
    """`states` are those that the command is about; a --state narrows them."""
    wanted = [state for state in chosen.state if not states or state in states] if chosen.state else list(states)
    if chosen.state and not wanted:
        raise click.UsageError(f"--state {', '.join(chosen.state)}: only {', '.join(states)} jobs can be meant")
    return Filter(
        states=wanted,
        types=chosen.type,
        lanes=chosen.lane,
        tenants=chosen.tenant,
        labels=chosen.label,
        newer_than=chosen.newer_than,
        older_than=chosen.older_than,
    )


def _pages(database: Database, wanted: Filter, limit: int | None) -> Iterator[Sequence[Row]]:
    def find(connection: Any, most: int, last: Row | None) -> list[Row]:
        return store.find(connection, wanted, limit=most, before=last["id"] if last else None)

    return pages(database, find, limit)


def _ids(connection: Any, given: Sequence[str]) -> list[uuid.UUID]:
    """The ids that were meant. Raises CommandFailed where a suffix names none or several."""
    among = f"the newest {RECENT:,} jobs"
    found = (meant(connection, words, by_suffix, thing="job", among=among) for words in given)
    return list(dict.fromkeys(found))
