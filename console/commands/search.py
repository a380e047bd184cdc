"""`mediamill search`: by a text or by a picture."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from console import output, query_vector
from console.compose import Deployment
from console.failures import refused, unreachable
from console.options import Moment, Pair, json_option, pairs
from console.output import Column
from console.query_vector import NoVector, QueryVector, UnreadableQuery
from storage.search import MOST_HITS, Hit, SearchQuery
from storage.search import search as find


@click.command()
@click.argument("text", required=False)
@click.option("--image", metavar="FILE|URI", help="Find what looks like this picture.")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only what a job of this type read or made.")
@click.option("--label", multiple=True, type=Pair(), help="Only of jobs with this label; repeated: with all of them.")
@click.option("--tenant", "tenants", multiple=True, help="Only of this tenant; may be repeated.")
@click.option("--media", multiple=True, metavar="KIND", help="Only this kind (image) or type (image/png).")
@click.option("--since", type=Moment(), help="First seen at this time or later: a time, or 2h ago as 2h.")
@click.option("--until", type=Moment(), help="First seen before this time.")
@click.option("--limit", type=click.IntRange(1, MOST_HITS), default=20, show_default=True, help="At most so many.")
@click.option("--min-score", type=click.FloatRange(-1, 1), help="Least cosine similarity of pictures.")
@json_option
def search(
    text: str | None, image: str | None, types: Sequence[str], label: Sequence[tuple[str, str]],
    tenants: Sequence[str], media: Sequence[str], since: datetime | None, until: datetime | None,
    limit: int, min_score: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Find pictures by TEXT, in what they show and in what is said of them, or by --image.

    \b
    mediamill search "a red bicycle in the rain"
    mediamill search --image photo.jpg --label project=zoo
    """
    if text is not None and not text.strip():
        raise click.UsageError("TEXT is empty: name what to look for")
    if (text is None) == (image is None):
        raise click.UsageError("name a TEXT, or a picture by --image; not both")
    labels = pairs(label, "--label")
    with Deployment.load() as deployment:
        vector, why_not = _vector(deployment, text, image)
        query = SearchQuery(
            text=text or "",
            vector=vector.vector if vector else None,
            vector_of="text" if image is None else "picture",
            space=vector.space.id if vector else None,
            min_similarity=min_score,
            types=types,
            labels=labels,
            tenants=tenants,
            media=media,
            since=since,
            until=until,
            limit=limit,
        )
        with deployment.database.transaction() as connection:
            hits = find(connection, query)
    if as_json:
        output.print_json(
            {"searched": ["words", "pictures"] if vector and text else ["pictures"] if vector else ["words"],
             "note": why_not, "hits": [hit.as_json() for hit in hits]}
        )  # fmt: skip
        return
    if why_not:
        output.note(f"only words are searched: {why_not}", style="yellow")
    _show(hits)
    if vector and not hits and min_score is None:
        output.note("no picture is similar enough; --min-score -1 shows the nearest in any case", style="dim")


def _vector(deployment: Deployment, text: str | None, image: str | None) -> tuple[QueryVector | None, str | None]:
    """The vector of what is searched for, or why a text has none; a picture without one cannot be searched by."""
    try:
        if image is not None:
            return query_vector.of_picture(deployment, image), None
        return query_vector.of_text(deployment, text or ""), None
    except NoVector as error:
        if image is not None:
            raise (refused if isinstance(error, UnreadableQuery) else unreachable)(str(error)) from None
        return None, str(error)


def _show(hits: Sequence[Hit]) -> None:
    columns = (
        Column("score", right=True), Column("similar", right=True), Column("where"), Column("why", shrinks=True),
    )  # fmt: skip
    output.table(columns, [_row(hit) for hit in hits], empty="nothing found")


def _row(hit: Hit) -> tuple[Any, ...]:
    similar = "" if hit.similarity is None else f"{hit.similarity:.3f}"
    where = hit.uri or f"(gone) sha256 {hit.sha256[:12]}"
    if hit.t0 is not None:
        where += f" at {hit.t0:.1f} s"
    why = "; ".join(f"{reason.by}: {reason.marked('[', ']')}" if reason.text else str(reason.by) for reason in hit.why)
    return f"{hit.score:.4f}", similar, where, why
