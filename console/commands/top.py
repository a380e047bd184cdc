"""`mediamill top`: queues, workers and rates."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from console import output
from console.compose import Deployment
from console.options import json_option
from console.output import Column
from storage.database import Database, DatabaseError
from storage.overview import Overview, overview

if TYPE_CHECKING:
    from rich.console import RenderableType

_FINISHED = ("succeeded", "failed", "cancelled", "quarantined")
_STATES = ("waiting", "queued", "running", *_FINISHED)
_QUEUES = (
    Column("lane"), Column("type"), *(Column(state, right=True) for state in _STATES), Column("oldest", right=True),
    Column("ended/s", right=True),
)  # fmt: skip
_WORKERS = (Column("worker"), Column("host"), Column("pid", right=True), Column("up", right=True),
            Column("beat", right=True), Column("jobs", right=True), Column("doing", shrinks=True))  # fmt: skip

Key = tuple[str, str]


@click.command()
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds between looks."
)
@click.option("--once", is_flag=True, help="Print it once.")
@json_option
def top(interval: float, once: bool, as_json: bool) -> None:
    """Watch queues, workers and rates; Ctrl-C ends it. Elsewhere than on a terminal it is printed once."""
    with Deployment.load() as deployment:
        if as_json:
            output.print_json(_look(deployment.database))
        elif once or not output.on_terminal():
            _print(_look(deployment.database))
        else:
            _watch(deployment.database, interval)


def _look(database: Database) -> Overview:
    with database.transaction() as connection:
        return overview(connection)


def _print(seen: Overview) -> None:
    output.table(_QUEUES, queue_rows(seen, {}), empty="no jobs yet")
    output.line()
    output.table(_WORKERS, worker_rows(seen), empty="no worker is running: start one with `mediamill worker`")


def _watch(database: Database, interval: float) -> None:
    from rich.live import Live

    before: Overview | None = None
    rates: dict[Key, float] = {}
    with Live(console=output.terminal(), screen=True, auto_refresh=False) as live:
        while True:
            try:
                seen = _look(database)
                rates = rates_between(before, seen) if before is not None else {}
                before = seen
                live.update(_screen(seen, rates, "", live.console.width), refresh=True)
            except DatabaseError as error:
                if before is None:
                    raise
                live.update(
                    _screen(before, rates, f"Postgres cannot be reached: {error}", live.console.width), refresh=True
                )
            time.sleep(interval)


def _screen(seen: Overview, rates: Mapping[Key, float], problem: str, width: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    total = sum(rates.values())
    head = Text(f"mediamill  {output.moment(seen.at)}  {total:,.1f} jobs/s  {len(seen.workers)} workers", "bold")
    parts: list[RenderableType] = [head, Text(output.printable(problem), "red"), ""]
    parts.append(output.drawn(_QUEUES, queue_rows(seen, rates), width))
    parts += ["", output.drawn(_WORKERS, worker_rows(seen), width)]
    return Group(*parts)


def _by_key(seen: Overview) -> dict[Key, dict[str, int]]:
    found: dict[Key, dict[str, int]] = {}
    for row in seen.jobs:
        states = found.setdefault((row["lane"], row["type"]), dict.fromkeys(_STATES, 0))
        states[row["state"]] = states.get(row["state"], 0) + row["jobs"]
    return found


def rates_between(before: Overview, after: Overview) -> dict[Key, float]:
    """Jobs ended per second, by lane and type. A retry takes an end back, so that a rate may be below zero: then 0."""
    seconds = (after.at - before.at).total_seconds()
    if seconds <= 0:
        return {}
    old = _by_key(before)
    return {
        key: max(sum(states[s] - old.get(key, {}).get(s, 0) for s in _FINISHED), 0) / seconds
        for key, states in _by_key(after).items()
    }


def queue_rows(seen: Overview, rates: Mapping[Key, float]) -> list[tuple[Any, ...]]:
    """A row for each lane and type; what is zero stays empty, so that what is not stands out."""
    oldest = {(row["lane"], row["type"]): row["oldest"] for row in seen.queue}
    return [
        (
            *key,
            *(f"{states[state]:,}" if states[state] else "" for state in _STATES),
            output.age(oldest.get(key), seen.at),
            f"{rates[key]:,.1f}" if rates.get(key) else "",
        )
        for key, states in sorted(_by_key(seen).items())
    ]


def worker_rows(seen: Overview) -> list[tuple[Any, ...]]:
    """A row for each worker that is not retired."""
    return [
        (
            str(worker["id"])[-8:],
            worker["host"],
            worker["pid"],
            output.age(worker["started_at"], seen.at),
            f"{worker['beat_age_s']:.0f}s",
            worker["doing"].get("jobs", 0),
            _doing(worker["doing"]),
        )
        for worker in seen.workers
    ]


def _doing(doing: Mapping[str, Any]) -> str:
    types = ", ".join(f"{count} {type_}" for type_, count in sorted(doing.get("types", {}).items()))
    oldest = next(iter(doing.get("oldest", ())), None)
    if oldest is None:
        return types or "idle"
    progress = f" {oldest['progress']:.0%}" if oldest.get("progress") else ""
    return f"{types}; longest: {oldest['stage']}{progress} for {oldest['seconds']:.0f}s"
