"""What the demo shows while it goes on: a line for each step, and how many jobs have ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from console import output

_PLAIN_EVERY_S = 5.0


class Said:
    """What a step has to say at its end."""

    text = ""


@contextmanager
def step(title: str, *, spinner: bool = True) -> Iterator[Said]:
    """A line at its end; until then a spinner where there is a terminal."""
    said, began = Said(), time.monotonic()
    with ExitStack() as shown:
        if spinner and output.on_terminal():
            shown.enter_context(output.terminal().status(f"{title} ..."))
        yield said
    output.line(f"  {title:12} {said.text} ({time.monotonic() - began:.1f} s)")


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal, else a line now and then; to be called with the state of each job that has ended."""
    if not output.on_terminal():
        yield _lines(total)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=output.terminal(), transient=True) as bar:
        task = bar.add_task("jobs (the first ones wait for torch)", total=total)
        yield lambda state: bar.update(task, advance=1, description=f"jobs (the last one: {state})")


def _lines(total: int) -> Callable[[str], None]:
    states: Counter[str] = Counter()
    last = time.monotonic()

    def ended(state: str) -> None:
        nonlocal last
        states[state] += 1
        if time.monotonic() - last >= _PLAIN_EVERY_S:
            last = time.monotonic()
            output.line(f"  {states.total()} of {total} jobs have ended")

    return ended
