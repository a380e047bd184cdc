"""`mediamill rejected`: messages that could not become jobs, and how they do after all."""

from __future__ import annotations

import re
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from console import output, rejected_view
from console.compose import Deployment
from console.failures import Exit, refused
from console.lookup import Row, meant, pages
from console.options import LANES, Moment, json_option
from storage import rejected_lookup as store
from storage.objects.errors import ObjectError
from storage.rejected_bodies import Bodies, Sent
from storage.rejected_lookup import RECENT, Filter, by_suffix
from storage.rejections import headers_json, said

if TYPE_CHECKING:
    from intake.replay import Outcome
    from storage.database import Connection

F = TypeVar("F", bound=Callable[..., Any])


def message_filters(function: F) -> F:
    """The options of `_filter`."""
    options = [
        click.option("--fingerprint", multiple=True, help="Only with these problems; may be repeated."),
        click.option("--lane", multiple=True, type=click.Choice(LANES), help="Only of this lane; may be repeated."),
        click.option("--topic", multiple=True, help="Only of this topic; may be repeated."),
        click.option("--code", multiple=True, help="Only with a problem of this kind; may be repeated."),
        click.option("--since", type=Moment(), help="Only that came since: 2030-01-31T12:00:00Z, or 2h ago."),
        click.option("--until", type=Moment(), help="Only that came until then."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _filter(given: Mapping[str, Any], replayed: bool | None = None) -> Filter:
    return Filter(
        fingerprints=given["fingerprint"],
        lanes=given["lane"],
        topics=given["topic"],
        codes=given["code"],
        since=given["since"],
        until=given["until"],
        replayed=replayed,
    )


@click.group()
def rejected() -> None:
    """List, show and replay messages that could not become jobs.

    Messages with the same problems have the same fingerprint. A single one is named by its id, or by the last six or
    more digits of it.
    """


@rejected.command("list")
@message_filters
@click.option("--replayed/--waiting", "replayed", default=None, help="Only those that became jobs, or that did not.")
@click.option("--each", is_flag=True, help="A line for each message instead of for each fingerprint.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many lines.")
@json_option
def list_(replayed: bool | None, each: bool, limit: int, as_json: bool, **filters: Any) -> None:
    """List rejected messages by fingerprint, the newest first."""
    wanted = _filter(filters, replayed)
    with Deployment.load() as deployment:
        if each:
            found = _each(deployment, wanted, limit)
        else:
            with deployment.database.transaction() as connection:
                found = store.groups(connection, wanted, limit=limit)
    if as_json:
        output.print_json(found)
    elif each:
        rejected_view.show_each(found)
    else:
        rejected_view.show_groups(found)


def _each(deployment: Deployment, wanted: Filter, limit: int) -> list[dict[str, Any]]:
    def find(connection: Connection, most: int, last: Row | None) -> list[Row]:
        before = (last["received_at"], last["id"]) if last else None
        return store.find(connection, wanted, limit=most, before=before)

    return [row for page in pages(deployment.database, find, limit) for row in page]


@rejected.command()
@click.argument("id_", metavar="ID")
@json_option
def show(id_: str, as_json: bool) -> None:
    """Show all that is known of a rejected message: where it came from, what is wrong, what it became, its bytes."""
    with Deployment.load() as deployment:
        row = _row(deployment, id_)
        try:
            sent, why = _sent(deployment, row), None
        except ObjectError as error:
            sent, why = None, str(error)
    if as_json:
        output.print_json(_as_json(row, sent))
    else:
        rejected_view.show(row, sent, why)


def _as_json(row: Any, sent: Sent | None) -> dict[str, Any]:
    """The row's columns; key, headers and body, wherever they are kept, as headers are: a text, or its base64."""
    return {
        **vars(row),
        "key": said(sent.key) if sent else None,
        "headers": headers_json(sent.headers) if sent else None,
        "body": said(sent.body) if sent else None,
    }


@rejected.command()
@click.argument("id_", metavar="ID")
def body(id_: str) -> None:
    """Write a rejected message's body, byte for byte, to standard output.

    Not to a terminal, where bytes in it are what a terminal would obey.
    """
    with Deployment.load() as deployment:
        bytes_ = _sent(deployment, _row(deployment, id_)).body or b""
    if output.on_terminal() and not re.sub(r"[\t\n\r]", "", bytes_.decode("utf-8", "surrogateescape")).isprintable():
        raise refused("its body holds control characters: write it into a file, or read it by mediamill rejected show")
    sys.stdout.flush()
    sys.stdout.buffer.write(bytes_)
    sys.stdout.buffer.flush()


def _row(deployment: Deployment, words: str) -> Any:
    with deployment.database.transaction() as connection:
        id_ = _id(connection, words)
        row = store.show(connection, id_)
    if row is None:
        raise refused(f"there is no rejected message {id_}")
    return row


def _sent(deployment: Deployment, row: Any) -> Sent:
    if row.body_uri is None:
        return Sent.of(row)
    with Bodies(deployment.store, deployment.settings.scratch) as bodies:
        return bodies.of(row)


@rejected.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@message_filters
@click.option("--all", "all_", is_flag=True, help="All messages that the filters let through.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many messages, the oldest first.")
@click.option("--dry-run", is_flag=True, help="Only say what would become of them.")
@json_option
def replay(ids: Sequence[str], all_: bool, limit: int | None, dry_run: bool, as_json: bool, **filters: Any) -> int:
    """Validate rejected messages again, and make jobs of those that pass.

    Those that do not pass stay rejected, with what is wrong with them by now. Running it again does no harm.
    """
    wanted = _filter(filters)
    if bool(ids) == all_:
        raise click.UsageError("name messages by their ids, or all that some filters let through by --all")
    if ids and wanted != Filter(replayed=wanted.replayed):
        raise click.UsageError("filters go with --all, not with ids")
    tally = rejected_view.Tally()
    each: list[Outcome] = []
    with Deployment.load() as deployment:
        if ids:
            with deployment.database.transaction() as connection:
                wanted = Filter(ids=list(dict.fromkeys(_id(connection, words) for words in ids)))
        for page in _replayed(deployment, wanted, limit, dry_run):
            tally.add(page)
            if ids:
                each += page
    if as_json:
        output.print_json([_outcome_json(one) for one in each] if ids else tally.rows)
    elif ids:
        _tell(each)
    else:
        tally.show()
    return _end(tally, wanted, dry_run)


def _replayed(deployment: Deployment, wanted: Filter, limit: int | None, dry_run: bool) -> Iterator[list[Outcome]]:
    # Only this command needs all of the door.
    from console.door import door_of
    from intake.replay import Replay

    with Bodies(deployment.store, deployment.settings.scratch) as bodies:
        run = Replay(deployment.database, bodies, door_of(deployment), dry_run=dry_run)
        yield from run.run(wanted, limit=limit)


def _outcome_json(one: Outcome) -> dict[str, Any]:
    return {
        "id": one.id,
        "fingerprint": one.fingerprint,
        "answer": one.answer,
        "job_id": one.job_id,
        "error": [problem.as_json() for problem in one.problems],
    }


def _tell(outcomes: Sequence[Outcome]) -> None:
    for one in outcomes:
        words = f"{one.answer} {one.job_id}" if one.job_id else str(one.answer)
        output.line(f"{one.id}  {words}", style="" if one.job_id else "yellow")
        for problem in one.problems:
            output.line(f"  {rejected_view.line_of(problem.as_json())}")
        if one.why:
            output.line(f"  {one.why}")


def _end(tally: rejected_view.Tally, wanted: Filter, dry_run: bool) -> int:
    jobs, still = tally.total("job"), tally.total("refused") + tally.total("unreadable")
    would = "would become jobs" if dry_run else "became jobs"
    output.note(f"{jobs} {would}, {tally.total('already')} are jobs already, {still} are refused still")
    if not wanted.ids:
        return Exit.DONE
    found = sum(counts.total() for counts in tally.messages.values())
    if found < len(wanted.ids):
        output.note(f"{len(wanted.ids) - found} are not there, or have been replayed")
    return Exit.DONE if dry_run or not (still or found < len(wanted.ids)) else Exit.REFUSED


def _id(connection: Connection, words: str) -> uuid.UUID:
    """The id that was meant. Raises CommandFailed where a suffix names none or several."""
    among = f"the newest {RECENT:,} rejected messages"
    return meant(connection, words, by_suffix, thing="message", among=among)
