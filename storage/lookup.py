"""Small questions by key: a job by a part of its id, an object that is no longer there."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import Connection, text

#: Among how many of the newest jobs a suffix is looked for: no index knows the ends of ids.
RECENT = 200_000

# The primary keys of the partitions, backwards.
BY_SUFFIX = text("""
    SELECT id FROM (SELECT id FROM jobs ORDER BY id DESC LIMIT :recent) AS newest
    WHERE right(replace(id::text, '-', ''), length(:suffix)) = :suffix
    LIMIT 10
""")


def by_suffix(connection: Connection, suffix: str, *, recent: int = RECENT) -> Sequence[uuid.UUID]:
    """The jobs (10 at most) among the newest whose id ends with `suffix`: lower-case hexadecimal digits, no hyphens.

    The end and not the beginning: ids begin with the time, so that jobs of one minute begin alike.
    """
    return list(connection.scalars(BY_SUFFIX, {"suffix": suffix, "recent": recent}))


# objects' primary key
GONE = text("UPDATE objects SET gone_at = now() WHERE bucket = :bucket AND key = :key AND gone_at IS NULL")


def mark_gone(connection: Connection, bucket: str, key: str) -> None:
    """All known versions of an object were deleted: hits name another place of their content, if there is one."""
    connection.execute(GONE, {"bucket": bucket, "key": key})
