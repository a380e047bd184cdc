"""`mediamill models`: the checkpoints of the catalogue and their files."""

from __future__ import annotations

from collections.abc import Sequence

import click

from config import checkpoints
from config.catalogue import Catalogue, Entry
from console import output
from console.compose import Deployment
from console.failures import Exit
from console.options import json_option
from console.output import Column


@click.group()
def models() -> None:
    """List, check and download checkpoints.

    Which ones there are is said by a profile of the catalogue (MEDIAMILL_CATALOGUE).
    """


@models.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the profile's checkpoints, and whether their files are there."""
    with Deployment.load() as deployment:
        catalogue, home = deployment.catalogue, deployment.settings.models
    missing = {one.name: one.sentence for one in catalogue.missing(home)}
    rows = [
        {
            "name": entry.name,
            "family": entry.family,
            "roles": _roles(catalogue, entry),
            "state": "missing" if entry.name in missing else "ok",
            "source": _source(entry),
            "licence": entry.licence,
            "folder": catalogue.folder(entry, home),
            "problem": missing.get(entry.name),
        }
        for entry in catalogue.entries.values()
    ]
    if as_json:
        output.print_json(rows)
        return
    columns = (Column("name"), Column("roles"), Column("state"), Column("licence"), Column("source", shrinks=True))
    shown = [tuple(row[key] for key in ("name", "roles", "state", "licence", "source")) for row in rows]
    output.table(columns, shown, empty="the profile has no checkpoints")
    for sentence in missing.values():
        output.note(sentence, style="yellow")


@models.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@json_option
def check(names: Sequence[str], as_json: bool) -> int:
    """Read all files of checkpoints again and compare their digests; exit code 2 where one differs or is missing."""
    with Deployment.load() as deployment:
        catalogue, home = deployment.catalogue, deployment.settings.models
        found = {entry.name: checkpoints.verify(catalogue, entry, home) for entry in _chosen(catalogue, names)}
    if as_json:
        output.print_json(
            [{"name": name, "ok": not problems, "problems": problems} for name, problems in found.items()]
        )
    else:
        for name, problems in found.items():
            output.line(
                f"{name}: {'ok' if not problems else '; '.join(problems)}", style="red" if problems else "green"
            )
    return Exit.REFUSED if any(found.values()) else Exit.DONE


@models.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
def pull(names: Sequence[str]) -> None:
    """Get checkpoints (all of the profile, or those named), verify them and lock their digests."""
    with Deployment.load() as deployment:
        settings = deployment.settings
        for entry in _chosen(deployment.catalogue, names):
            checkpoints.pull(
                deployment.catalogue,
                entry,
                settings.models,
                executor=settings.executor_python,
                progress=output.line,
            )


def _chosen(catalogue: Catalogue, names: Sequence[str]) -> list[Entry]:
    """By name or role. Raises CatalogueError."""
    return [catalogue[name] for name in names] if names else list(catalogue.entries.values())


def _roles(catalogue: Catalogue, entry: Entry) -> list[str]:
    return [role for role, name in catalogue.roles.items() if name == entry.name]


def _source(entry: Entry) -> str:
    if entry.repo is not None:
        return f"{entry.repo}@{(entry.revision or '')[:12]}"
    return str(entry.folder) if entry.folder is not None else f"made by {entry.made_by}"
