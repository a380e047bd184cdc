"""A lane that is full is not read; the others are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from storage.database import Database
from storage.ingest import runnable
from tests.fixtures import JobTable
from tests.integration.ingesting import Stage, running, with_id
from tests.servers.kafka import Kafka

CAP, BATCH = 10, 5


@pytest.fixture
def stage(kafka: Kafka, database: Database) -> Stage:
    return Stage(kafka, database, partitions=2)


def jobs_of(stage: Stage, lane: str) -> int:
    found: int = stage.table.rows("SELECT count(*)::int AS n FROM jobs WHERE lane = :lane", lane=lane)[0]["n"]
    return found


def test_a_lane_at_its_cap_is_not_read_and_the_others_flow_and_below_it_is_read_on(stage: Stage) -> None:
    stage.send(*(with_id() for _ in range(50)), lane="backfill")
    with stage.ingester(lane_cap=CAP, batch=BATCH) as ingester:
        stage.until(lambda: ("backfill", "cap") in ingester.heard.pauses, "a pause")
        stage.send(*(with_id() for _ in range(3)))
        stage.until(lambda: jobs_of(stage, "interactive") == 3, "the other lane")
        stage.until(lambda: ingester.heard.lags["backfill"] == 50 - jobs_of(stage, "backfill"), "the lag")
        assert CAP <= jobs_of(stage, "backfill") < CAP + BATCH
        stage.table.rows("UPDATE jobs SET run_after = now() + interval '1 hour' WHERE lane = 'backfill'")
        stage.until(lambda: jobs_of(stage, "backfill") >= 2 * CAP, "more jobs")
        stage.until(lambda: ("backfill", "cap") in ingester.heard.pauses, "a pause again")
        assert jobs_of(stage, "backfill") < 2 * (CAP + BATCH)
        assert ingester.heard.ok


def test_a_full_lane_stays_paused_when_partitions_change_hands(stage: Stage) -> None:
    stage.send(*(with_id() for _ in range(60)), lane="backfill")
    first, second = (stage.ingester(lane_cap=CAP, batch=BATCH) for _ in range(2))
    with running(first):
        stage.until(lambda: ("backfill", "cap") in first.heard.pauses, "a pause")
        with second:
            stage.until(lambda: ("backfill", "cap") in second.heard.pauses, "a pause of the new member")
            turns = first.heard.turns
            stage.until(lambda: first.heard.turns > turns + 3, "turns after the rebalance")
            assert jobs_of(stage, "backfill") < CAP + BATCH
        stage.until(lambda: len(stage.kafka.members()) == 1, "one member")
        turns = first.heard.turns
        stage.until(lambda: first.heard.turns > turns + 5, "turns after the next one")
        assert ("backfill", "cap") in first.heard.pauses
    assert jobs_of(stage, "backfill") < CAP + BATCH


def test_partitions_that_were_paused_with_records_at_hand_are_read_on(kafka: Kafka, database: Database) -> None:
    stage = Stage(kafka, database, partitions=8)
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    stage.table.add(CAP, lane="backfill")
    for partition in range(8):
        stage.send(with_id(), *(with_id(run_after=later) for _ in range(50)), lane="backfill", partition=partition)
    with stage.ingester(lane_cap=CAP + 1, batch=BATCH, stuck_s=1000) as ingester:
        stage.until(lambda: ("backfill", "cap") in ingester.heard.pauses, "a pause")
        stage.send(*(with_id() for _ in range(8)))
        stage.until(lambda: jobs_of(stage, "interactive") == 8, "the other lane")
        stage.table.rows("UPDATE jobs SET run_after = now() + interval '1 hour' WHERE lane = 'backfill'")
        stage.until(lambda: jobs_of(stage, "backfill") == CAP + 8 * 51, "all of them")
        assert ingester.heard.rebuilds == []


def test_jobs_that_are_scheduled_for_later_do_not_fill_a_lane(stage: Stage) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    stage.send(*(with_id(run_after=later) for _ in range(50)), lane="backfill")
    with stage.ingester(lane_cap=CAP, batch=BATCH) as ingester:
        stage.until(lambda: jobs_of(stage, "backfill") == 50, "all of them")
        assert ("backfill", "cap") not in ingester.heard.pauses


def test_what_is_runnable_is_counted_up_to_a_number(table: JobTable) -> None:
    table.add(5)
    table.add(2, run_after=datetime.now(UTC) + timedelta(hours=1))
    table.claim(table.worker(), 1)
    with table.database.transaction() as connection:
        assert runnable(connection, "interactive", 100) == 4
        assert runnable(connection, "interactive", 3) == 3
        assert runnable(connection, "upload", 3) == 0
