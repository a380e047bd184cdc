"""Printing: tables and colours on a terminal, aligned plain text elsewhere, JSON where it is asked for.

Captions, labels and object keys come from outside: control characters never reach the terminal.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

STYLES: Mapping[str, str] = {
    "waiting": "blue", "queued": "blue", "running": "cyan", "succeeded": "green", "failed": "red",
    "cancelled": "yellow", "quarantined": "magenta", "ok": "green", "warn": "yellow", "fail": "red", "missing": "red",
}  # fmt: skip

#: How narrow a column that shrinks may become before the table is printed wider than the terminal.
_LEAST_SHRUNK = 10


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table; the widest words of a `shrinks` column are cut where the terminal is too narrow."""

    title: str
    right: bool = False
    shrinks: bool = False


def on_terminal() -> bool:
    """Whether standard output is one."""
    return sys.stdout.isatty()


def terminal(*, stderr: bool = False) -> Console:
    """rich's console; it knows of NO_COLOR, TERM and the width."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def print_json(value: Any) -> None:
    """One JSON value; indented for people on a terminal."""
    indent = 2 if on_terminal() else None
    sys.stdout.write(json.dumps(value, default=_plain, ensure_ascii=False, indent=indent) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, uuid.UUID | Path):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


def line(text: str = "", *, style: str = "") -> None:
    """A line on standard output."""
    _write(text, style, stderr=False)


def note(text: str, *, style: str = "") -> None:
    """A line on standard error: what is said beside the data."""
    _write(text, style, stderr=True)


def _write(text: str, style: str, *, stderr: bool) -> None:
    stream = sys.stderr if stderr else sys.stdout
    safe = printable(text)
    if style and stream.isatty():
        from rich.text import Text

        terminal(stderr=stderr).print(Text(safe, style), soft_wrap=True)
    else:
        stream.write(safe + "\n")


def heading(text: str) -> None:
    """Begins a part of what a command prints."""
    line()
    line(text, style="bold")


def table(columns: Sequence[Column], rows: Iterable[Sequence[object]], *, empty: str = "") -> None:
    """Rows under titles; `empty` is the line where there are no rows."""
    rows = list(rows)
    if not rows:
        line(empty, style="dim")
        return
    cells = [[printable(_cell(value)) for value in row] for row in rows]
    if on_terminal() and (console := terminal()).width >= _least_width(columns, cells):
        console.print(drawn(columns, rows, console.width))
        return
    # Also where the terminal is too narrow: rather a long line than an id or a URI that is cut.
    for words in _aligned(columns, [[column.title for column in columns], *cells]):
        sys.stdout.write(words + "\n")


def _least_width(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> int:
    return sum(_LEAST_SHRUNK if c.shrinks else _widest(c, i, cells) for i, c in enumerate(columns)) + 2 * len(columns)


def _widest(column: Column, index: int, cells: Sequence[Sequence[str]]) -> int:
    from rich.cells import cell_len  # a Chinese character is two columns wide

    return max(cell_len(words) for words in (column.title, *(row[index] for row in cells)))


def drawn(columns: Sequence[Column], rows: Iterable[Sequence[object]], width: int) -> Table:
    """The same as rich draws it, `width` characters wide; the columns that shrink share what the others leave."""
    from rich.table import Table
    from rich.text import Text

    cells = [[printable(_cell(value)) for value in row] for row in rows]
    widths = [_widest(column, index, cells) for index, column in enumerate(columns)]
    left = width - 2 * len(columns) - sum(w for w, column in zip(widths, columns, strict=True) if not column.shrinks)
    share = max(left // max(sum(column.shrinks for column in columns), 1), _LEAST_SHRUNK)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column, widest in zip(columns, widths, strict=True):
        # Widths are given: left to itself, rich takes from all columns alike, and narrow ones are gone.
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=min(widest, share) if column.shrinks else widest,
        )
    for row in cells:
        styles = [
            STYLES.get(cell, "") if column.title == "state" else "" for column, cell in zip(columns, row, strict=True)
        ]
        table.add_row(*map(Text, row, styles))
    return table


def _aligned(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    from rich.cells import cell_len

    widths = [_widest(column, index, rows) for index, column in enumerate(columns)]
    for row in rows:
        padded = []
        for column, cell, width in zip(columns, row, widths, strict=True):
            space = " " * (width - cell_len(cell))
            padded.append(space + cell if column.right else cell + space)
        yield "  ".join(padded).rstrip()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, Mapping):
        return " ".join(f"{key}={each}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    return str(value)


def printable(text: str) -> str:
    """The text on one line, without what a terminal would obey; tabs and line ends become spaces."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else " " if c in "\t\n\r" else c.encode("unicode_escape").decode() for c in text
    )


def block(text: str, *, indent: int = 2) -> None:
    """Text of several lines, each made printable."""
    for each in text.splitlines():
        spaces = " " * (len(each) - len(each.lstrip(" ")))
        line(" " * indent + spaces + each.strip())


def moment(value: datetime) -> str:
    """`2030-01-31 12:00:00Z`."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def age(value: datetime | None, now: datetime | None = None) -> str:
    """How long ago: `42s`, `7m`, `3h`, `12d`."""
    if value is None:
        return ""
    return span(max(((now or datetime.now(UTC)) - value).total_seconds(), 0))


def span(seconds: float) -> str:
    """Seconds as people say them: `42s`, `7m`, `3h`, `12d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def seconds_between(begin: datetime | None, end: datetime | None) -> str:
    """`1.23`, or nothing."""
    return f"{(end - begin).total_seconds():.2f}" if begin is not None and end is not None else ""


def size(count: int) -> str:
    """Bytes: `1.5 MB`."""
    number = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{int(number)} B" if unit == "B" else f"{number:.1f} {unit}"
