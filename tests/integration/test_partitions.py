"""Months of jobs: made ahead, filled with what came before them, dropped whole, by several daemons at once."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from intake.identity import new_id
from storage.database import Database, LockTimeout
from storage.partitions import TABLES, Month, drop_expired, ensure_partitions
from storage.settle import Ending
from storage.sql import text
from tests.fixtures import JobTable

SettleOne = Callable[..., str | None]
#: A month that no fresh database has made.
MAY = datetime(2031, 5, 10, tzinfo=UTC)
KEPT = timedelta(days=90)


def partitions(table: JobTable, of: str) -> set[str]:
    rows = table.rows(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = CAST(:of AS regclass)",
        of=of,
    )
    return {row["relname"] for row in rows}


def where(table: JobTable, id_: uuid.UUID) -> set[str]:
    """The partitions that a job's rows lie in."""
    rows = [
        row
        for name, column in TABLES.items()
        for row in table.rows(f"SELECT tableoid::regclass::text AS place FROM {name} WHERE {column} = :id", id=id_)
    ]
    return {row["place"] for row in rows}


def id_in(month: Month, version: int = 4) -> uuid.UUID:
    """Somebody's UUID whose first 48 bits happen to lie in a month."""
    return uuid.UUID(int=month.first_id.int | (uuid.uuid4().int & ((1 << 80) - 1)), version=version)


def add(table: JobTable, id_: uuid.UUID) -> uuid.UUID:
    from storage.submit import NewJob, submit

    submit(table.database, [NewJob(id_, "test.noop", "interactive", b"b" * 32, {"type": "test.noop"})])
    return id_


def really_there(table: JobTable) -> dict[str, int]:
    return {r["state"]: r["n"] for r in table.rows("SELECT state, count(*)::int AS n FROM jobs GROUP BY state")}


# --- made ahead ---


def test_last_month_to_three_months_ahead_are_there_for_every_table(database: Database, table: JobTable) -> None:
    months = ["203104", "203105", "203106", "203107", "203108"]
    assert ensure_partitions(database, MAY) == [f"{name}_{month}" for month in months for name in TABLES]
    for name in TABLES:
        assert {f"{name}_{month}" for month in months} < partitions(table, name)
    assert ensure_partitions(database, MAY) == []
    assert ensure_partitions(database, MAY + timedelta(days=31)) == [f"{name}_203109" for name in TABLES]


def test_a_fresh_database_has_the_months_of_today(table: JobTable) -> None:
    this = Month.of(datetime.now(UTC))
    assert {f"jobs_{this.plus(n).suffix}" for n in range(-1, 4)} <= partitions(table, "jobs")
    [id_] = table.add()
    assert where(table, id_) == {f"{name}_{this.suffix}" for name in ("jobs", "job_details", "job_events")}


@pytest.mark.parametrize(
    ("month", "following"),
    [(Month(2031, 12), Month(2032, 1)), (Month(2032, 2), Month(2032, 3)), (Month(2031, 1), Month(2031, 2))],
)
def test_a_month_ends_where_the_next_one_begins(month: Month, following: Month) -> None:
    assert month.plus(1) == following
    assert following.plus(-1) == month
    last = uuid.UUID(int=following.first_id.int - 1)
    assert Month.of(datetime.fromtimestamp((last.int >> 80) / 1000, UTC)) == month
    assert Month.of(datetime.fromtimestamp((following.first_id.int >> 80) / 1000, UTC)) == following


def test_a_month_has_every_index_and_rule_of_its_table(database: Database, table: JobTable) -> None:
    ensure_partitions(database, MAY)
    for name in TABLES:
        sql = "SELECT count(*)::int AS n FROM pg_indexes WHERE tablename = :name"
        assert table.rows(sql, name=f"{name}_203105") == table.rows(sql, name=name)
        sql = "SELECT conname FROM pg_constraint WHERE conrelid = CAST(:name AS regclass) AND contype = 'c' ORDER BY 1"
        assert table.rows(sql, name=f"{name}_203105") == table.rows(sql, name=name)


# --- ids of others ---


def test_ids_that_lie_in_no_month_are_kept_in_the_default_and_move_when_their_month_is_made(
    database: Database, table: JobTable, settle_one: SettleOne
) -> None:
    ahead = [add(table, id_in(Month(2031, 6))) for _ in range(3)]
    elsewhere = add(table, id_in(Month(2044, 1)))
    (job,) = table.claim(table.worker())
    assert settle_one(job, Ending.SUCCEEDED, result={"n": 1}) == "succeeded"
    before = {id_: (table.row(id_), table.events(id_)) for id_ in (*ahead, elsewhere)}
    assert where(table, ahead[0]) == {"jobs_default", "job_details_default", "job_events_default"}

    ensure_partitions(database, MAY)
    for id_ in ahead:
        assert where(table, id_) == {"jobs_203106", "job_details_203106", "job_events_203106"}
    assert where(table, elsewhere) == {"jobs_default", "job_details_default", "job_events_default"}
    assert {id_: (table.row(id_), table.events(id_)) for id_ in before} == before
    assert table.counts() == really_there(table) == {"queued": 3, "succeeded": 1}


def test_a_job_can_be_claimed_settled_and_known_again_after_its_move(
    database: Database, table: JobTable, settle_one: SettleOne
) -> None:
    id_ = add(table, id_in(Month(2031, 6)))
    worker = table.worker()
    (job,) = table.claim(worker)
    ensure_partitions(database, MAY)
    assert settle_one(job, Ending.FAILED, error={"type": "X", "message": "x"}) == "queued"
    (again,) = table.claim(worker)
    assert (again.fence.id, again.fence.attempt) == (id_, 2)
    assert settle_one(again, Ending.SUCCEEDED, result={}) == "succeeded"
    add(table, id_)
    assert len(table.rows("SELECT * FROM jobs")) == 1


def test_a_record_that_waits_for_a_month_to_be_made_finds_its_job_where_it_is_then(
    database: Database, table: JobTable, settle_one: SettleOne
) -> None:
    """The move takes the default partition first: nobody looks at a row that is about to be another one."""
    add(table, id_in(Month(2031, 6)))
    (job,) = table.claim(table.worker())
    with ThreadPoolExecutor() as pool:
        with database.transaction() as blocking:
            # The mover must wait for this row, with the record behind it.
            blocking.execute(text("SELECT FROM jobs WHERE id = :id FOR UPDATE"), {"id": job.fence.id})
            made = pool.submit(ensure_partitions, database, MAY)
            wait_for_lock_waiters(table, 1)
            settled = pool.submit(settle_one, job, Ending.SUCCEEDED, result={})
            wait_for_lock_waiters(table, 2)
        assert settled.result(30) == "succeeded"
        made.result(30)
    assert where(table, job.fence.id) == {"jobs_203106", "job_details_203106", "job_events_203106"}


def wait_for_lock_waiters(table: JobTable, n: int) -> None:
    sql = "SELECT count(DISTINCT pid)::int AS n FROM pg_locks WHERE NOT granted"
    while table.rows(sql)[0]["n"] < n:
        pass


# --- dropped ---


def test_months_that_are_no_longer_kept_are_dropped_whole_and_the_counts_agree(
    database: Database, table: JobTable, settle_one: SettleOne
) -> None:
    ensure_partitions(database, MAY)
    old = [add(table, id_in(Month(2031, 4))) for _ in range(4)]
    young = [add(table, id_in(Month(2031, 8))) for _ in range(3)]
    for job in table.claim(table.worker(), 7):
        ending = Ending.SUCCEEDED if job.fence.id in young or job.fence.id == old[0] else Ending.REFUSED
        settle_one(job, ending, result={} if ending is Ending.SUCCEEDED else None)
    assert table.counts() == {"succeeded": 4, "failed": 3}

    dropped = drop_expired(database, kept=KEPT, now=datetime(2031, 9, 1, tzinfo=UTC))
    assert {f"{name}_203104" for name in TABLES} <= set(dropped)
    # On 1 September, 90 days ago was in June.
    assert "jobs_203105" in dropped
    assert not {"jobs_203106", "jobs_203107", "jobs_203108"} & set(dropped)
    assert partitions(table, "jobs") >= {"jobs_default", "jobs_203106", "jobs_203108"}
    assert table.counts() == really_there(table) == {"succeeded": 3}
    assert len(table.rows("SELECT DISTINCT id FROM job_events")) == 3
    assert drop_expired(database, kept=KEPT, now=datetime(2031, 9, 1, tzinfo=UTC)) == []


def test_a_month_with_a_live_job_in_it_stays_and_the_others_go(
    database: Database, table: JobTable, settle_one: SettleOne
) -> None:
    ensure_partitions(database, MAY)
    live = add(table, id_in(Month(2031, 5)))
    dropped = drop_expired(database, kept=KEPT, now=datetime(2032, 1, 1, tzinfo=UTC))
    assert "jobs_203105" not in dropped
    assert {"jobs_203104", "jobs_203106"} <= set(dropped)
    assert table.counts() == {"queued": 1}
    (job,) = table.claim(table.worker())
    assert job.fence.id == live
    assert settle_one(job, Ending.REFUSED) == "failed"
    assert "jobs_203105" in drop_expired(database, kept=KEPT, now=datetime(2032, 1, 1, tzinfo=UTC))
    assert table.counts() == really_there(table) == {}


def test_an_id_of_a_month_that_was_dropped_is_kept_in_the_default(database: Database, table: JobTable) -> None:
    ensure_partitions(database, MAY)
    drop_expired(database, kept=KEPT, now=datetime(2032, 1, 1, tzinfo=UTC))
    assert "jobs_default" in where(table, add(table, id_in(Month(2031, 5))))
    assert table.counts() == {"queued": 1}


# --- several daemons, and work going on ---


def test_daemons_that_keep_partitions_at_once_make_each_month_once(database: Database, table: JobTable) -> None:
    add(table, id_in(Month(2031, 6)))
    together = threading.Barrier(4)

    def keep() -> list[str]:
        together.wait()
        return ensure_partitions(database, MAY)

    with ThreadPoolExecutor(4) as pool:
        made = [name for future in [pool.submit(keep) for _ in range(4)] for name in future.result(60)]
    assert len(made) == len(set(made)) == 5 * len(TABLES)
    assert table.counts() == really_there(table) == {"queued": 1}


def test_daemons_that_drop_at_once_drop_each_month_once(
    database: Database, table: JobTable, settle_one: SettleOne
) -> None:
    ensure_partitions(database, MAY)
    for month in range(4, 9):
        add(table, id_in(Month(2031, month)))
    for job in table.claim(table.worker(), 5):
        settle_one(job, Ending.SUCCEEDED, result={})
    together = threading.Barrier(4)

    def drop() -> list[str]:
        together.wait()
        return drop_expired(database, kept=KEPT, now=datetime(2032, 1, 1, tzinfo=UTC))

    with ThreadPoolExecutor(4) as pool:
        dropped = [name for future in [pool.submit(drop) for _ in range(4)] for name in future.result(60)]
    assert len(dropped) == len(set(dropped))
    assert {f"{name}_2031{month:02}" for month in range(4, 9) for name in TABLES} <= set(dropped)
    assert table.counts() == really_there(table) == {}


def test_months_can_be_made_and_dropped_while_jobs_come_and_go(
    database: Database, table: JobTable, settle_one: SettleOne
) -> None:
    ensure_partitions(database, MAY)
    for month in (4, 5, 6):
        add(table, id_in(Month(2031, month)))
    for job in table.claim(table.worker(), 3):
        settle_one(job, Ending.SUCCEEDED, result={})
    over = threading.Event()

    def work() -> int:
        worker, done = table.worker(), 0
        while not over.is_set():
            add(table, new_id())
            for job in table.claim(worker, 5):
                assert settle_one(job, Ending.SUCCEEDED, result={}) == "succeeded"
                done += 1
        return done

    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(work) for _ in range(3)]
        try:
            dropped = drop_expired(database, kept=KEPT, now=datetime(2031, 12, 1, tzinfo=UTC))
            made = ensure_partitions(database, datetime(2034, 1, 1, tzinfo=UTC))
        finally:
            over.set()
        assert all(future.result(30) for future in working)
    assert {"jobs_203104", "jobs_203105", "jobs_203106"} <= set(dropped)
    assert len(made) == 5 * len(TABLES)
    assert table.counts() == really_there(table)


def test_a_table_that_somebody_holds_is_left_alone_in_bounded_time(database: Database, table: JobTable) -> None:
    ensure_partitions(database, MAY)
    with database.transaction() as holding:
        holding.execute(text("LOCK TABLE jobs IN ACCESS SHARE MODE"))
        with pytest.raises(LockTimeout):
            drop_expired(database, kept=KEPT, now=datetime(2032, 1, 1, tzinfo=UTC), lock_timeout_s=0.1)
    assert "jobs_203105" in partitions(table, "jobs")
