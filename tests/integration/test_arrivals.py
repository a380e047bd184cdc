"""What is known of messages that were sent by Kafka, before and after a worker has read them."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from config.lanes import Lane
from intake.identity import new_id
from storage.arrivals import Arrived, Expected, Refused, arrivals
from storage.database import Database
from storage.rejections import reject_within
from storage.sql import text
from storage.submit import NewJob, submit
from tests.integration.rejecting import rejection

LANE: Lane = "upload"


def job(**more: object) -> NewJob:
    return replace(NewJob(new_id(), "test.noop", LANE, b"a" * 32, {"type": "test.noop"}), **more)


def expected(job: NewJob, record_id: uuid.UUID | None = None) -> Expected:
    return Expected(job.id, record_id or new_id(), job.body_sha256, job.tenant, job.dedupe_key)


@pytest.fixture
def look(database: Database):  # type: ignore[no-untyped-def]
    def look(*wanted: Expected) -> list[Arrived | Refused | None]:
        with database.transaction() as connection:
            found = arrivals(connection, wanted)
        return [found.get(one.record_id) for one in wanted]

    return look


def test_a_dedupe_key_whose_time_has_passed_says_nothing_of_a_message_on_its_way(database: Database, look) -> None:  # type: ignore[no-untyped-def]
    old, fresh = job(dedupe_key="k"), job(dedupe_key="k")
    submit(database, [old])
    assert look(expected(fresh)) == [Arrived(old.id)]
    with database.transaction() as connection:
        connection.execute(text("UPDATE job_dedupe SET until = now() - interval '1 second'"))
    assert look(expected(fresh)) == [None]
    submit(database, [fresh])
    assert look(expected(fresh)) == [Arrived(fresh.id)]


def test_of_two_messages_with_one_id_each_has_its_own_answer(database: Database, look) -> None:  # type: ignore[no-untyped-def]
    first = job()
    second = replace(first, body_sha256=b"b" * 32)
    one, other = expected(first), expected(second)
    submit(database, [first])
    with database.transaction() as connection:
        reject_within(connection, [rejection(id_=other.record_id)])
    there, refused = look(one, other)
    assert there == Arrived(first.id)
    assert isinstance(refused, Refused)


def test_a_message_that_a_newer_build_took_after_all_is_its_job(database: Database, look) -> None:  # type: ignore[no-untyped-def]
    taken = job()
    one = expected(taken)
    with database.transaction() as connection:
        reject_within(connection, [rejection(id_=one.record_id)])
    assert isinstance(look(one)[0], Refused)
    submit(database, [taken])
    assert look(one) == [Arrived(taken.id)]
