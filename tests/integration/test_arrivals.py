"""What is known of messages that were sent by Kafka, before and after a worker has read them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from threading import Timer
from typing import Any

import pytest

from config.lanes import Lane
from config.settings import Settings
from console.sending import wait_for_arrival
from handlers.registry import Registry
from handlers.test.noop import Noop
from intake.identity import new_id
from intake.kafka.options import KafkaOptions
from intake.kafka.publisher import Publisher
from intake.kafka.submit import Sent, gone_by, send_lines
from intake.message import Rules, parse
from storage.arrivals import Arrived, Expected, Refused, arrivals
from storage.database import Database
from storage.rejections import reject_within
from storage.sql import text
from storage.submit import NewJob, submit
from tests.integration.ingesting import Stage, noop
from tests.integration.rejecting import rejection
from tests.servers.kafka import Kafka

LANE: Lane = "upload"
Look = Callable[..., Sequence[Arrived | Refused | None]]


def job(**more: Any) -> NewJob:
    return replace(NewJob(new_id(), "test.noop", LANE, b"a" * 32, {"type": "test.noop"}), **more)


def expected(job: NewJob, record_id: uuid.UUID | None = None) -> Expected:
    return Expected(job.id, record_id or new_id(), job.body_sha256, job.tenant, job.dedupe_key)


@pytest.fixture
def look(database: Database) -> Look:
    def look(*wanted: Expected) -> list[Arrived | Refused | None]:
        with database.transaction() as connection:
            found = arrivals(connection, wanted)
        return [found.get(one.record_id) for one in wanted]

    return look


def test_a_dedupe_key_whose_time_has_passed_says_nothing_of_a_new_message(database: Database, look: Look) -> None:
    old, fresh = job(dedupe_key="k"), job(dedupe_key="k")
    submit(database, [old])
    assert look(expected(fresh)) == [Arrived(old.id)]
    with database.transaction() as connection:
        connection.execute(text("UPDATE job_dedupe SET until = now() - interval '1 second'"))
    assert look(expected(fresh)) == [None]
    submit(database, [fresh])
    assert look(expected(fresh)) == [Arrived(fresh.id)]


def test_of_two_messages_with_one_id_each_has_its_own_answer(database: Database, look: Look) -> None:
    first = job()
    second = replace(first, body_sha256=b"b" * 32)
    one, other = expected(first), expected(second)
    submit(database, [first])
    with database.transaction() as connection:
        reject_within(connection, [rejection(id_=other.record_id)])
    there, refused = look(one, other)
    assert there == Arrived(first.id)
    assert isinstance(refused, Refused)


def test_a_message_that_a_newer_build_took_after_all_is_its_job(database: Database, look: Look) -> None:
    taken = job()
    one = expected(taken)
    with database.transaction() as connection:
        reject_within(connection, [rejection(id_=one.record_id)])
    assert isinstance(look(one)[0], Refused)
    submit(database, [taken])
    assert look(one) == [Arrived(taken.id)]


# --- on a real broker


@pytest.fixture
def stage(kafka: Kafka, database: Database, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr("console.sending._HINT_S", 0.0)
    return Stage(kafka, database)


def send(stage: Stage, **message: Any) -> Sent:
    """As `mediamill submit` does."""
    rules = Rules.of(Settings.load(environ=stage.kafka.environ, files=[]).settings)
    spec = parse(noop(**message), Registry([Noop]), rules)
    with Publisher(KafkaOptions((stage.kafka.bootstrap,))) as publisher:
        [one] = send_lines(publisher, [(1, spec)], stage.topics)
    assert isinstance(one, Sent)
    return one


def wait(stage: Stage, one: Sent) -> Arrived | Refused:
    gone = partial(gone_by, KafkaOptions((stage.kafka.bootstrap,)), stage.topics, stage.kafka.group)
    return wait_for_arrival(stage.database, [one], gone, quiet=True)[one.record_id]


def test_waiting_ends_for_a_message_that_was_read_and_whose_dedupe_keys_holder_has_failed_since(stage: Stage) -> None:
    send(stage, dedupe_key="k")
    one = send(stage, dedupe_key="k")
    with stage.ingester():
        stage.until_committed("interactive", 2)
    stage.table.rows("DELETE FROM job_dedupe")
    answer = wait(stage, one)
    assert isinstance(answer, Refused)
    assert "has failed since" in answer.problems[0]["message"]


def test_waiting_ends_for_a_message_that_expired_unread(stage: Stage) -> None:
    one = send(stage)
    stage.kafka.delete_records(stage.topics["interactive"], before=1)
    assert isinstance(wait(stage, one), Refused)


def test_a_message_that_nobody_has_read_yet_is_waited_for(stage: Stage) -> None:
    one = send(stage)
    ingester = stage.ingester()
    later = Timer(0.5, ingester.start)
    later.start()
    assert wait(stage, one) == Arrived(one.id)
    later.join()
    ingester.stop()
