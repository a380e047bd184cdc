"""`mediamill doctor`: every setting with its source, and whether everything that is needed is there."""

from __future__ import annotations

import click

from console import output
from console.check import Status
from console.checks import run_checks
from console.compose import Deployment
from console.failures import Exit
from console.options import json_option
from console.output import Column


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Check settings, services and this machine; exit code 3 where something that is needed cannot be used."""
    with Deployment.load() as deployment:
        loaded = deployment.loaded
        if not as_json:
            output.line(f"settings (file: {loaded.file or 'none'})", style="bold")
            columns = (Column("variable"), Column("value", shrinks=True), Column("source", shrinks=True))
            output.table(columns, [(one.variable, one.value, one.source) for one in loaded.shown()])
            output.heading("checks")
        found = run_checks(deployment)
    if as_json:
        settings = [one._asdict() for one in loaded.shown()]
        output.print_json({"file": loaded.file, "settings": settings, "checks": found})
    else:
        width = max(len(check.name) for check in found)
        for check in found:
            output.line(f"{check.status:4}  {check.name:{width}}  {check.detail}", style=output.STYLES[check.status])
            for fix in check.fix:
                output.line(f"{'':{width + 8}}{fix}")
    return Exit.UNREACHABLE if any(check.status is Status.FAIL for check in found) else Exit.DONE
