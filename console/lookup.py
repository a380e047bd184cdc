"""Rows as people ask for them: by an id or the end of one, and page after page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from console.failures import refused

if TYPE_CHECKING:
    from storage.database import Connection, Database

#: Rows of a page.
PAGE = 500
_LEAST_SUFFIX = 6

Row = dict[str, Any]


def meant(
    connection: Connection,
    words: str,
    by_suffix: Callable[[Connection, str], Sequence[UUID]],
    *,
    thing: str,
    among: str,
) -> UUID:
    """The id of a `thing` that was meant: the words are all of it, or its end.

    `by_suffix` finds ids by lower-case hexadecimal digits without hyphens, and `among` says of which. Raises
    CommandFailed where the words are no id, or the end of none or of several.
    """
    digits = words.replace("-", "").lower()
    if not re.fullmatch(rf"[0-9a-f]{{{_LEAST_SUFFIX},32}}", digits):
        raise refused(f"{words} is no {thing}'s id; write all of it, or its last {_LEAST_SUFFIX} digits or more")
    if len(digits) == 32:
        return UUID(digits)
    found = by_suffix(connection, digits)
    if len(found) == 1:
        return found[0]
    if found:
        raise refused(f"{words} is the end of several ids: {', '.join(map(str, found))}; write more of it")
    raise refused(f"no id among {among} ends with {words}")


def pages(
    database: Database, find: Callable[[Connection, int, Row | None], Sequence[Row]], limit: int | None = None
) -> Iterator[Sequence[Row]]:
    """Pages of rows until there are no more, or `limit` rows; each in a transaction of its own.

    `find` is asked for at most so many rows behind the last row of the page before, or behind None at first.
    """
    last: Row | None = None
    left = limit
    while left is None or left > 0:
        most = PAGE if left is None else min(left, PAGE)
        with database.transaction() as connection:
            page = find(connection, most, last)
        if page:
            yield page
        if len(page) < most:
            return
        last = page[-1]
        left = None if left is None else left - len(page)
