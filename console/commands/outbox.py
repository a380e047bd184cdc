"""`mediamill outbox`: what has not been published yet, and where events go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import click

from console import output
from console.compose import Deployment
from console.failures import CommandFailed, Exit, refused
from console.lookup import Row, pages
from console.options import Age, json_option
from console.output import Column
from storage import destinations as places
from storage import outbox as store
from storage.database import Database
from storage.outbox import EventState, Filter

F = TypeVar("F", bound=Callable[..., Any])

_RETRYABLE = (EventState.DEAD, EventState.REFUSED)
_LIST = (
    Column("seq", right=True), Column("job_id"), Column("kind"), Column("destination"), Column("state"),
    Column("age", right=True), Column("tries", right=True), Column("last_error", shrinks=True),
)  # fmt: skip
_PLACES = (
    Column("name"), Column("kind"), Column("target"), Column("state"), Column("waiting", right=True),
    Column("dead", right=True), Column("oldest", right=True), Column("cluster_id"),
)  # fmt: skip


@click.group()
def outbox() -> None:
    """List and retry events that are not published yet; say where events go.

    An event is named by its seq, the number that `list` shows.
    """


def _filters(function: F) -> F:
    options = [
        click.option("--destination", multiple=True, help="Only for this destination; may be repeated."),
        click.option("--kind", multiple=True, help="Only of this kind: mediamill.job.failed; may be repeated."),
        click.option("--job", "job_id", multiple=True, type=click.UUID, help="Only about this job; may be repeated."),
        click.option("--newer-than", type=Age(), help="Only written less than this ago: 10m, 2h, 7d."),
        click.option("--older-than", type=Age(), help="Only written longer than this ago."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _filter(
    states: Sequence[EventState],
    destination: Sequence[str],
    kind: Sequence[str],
    job_id: Sequence[UUID],
    newer_than: timedelta | None,
    older_than: timedelta | None,
) -> Filter:
    return Filter((), states, destination, kind, job_id, newer_than, older_than)


def _states(choices: Sequence[EventState]) -> Callable[[F], F]:
    return click.option(
        "--state",
        multiple=True,
        type=click.Choice([state.value for state in choices]),
        help="Only in this state; may be repeated.",
    )


@outbox.command("list")
@_states(tuple(EventState))
@_filters
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@json_option
def list_(state: Sequence[str], limit: int, as_json: bool, **filters: Any) -> None:
    """List events that are not published yet, oldest first."""
    wanted = _filter(tuple(map(EventState, state)), **filters)
    with Deployment.load() as deployment:
        found = [event for page in _pages(deployment.database, wanted, limit) for event in page]
    if as_json:
        output.print_json(found)
        return
    now = datetime.now(UTC)
    rows = [[output.age(e["created_at"], now) if c.title == "age" else e[c.title] for c in _LIST] for e in found]
    output.table(_LIST, rows, empty="no such events")
    if any(event["destination"] == places.WEBHOOK for event in found):
        output.note("webhooks are not sent by this build: their events wait")


@outbox.command()
@click.argument("seqs", metavar="[SEQ]...", nargs=-1, type=int)
@_states(_RETRYABLE)
@_filters
@click.option("--all", "all_", is_flag=True, help="All that the filters let through; without --state: the dead ones.")
@click.option("--dry-run", is_flag=True, help="Only say which.")
@json_option
def retry(seqs: Sequence[int], state: Sequence[str], all_: bool, dry_run: bool, as_json: bool, **filters: Any) -> int:
    """Publish dead and refused events again, now and with all their tries."""
    if bool(seqs) == all_:
        raise click.UsageError("name events by their seq, or all that some filters let through by --all")
    if seqs and (state or any(filters.values())):
        raise click.UsageError("filters go with --all, not with seqs")
    with Deployment.load() as deployment:
        if all_:
            wanted = _filter(tuple(map(EventState, state)) or (EventState.DEAD,), **filters)
        else:
            wanted = Filter(seqs=seqs)
        answers = _retry(deployment.database, wanted, dry_run)
    answers = {seq: answers.get(seq, "unknown") for seq in seqs} if seqs else answers
    if as_json:
        output.print_json([{"seq": seq, "answer": answer} for seq, answer in answers.items()])
    else:
        for seq, answer in answers.items():
            output.line(f"{seq}  {answer}", style="" if answer in ("again", *_RETRYABLE) else "yellow")
        count = sum(answer in ("again", *_RETRYABLE) for answer in answers.values())
        output.note(f"{count} would be published again" if dry_run else f"{count} are due again")
    return Exit.DONE if all(answer in ("again", *_RETRYABLE) for answer in answers.values()) else Exit.REFUSED


def _retry(database: Database, wanted: Filter, dry_run: bool) -> dict[int, str]:
    """What became of each event: `again`, or the state it is left in; dry, the state it is in."""
    answers: dict[int, str] = {}
    for page in _pages(database, wanted, None):
        seqs = [event["seq"] for event in page]
        if dry_run:
            answers |= {event["seq"]: event["state"] for event in page}
            continue
        with database.transaction() as connection:
            before = store.retry(connection, seqs)
        answers |= {seq: "again" if was in _RETRYABLE else was.value for seq, was in before.items()}
    return answers


@outbox.command("destinations")
@json_option
def destinations_(as_json: bool) -> None:
    """List where events go, and how many are not there yet."""
    with Deployment.load() as deployment, deployment.database.transaction() as connection:
        found = places.overview(connection)
    if as_json:
        output.print_json(found)
        return
    rows = [
        (
            each.name,
            each.kind,
            each.target,
            "no sender" if each.name == places.WEBHOOK else "on" if each.enabled else "off",
            each.waiting,
            each.dead,
            output.age(each.oldest),
            each.cluster_id,
        )
        for each in found
    ]
    output.table(_PLACES, rows, empty="no destinations: no process with MEDIAMILL_KAFKA_BOOTSTRAP has been started yet")


@outbox.command()
@click.argument("name")
def enable(name: str) -> None:
    """Write and publish events for a destination again, also those that wait."""
    _switch(name, enabled=True)
    output.note(f"{name} is on")


@outbox.command()
@click.argument("name")
def disable(name: str) -> None:
    """Write no events for a destination, and publish none of those that wait.

    What jobs do while it is off is never told there.
    """
    _switch(name, enabled=False)
    output.note(f"{name} is off: jobs that end from now on are not told there")


def _switch(name: str, *, enabled: bool) -> None:
    with Deployment.load() as deployment, deployment.database.transaction() as connection:
        if not places.set_enabled(connection, name, enabled):
            raise _no_destination(connection, name)


@outbox.command()
@click.argument("name")
@click.argument("topic", required=False)
@click.option("--cluster", metavar="ID", help="The Kafka cluster that the topic is on.")
def target(name: str, topic: str | None, cluster: str | None) -> None:
    """Send a destination's events to another topic, or to another Kafka cluster; those that wait, too."""
    if topic is None and cluster is None:
        raise click.UsageError("name a TOPIC, or a Kafka cluster by --cluster")
    if topic is not None:
        _check_topic(topic)
    with Deployment.load() as deployment, deployment.database.transaction() as connection:
        if not places.move(connection, name, target=topic, cluster_id=cluster):
            raise _no_destination(connection, name)
    output.note(f"{name} goes to {' on '.join(filter(None, (topic or 'its topic', cluster)))}")


def _check_topic(topic: str) -> None:
    from pydantic import TypeAdapter, ValidationError

    from config.values import TopicName

    try:
        TypeAdapter(TopicName).validate_python(topic)
    except ValidationError as error:
        raise click.UsageError(f"TOPIC {topic}: {error.errors()[0]['msg']}") from error


def _no_destination(connection: Any, name: str) -> CommandFailed:
    there = ", ".join(each.name for each in places.overview(connection) if each.kind == "topic")
    return refused(f"there is no destination {name}; there is: {there or 'none'}")


def _pages(database: Database, wanted: Filter, limit: int | None) -> Iterator[Sequence[Row]]:
    def find(connection: Any, most: int, last: Row | None) -> list[Row]:
        return store.find(connection, wanted, limit=most, after=last["seq"] if last else 0)

    return pages(database, find, limit)
