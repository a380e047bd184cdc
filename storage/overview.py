"""What goes on, for `mediamill top` and `doctor`: from the views and counters, never by counting jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from storage.jobs import counts
from storage.sql import Connection, text

# The partial index jobs_queued holds what is queued and no more.
QUEUE = text("SELECT lane, type, runnable, oldest FROM ops.queue ORDER BY lane, type")

# workers_live, and the few that ended lately.
WORKERS = text("""
    SELECT id, host, pid, build, devices, doing, started_at, beat_at, retired_at, retired_why,
           extract(epoch FROM now() - beat_at)::float AS beat_age_s
    FROM ops.workers WHERE retired_at IS NULL ORDER BY host, started_at, id
""")


@dataclass(frozen=True, slots=True)
class Overview:
    """One look at a deployment."""

    at: datetime
    jobs: Sequence[Mapping[str, Any]]
    """`lane, type, tenant, state, jobs`."""
    queue: Sequence[Mapping[str, Any]]
    """`lane, type, runnable, oldest`."""
    workers: Sequence[Mapping[str, Any]]
    """Those that are not retired, with `beat_age_s` by the database's clock."""


def overview(connection: Connection) -> Overview:
    """Everything at one moment."""
    return Overview(
        at=connection.scalar(text("SELECT now()")),
        jobs=counts(connection),
        queue=[dict(row) for row in connection.execute(QUEUE).mappings()],
        workers=[dict(row) for row in connection.execute(WORKERS).mappings()],
    )


@dataclass(frozen=True, slots=True)
class Server:
    """What the database is."""

    version: str
    pgvector: str | None
    """Of the extension in this database; None where it is not made yet."""
    pgvector_available: str | None
    """What the server could make; None where pgvector is not installed on it."""


SERVER = text("""
    SELECT current_setting('server_version') AS version,
           (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS pgvector,
           (SELECT default_version FROM pg_available_extensions WHERE name = 'vector') AS pgvector_available
""")


def server(connection: Connection) -> Server:
    """Versions of Postgres and pgvector."""
    return Server(*connection.execute(SERVER).one())
