"""`mediamill migrate`: the schema to a revision."""

from __future__ import annotations

import click

from console import output
from console.compose import Deployment
from storage import schema


@click.command()
@click.option(
    "--to", "revision", default="head", show_default=True, metavar="REVISION", help="head, base, or its name."
)
@click.option("--check", is_flag=True, help="Change nothing; exit code 3 unless this build can work with the schema.")
def migrate(revision: str, check: bool) -> None:
    """Bring the database's schema to this build's revision.

    Run it before the workers of a new release start; those of the release before go on meanwhile.
    """
    with Deployment.load() as deployment:
        database = deployment.bare_database
        if check:
            schema.check(database)
        else:
            schema.migrate(database, revision)
        with database.transaction() as connection:
            at = schema.current(connection)
    output.line(f"the schema is at revision {at or 'base: it is empty'}; this build's is {schema.head()}")
