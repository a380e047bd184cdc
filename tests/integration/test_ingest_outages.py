"""What ingest promises while Postgres, the object store or the broker are away, full, or come back changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from kafka.errors import CorruptRecordError, KafkaError

from intake.kafka.consumer import GroupConsumer
from intake.kafka.positions import Partition
from intake.kafka.record import Arrived
from intake.kafka.signals import Outcome
from storage.database import Connection, Database, Unreachable
from storage.objects.errors import StoreUnavailable
from storage.pooled import PooledDatabase
from storage.rejections import NewRejection
from storage.schema import migrate
from tests.integration.ingesting import Stage, noop, running, with_id
from tests.servers.kafka import Kafka
from tests.servers.postgres import PostgresServer


@pytest.fixture
def stage(kafka: Kafka, database: Database) -> Stage:
    return Stage(kafka, database)


class Leaving(PooledDatabase):
    """A database that can be away."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.away = threading.Event()
        self.refused = 0

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        if self.away.is_set():
            self.refused += 1
            raise Unreachable("it is away")
        with super().transaction() as connection:
            yield connection


@pytest.fixture
def leaving(database: Database) -> Iterator[Leaving]:
    leaving = Leaving(database.url)
    yield leaving
    leaving.close()


class Scripted(GroupConsumer):
    """A consumer whose polls and commits can be made to fail, as a test's functions say."""

    def __init__(self, *args: Any, before_poll: Callable[[], None] | None, before_commit: Callable[[], None] | None):
        super().__init__(*args)
        self._before_poll = before_poll
        self._before_commit = before_commit

    def poll(self, within_s: float) -> dict[Partition, list[Arrived]]:
        if self._before_poll is not None:
            self._before_poll()
        return super().poll(within_s)

    def commit(self, offsets: Any) -> None:
        if self._before_commit is not None:
            self._before_commit()
        super().commit(offsets)


def scripted(
    before_poll: Callable[[], None] | None = None, before_commit: Callable[[], None] | None = None
) -> Callable[..., GroupConsumer]:
    return lambda *args: Scripted(*args, before_poll=before_poll, before_commit=before_commit)


# --- the database


def test_a_batch_is_held_while_the_database_is_away_and_nothing_is_committed_over_it(
    stage: Stage, leaving: Leaving
) -> None:
    leaving.away.set()
    stage.send(*(with_id() for _ in range(20)))
    with stage.ingester(database=leaving) as ingester:
        stage.until(lambda: ("interactive", "held") in ingester.heard.pauses, "a held batch")
        stage.send(*(with_id() for _ in range(20)), lane="upload")
        stage.send(*(with_id() for _ in range(20)))
        turns, refused = ingester.heard.turns, leaving.refused
        stage.until(lambda: ingester.heard.turns > turns + 5 and leaving.refused > refused + 2, "further tries")
        assert "the database" in ingester.heard.why
        assert (stage.committed("interactive"), stage.committed("upload")) == (None, None)
        leaving.away.clear()
        stage.until_committed("interactive", 40)
        stage.until_committed("upload", 20)
        stage.until(lambda: ingester.heard.ok, "a good state")
    assert stage.count() == 60
    assert ingester.heard.outcomes == {Outcome.JOB: 60}
    assert ingester.heard.pauses == set()


def test_a_postgres_that_is_killed_and_recovers_costs_no_message(kafka: Kafka) -> None:
    with PostgresServer() as server:
        database = PooledDatabase(server.create_database("killed"))
        migrate(database)
        stage = Stage(kafka, database, partitions=2)
        with stage.ingester() as ingester:
            stage.send(*(with_id() for _ in range(100)))
            stage.until_jobs(100)
            server.kill()
            stage.send(*(with_id() for _ in range(100)))
            stage.until(lambda: ("interactive", "held") in ingester.heard.pauses, "a held batch")
            server.start()
            stage.until_jobs(200)
            topic = stage.topics["interactive"]
            stage.until(lambda: kafka.committed(topic) == kafka.ends(topic), "all is committed")
            stage.until(lambda: ingester.heard.ok, "a good state")
        assert stage.count() == 200
        database.close()


def test_a_held_batch_outlives_rebalances_without_a_hole(stage: Stage, leaving: Leaving) -> None:
    topic = stage.kafka.create("more", partitions=4)
    topics = {**stage.topics, "backfill": topic}
    leaving.away.set()
    sent = [with_id() for _ in range(200)]
    stage.kafka.produce(topic, *sent[:100])
    first, second = (stage.ingester(database=leaving, topics=topics) for _ in range(2))
    with first:
        stage.until(lambda: ("backfill", "held") in first.heard.pauses, "a held batch")
        with second:
            stage.until(lambda: len(stage.kafka.members()) == 2, "two members")
            stage.until(lambda: ("backfill", "held") in second.heard.pauses, "its share is held there")
            stage.kafka.produce(topic, *sent[100:])
            assert stage.kafka.committed(topic) == {}
        stage.until(lambda: len(stage.kafka.members()) == 1, "one member")
        assert stage.count() == 0
        assert stage.kafka.committed(topic) == {}
        leaving.away.clear()
        stage.until_jobs(200)
        stage.until(lambda: stage.kafka.committed(topic) == stage.kafka.ends(topic), "all is committed")
    assert stage.count() == 200
    assert stage.count("rejected_messages") == 0


def test_a_batch_is_held_while_the_object_store_does_not_take_what_is_too_much_for_postgres(stage: Stage) -> None:
    away = threading.Event()
    away.set()

    def place(rejections: Sequence[NewRejection]) -> Sequence[NewRejection]:
        if away.is_set():
            raise StoreUnavailable("s3://media/x", "it is away", "wait")
        return rejections

    stage.send(b"garbage")
    with stage.ingester(place=place) as ingester:
        stage.until(lambda: ingester.heard.failures["store"] > 1, "tries")
        assert stage.committed() is None
        away.clear()
        stage.until_committed("interactive", 1)
    assert stage.count("rejected_messages") == 1


def test_ingest_ends_soon_also_with_a_held_batch(stage: Stage, leaving: Leaving) -> None:
    leaving.away.set()
    stage.send(with_id())
    ingester = stage.ingester(database=leaving).start()
    stage.until(lambda: ("interactive", "held") in ingester.heard.pauses, "a held batch")
    ingester.stop(within_s=5)
    assert stage.committed() is None
    assert stage.kafka.members() == []


# --- the commit


def test_messages_whose_commit_was_lost_are_read_again_and_nothing_is_doubled(stage: Stage) -> None:
    died = threading.Event()

    def die() -> None:
        if not died.is_set():
            died.set()
            raise KafkaError("killed between transaction and commit")

    stage.send(noop(), noop(), with_id(), b"garbage")
    with stage.ingester(open_consumer=scripted(before_commit=die)) as ingester:
        stage.until_committed("interactive", 4)
    assert (stage.count(), stage.count("rejected_messages")) == (3, 1)
    assert ingester.heard.outcomes == {Outcome.JOB: 3, Outcome.DUPLICATE: 3, Outcome.REJECTED: 2}
    assert ingester.heard.rebuilds == ["error"]


# --- the consumer


def test_a_consumer_that_is_stuck_is_made_anew(stage: Stage) -> None:
    made: list[GroupConsumer] = []

    class Stuck(GroupConsumer):
        def poll(self, within_s: float) -> dict[Partition, list[Arrived]]:
            return super().poll(within_s) if not self.assignment() else {}

    def opened(*args: Any) -> GroupConsumer:
        made.append(Stuck(*args) if not made else GroupConsumer(*args))
        return made[-1]

    stage.send(with_id())
    with stage.ingester(open_consumer=opened, stuck_s=1) as ingester:
        stage.until_committed("interactive", 1)
    assert ingester.heard.rebuilds == ["stuck"]
    assert len(made) == 2


def test_an_error_of_the_client_costs_its_consumer_and_not_the_process(stage: Stage) -> None:
    errors = [CorruptRecordError("on purpose"), KafkaError("another")]

    def fail() -> None:
        if errors:
            raise errors.pop()

    stage.send(with_id())
    with stage.ingester(open_consumer=scripted(before_poll=fail)) as ingester:
        stage.until_committed("interactive", 1)
        stage.until(lambda: ingester.heard.ok, "a good state")
    assert ingester.heard.rebuilds == ["error", "error"]
    assert next(why for ok, why in ingester.heard.states if not ok).endswith("another")


# --- what is done in between


def test_rejections_are_validated_again_turn_by_turn_until_there_are_no_more(stage: Stage) -> None:
    left = [True, True, True, False]
    asked: list[int] = []

    def revalidate() -> bool:
        asked.append(ingester.heard.turns)
        return left.pop(0)

    ingester = stage.ingester(revalidate=revalidate)
    with ingester:
        stage.send(with_id())
        stage.until_committed("interactive", 1)
        stage.until(lambda: not left, "the last rejections")
    assert asked == sorted(set(asked))
    assert left == []


def test_an_object_store_that_is_away_is_not_asked_for_rejections_at_each_turn(stage: Stage) -> None:
    asked: list[int] = []

    def revalidate() -> bool:
        asked.append(1)
        raise StoreUnavailable("s3://media", "is away", "wait")

    with stage.ingester(revalidate=revalidate, most_wait_s=0.01) as ingester:
        stage.send(with_id())
        stage.until_committed("interactive", 1)
        turns = ingester.heard.turns
        stage.until(lambda: ingester.heard.turns > turns + 5, "some turns")
    assert asked == [1]


# --- the broker


def test_a_broker_that_is_away_is_waited_for_at_the_start_and_later(own_kafka: Kafka, database: Database) -> None:
    stage = Stage(own_kafka, database)
    own_kafka.server.kill()
    with stage.ingester(answer_s=1) as ingester:
        stage.until(lambda: "Kafka" in ingester.heard.why, "a bad state")
        own_kafka.server.start()
        stage.send(with_id())
        stage.until_jobs(1)
        stage.until(lambda: ingester.heard.ok, "a good state")
        own_kafka.server.kill()
        stage.until(lambda: not ingester.heard.ok, "a bad state again")
        turns = ingester.heard.turns
        stage.until(lambda: ingester.heard.turns > turns, "it still turns")
        own_kafka.server.start()
        stage.send(with_id())
        stage.until_jobs(2)
        stage.until(lambda: ingester.heard.ok, "a good state again")
    assert stage.count() == 2


def test_a_broker_that_does_not_answer_is_waited_for(own_kafka: Kafka, database: Database) -> None:
    stage = Stage(own_kafka, database)
    stage.send(with_id())
    with stage.ingester(answer_s=1) as ingester:
        stage.until_committed("interactive", 1)
        own_kafka.server.freeze()
        stage.until(lambda: not ingester.heard.ok, "a bad state")
        own_kafka.server.thaw()
        stage.send(with_id())
        stage.until_jobs(2)
        stage.until(lambda: ingester.heard.ok, "a good state")
    assert stage.committed() == 2


# --- together


def test_nothing_is_lost_or_doubled_while_ingesters_come_and_go(kafka: Kafka, database: Database) -> None:
    stage = Stage(kafka, database, partitions=6)
    sent = 3_000
    ingesters = [stage.ingester(batch=50) for _ in range(3)]
    with running(*ingesters):
        for part in range(5):
            stage.send(*(noop() if n % 2 else with_id() for n in range(sent // 5)), lane="backfill")
            if part < 4:
                stage.until_jobs(sent // 5 * part + 1)
                stopped = ingesters[part % 3]
                stopped.stop()
                ingesters[part % 3] = stage.ingester(batch=50).start()
        try:
            stage.until_jobs(sent)
            topic = stage.topics["backfill"]
            stage.until(lambda: kafka.committed(topic) == kafka.ends(topic), "all is committed")
        finally:
            for one in ingesters:
                one.stop()
    assert stage.count() == sent
    assert stage.count("rejected_messages") == 0


def test_offsets_of_a_member_that_is_out_are_not_committed(stage: Stage) -> None:
    """Its session ends while it stores: another has the partition then, and reads the batch again."""
    first_stores, other_is_done = threading.Event(), threading.Event()

    def slow(rejections: Sequence[NewRejection]) -> Sequence[NewRejection]:
        first_stores.set()
        assert other_is_done.wait(30)
        return rejections

    stage.send(b"garbage", with_id())
    first = stage.ingester(place=slow, turn_s=1)
    with first:
        assert first_stores.wait(20)
        with stage.ingester() as second:
            stage.until_committed("interactive", 2)
            stage.send(with_id())
            stage.until_committed("interactive", 3)
            other_is_done.set()
            stage.until(lambda: first.heard.outcomes[Outcome.REJECTED] == 1, "the first has stored its batch")
            assert stage.committed() == 3
        assert second.heard.outcomes[Outcome.JOB] >= 1
    assert (stage.count(), stage.count("rejected_messages")) == (2, 1)
