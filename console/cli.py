"""`mediamill`: the command line. A command's module is imported when that command is used."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from console.failures import Exit, report

#: Where each command is, and its line in the list of commands.
COMMANDS = {
    "worker": ("console.commands.worker:worker", "Run jobs until told to stop."),
    "migrate": ("console.commands.migrate:migrate", "Bring the database's schema to this build's revision."),
    "submit": ("console.commands.submit:submit", "Submit one job, or many from a file."),
    "jobs": ("console.commands.jobs:jobs", "List, show, retry and cancel jobs."),
    "rejected": ("console.commands.rejected:rejected", "List, show and replay messages that could not become jobs."),
    "outbox": ("console.commands.outbox:outbox", "List and retry events that are not published; say where they go."),
    "ingest": ("console.commands.ingest:ingest", "How far Kafka is read; read it again."),
    "search": ("console.commands.search:search", "Find pictures by a text or by a picture."),
    "models": ("console.commands.models:models", "List, check and download checkpoints."),
    "types": ("console.commands.types:types", "List job types, or explain one."),
    "doctor": ("console.commands.doctor:doctor", "Check settings, services and this machine."),
    "top": ("console.commands.top:top", "Watch queues, workers and rates."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mediamill", message="%(prog)s %(version)s")
def cli() -> None:
    """mediamill: media in, captions, embeddings and search out.

    Settings are environment variables (MEDIAMILL_*) or mediamill.toml; `mediamill doctor` prints them all.
    Without any, everything is kept in ~/.mediamill: an embedded Postgres and a folder as object store.

    Exit codes: 0 done, 1 a job failed, 2 wrong usage or refused, 3 a service cannot be reached.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and ends the process with its exit code."""
    # Importing makes some hundred thousand objects and no garbage: looking for it, also at the end, would take a sixth
    # of the time of a short command.
    gc.set_threshold(100_000, 20, 20)
    exit_code = run(arguments)
    gc.freeze()
    sys.exit(exit_code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; the one place where what went wrong becomes lines and an exit code."""
    try:
        answer = cli.main(args=list(arguments) if arguments is not None else None, standalone_mode=False)
        return answer if isinstance(answer, int) else Exit.DONE
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return Exit.REFUSED
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing may be written at the interpreter's end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE
    except Exception as error:  # noqa: BLE001 the boundary: everything is reported, nothing is hidden
        return _fail(error)


def _fail(error: Exception) -> int:
    told = report(error)
    if os.environ.get("MEDIAMILL_LOG_LEVEL", "").lower() == "debug":
        traceback.print_exception(error)
    for each in told.lines:
        sys.stderr.write(f"mediamill: {each}\n")
    return told.exit_code


if __name__ == "__main__":
    main()
