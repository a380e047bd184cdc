"""Statements with named values, and what Postgres answers: what a transaction is worked with.

A thin layer over psycopg2, in the words of SQLAlchemy's Core (`text`, `execute`, `scalars`, `mappings`). Core itself is
not used for it: every statement here is written out, so of all that it can do nothing was needed but this, and its
import takes longer than a short command does altogether.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, Protocol

import psycopg2.extensions


class HasText(Protocol):
    """A statement: ours, or SQLAlchemy's of the same name."""

    @property
    def text(self) -> str:
        """SQL with `:name` for each value."""


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with `:name` for each value; a cast is written `::type` or CAST, a colon that is meant as such `\\:`."""

    text: str


def text(sql: str) -> Statement:
    """A statement."""
    return Statement(sql)


class Row(tuple[Any, ...]):
    """A row: a tuple, and each column by its name. Of equal names the last one is meant."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        """Raises AttributeError: the columns that there are were found before."""
        raise AttributeError(f"there is no column {name!r}")


class Result:
    """The rows of a statement, all of them fetched; read once."""

    def __init__(self, rows: Sequence[tuple[Any, ...]], columns: Sequence[str], rowcount: int) -> None:
        self.rowcount = rowcount
        """How many rows were given back or changed."""
        self._columns = columns
        row_class = _row_class(tuple(columns))
        self._rows = [row_class(row) for row in rows]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def all(self) -> list[Row]:
        """All rows."""
        return self._rows

    def first(self) -> Row | None:
        """The first row, or None."""
        return self._rows[0] if self._rows else None

    def one(self) -> Row:
        """The only row. Raises LookupError when there is none, or another."""
        if len(self._rows) != 1:
            raise LookupError(f"one row was expected, there are {len(self._rows)}")
        return self._rows[0]

    def one_or_none(self) -> Row | None:
        """The only row, or None. Raises LookupError when there are more."""
        return self.one() if self._rows else None

    def scalar_one(self) -> Any:
        """The first column of the only row. Raises LookupError when there is none, or another."""
        return self.one()[0]

    def mappings(self) -> list[dict[str, Any]]:
        """Each row as its columns' values by name."""
        return [dict(zip(self._columns, row, strict=True)) for row in self._rows]

    def scalars(self) -> list[Any]:
        """The first column."""
        return [row[0] for row in self._rows]


class Connection:
    """A connection within a transaction; of one thread at a time."""

    def __init__(self, driver: psycopg2.extensions.connection) -> None:
        self._driver = driver

    def execute(self, statement: HasText, values: Mapping[str, Any] | None = None) -> Result:
        """Runs a statement; `values` may hold more than it names. Raises what psycopg2 raises."""
        with self._driver.cursor() as cursor:
            cursor.execute(_of_psycopg2(statement.text), values or {})
            if cursor.description is None:
                return Result([], [], cursor.rowcount)
            return Result(cursor.fetchall(), [column[0] for column in cursor.description], cursor.rowcount)

    def scalar(self, statement: HasText, values: Mapping[str, Any] | None = None) -> Any:
        """The first column of the first row; None where there is none."""
        row = self.execute(statement, values).first()
        return None if row is None else row[0]

    def scalars(self, statement: HasText, values: Mapping[str, Any] | None = None) -> list[Any]:
        """The first column."""
        return self.execute(statement, values).scalars()

    def rollback(self) -> None:
        """Undoes what the transaction has done so far; the next statement begins another."""
        self._driver.rollback()


# Not the colons of `a::type` and of `array[1:2]`... a name begins with a letter, and a text has its colons escaped.
_NAME = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")


@lru_cache(maxsize=1024)
def _of_psycopg2(sql: str) -> str:
    """`:name` as psycopg2 writes it, `%(name)s`."""
    return _NAME.sub(r"%(\1)s", sql.replace("%", "%%")).replace("\\:", ":")


@lru_cache(maxsize=1024)
def _row_class(columns: tuple[str, ...]) -> type[Row]:
    by_name: dict[str, Any] = {name: property(itemgetter(i)) for i, name in enumerate(columns)}
    return type("Row", (Row,), by_name | {"__slots__": ()})
