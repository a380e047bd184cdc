"""Partitions by month of id: made ahead of time, dropped when their history is no longer kept."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from storage.database import Database
from storage.sql import Connection, text

TABLES = {"jobs": "id", "job_details": "id", "job_events": "id", "job_inputs": "job_id"}
MONTHS_AHEAD = 3
MONTHS_BEHIND = 1
#: Whoever waits for a lock on a table makes all later statements wait behind it: rather try again in an hour.
LOCK_TIMEOUT_S = 5.0
UNCOUNT = """
    INSERT INTO job_counts (lane, type, tenant, state, delta)
    SELECT lane, type, tenant, state, -count(*) FROM {partition} GROUP BY lane, type, tenant, state
"""
LIVE = "('waiting', 'queued', 'running')"


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A calendar month in UTC."""

    year: int
    month: int

    @classmethod
    def of(cls, moment: datetime) -> Month:
        moment = moment.astimezone(UTC)
        return cls(moment.year, moment.month)

    def plus(self, months: int) -> Month:
        count = self.year * 12 + self.month - 1 + months
        return Month(count // 12, count % 12 + 1)

    @property
    def start(self) -> datetime:
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    @property
    def first_id(self) -> uuid.UUID:
        """The least UUID whose 48 bits of milliseconds lie in the month (RFC 9562, version 7)."""
        return uuid.UUID(int=int(self.start.timestamp() * 1000) << 80)

    @property
    def suffix(self) -> str:
        return f"{self.year:04}{self.month:02}"


def ensure_partitions(database: Database, now: datetime | None = None) -> list[str]:
    """Makes the partitions from last month to three months ahead that do not exist, and returns their names.

    Last month too, because a job's id is as old as its message, and a backlog may be weeks old.
    """
    this = Month.of(now or datetime.now(UTC))
    made: list[str] = []
    for month in (this.plus(n) for n in range(-MONTHS_BEHIND, MONTHS_AHEAD + 1)):
        for table, column in TABLES.items():
            with database.transaction() as connection:
                if _make(connection, table, column, month):
                    made.append(f"{table}_{month.suffix}")
    return made


def _make(connection: Connection, table: str, column: str, month: Month) -> bool:
    name = f"{table}_{month.suffix}"
    bounds = {"low": month.first_id, "high": month.plus(1).first_id}
    _keep_alone(connection, LOCK_TIMEOUT_S)
    if _exists(connection, name):
        return False
    # Attaching takes this lock in any case. Taken first, nobody can put a row there meanwhile, or hold a lock on one
    # that is about to be moved: a record that comes now waits, and finds its job where it is then.
    connection.execute(text(f"LOCK TABLE {table}_default IN ACCESS EXCLUSIVE MODE"))
    connection.execute(text(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL EXCLUDING INDEXES)"))
    # A foreign id may lie in this month already, in the default partition, which then would refuse the new neighbour.
    connection.execute(
        text(
            f"WITH moved AS (DELETE FROM {table}_default WHERE {column} >= :low AND {column} < :high RETURNING *)"
            f" INSERT INTO {name} SELECT * FROM moved"
        ),
        bounds,
    )
    connection.execute(
        text(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{bounds['low']}') TO ('{bounds['high']}')")
    )
    return True


def drop_expired(
    database: Database, *, kept: timedelta, now: datetime | None = None, lock_timeout_s: float = LOCK_TIMEOUT_S
) -> list[str]:
    """Drops the months that ended longer than `kept` ago, unless a job in them is still live; returns their names.

    Raises LockTimeout where a transaction that has looked at jobs stays open for longer than that.
    """
    oldest = Month.of((now or datetime.now(UTC)) - kept)
    with database.transaction() as connection:
        names = connection.scalars(
            text(
                "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
                " WHERE i.inhparent = 'jobs'::regclass AND c.relname ~ '^jobs_[0-9]{6}$' ORDER BY 1"
            )
        )
    dropped: list[str] = []
    for suffix in (name.removeprefix("jobs_") for name in names):
        if Month(int(suffix[:4]), int(suffix[4:])) >= oldest:
            break
        with database.transaction() as connection:
            if _drop(connection, suffix, lock_timeout_s):
                dropped += [f"{table}_{suffix}" for table in TABLES]
    return dropped


def _drop(connection: Connection, suffix: str, lock_timeout_s: float) -> bool:
    _keep_alone(connection, lock_timeout_s)
    partition = f"jobs_{suffix}"
    if not _exists(connection, partition) or _is_live(connection, partition):
        return False
    # Dropping a partition takes its table exclusively. Every statement locks the table before its partitions: in any
    # other order than that, the first claim that comes along is a deadlock.
    tables = ", ".join(f"ONLY {table}" for table in TABLES)
    connection.execute(text(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE"))
    if _is_live(connection, partition):
        return False
    connection.execute(text(UNCOUNT.format(partition=partition)))
    for table in TABLES:
        connection.execute(text(f"DROP TABLE IF EXISTS {table}_{suffix}"))
    return True


def _keep_alone(connection: Connection, lock_timeout_s: float) -> None:
    """Several daemons keep partitions: one makes and drops them, the others find it done."""
    connection.execute(text(f"SET LOCAL lock_timeout = '{int(lock_timeout_s * 1000)}ms'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('mediamill.partitions'))"))


def _exists(connection: Connection, name: str) -> bool:
    return connection.scalar(text("SELECT to_regclass(:name)"), {"name": name}) is not None


def _is_live(connection: Connection, partition: str) -> bool:
    return bool(connection.scalar(text(f"SELECT EXISTS (SELECT FROM {partition} WHERE state IN {LIVE})")))
