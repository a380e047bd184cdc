"""Statements with named values, and what Postgres answers: what a transaction is worked with.

Neutral of who runs them: `storage.pooled` does it through SQLAlchemy, `storage.direct` by psycopg2 alone. What a
statement and its answer mean is the same in both, and held so by one contract suite.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with `:name` for each value, as SQLAlchemy's `text` reads it.

    A cast of a value is written CAST, any other one `::type` as well; a colon before a word that is meant as such is
    written `\\:`. A percent sign is one.
    """

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
    """The rows of a statement, all of them fetched."""

    def __init__(self, rows: Iterable[Iterable[Any]], columns: Sequence[str], rowcount: int) -> None:
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


class Connection(ABC):
    """A connection within a transaction; of one thread at a time."""

    @abstractmethod
    def execute(self, statement: Statement, values: Mapping[str, Any] | None = None) -> Result:
        """Runs a statement; `values` may hold more than it names.

        Raises DatabaseError, and psycopg2.Error for what is a defect of the statement.
        """

    @abstractmethod
    def rollback(self) -> None:
        """Undoes what the transaction has done so far; the next statement begins another."""

    def scalar(self, statement: Statement, values: Mapping[str, Any] | None = None) -> Any:
        """The first column of the first row; None where there is none."""
        row = self.execute(statement, values).first()
        return None if row is None else row[0]

    def scalars(self, statement: Statement, values: Mapping[str, Any] | None = None) -> list[Any]:
        """The first column."""
        return self.execute(statement, values).scalars()


@lru_cache(maxsize=1024)
def _row_class(columns: tuple[str, ...]) -> type[Row]:
    by_name: dict[str, Any] = {name: property(itemgetter(i)) for i, name in enumerate(columns)}
    return type("Row", (Row,), by_name | {"__slots__": ()})
