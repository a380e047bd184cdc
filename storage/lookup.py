"""Small questions by key: a job by a part of its id, what came of it, whether a worker lives."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.sql import Connection, text

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


# The primary keys of the job's partitions.
ENDED = text("""
    SELECT j.state, d.result, d.error FROM jobs j JOIN job_details d ON d.id = j.id
    WHERE j.id = :id AND j.finished_at IS NOT NULL
""")


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of a job."""

    state: str
    result: Any
    error: Mapping[str, Any] | None


def ended(connection: Connection, id_: uuid.UUID) -> Ended | None:
    """What came of a job; None until it has ended."""
    row = connection.execute(ENDED, {"id": id_}).first()
    return Ended(*row) if row is not None else None


# objects' primary key
GONE = text("UPDATE objects SET gone_at = now() WHERE bucket = :bucket AND key = :key AND gone_at IS NULL")


def mark_gone(connection: Connection, bucket: str, key: str) -> None:
    """All known versions of an object were deleted: hits name another place of their content, if there is one."""
    connection.execute(GONE, {"bucket": bucket, "key": key})


# workers_live. For showing only: whether a worker is dead is decided by reapers, on clocks of their own.
LIVE = text("""
    SELECT count(*) FROM workers
    WHERE retired_at IS NULL AND beat_at > now() - make_interval(secs => :lease_s)
""")


def live_workers(connection: Connection, *, lease_s: float) -> int:
    """How many workers have beaten within the lease."""
    return int(connection.scalar(LIVE, {"lease_s": lease_s}) or 0)
