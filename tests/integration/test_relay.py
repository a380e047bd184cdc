"""The relay between a real Postgres and a broker that does as it is told: every interleaving, forced."""

from __future__ import annotations

import threading
import uuid
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from storage import destinations, jobs, outbox
from storage.database import Database
from storage.pooled import PooledDatabase
from storage.settle import Ending, Rules, Settlement, settle
from tests.fakes.publisher import FakePublisher
from tests.fixtures import JobTable
from tests.integration.relaying import NO, QUICK, TOPICS, Running, end_again, end_jobs, ensure, outbox_rows, relaying
from tests.servers.leashed import wait_until
from tests.servers.postgres import PostgresServer
from worker.events import JobEnded, Outgoing
from worker.publisher import Fault, Refusal
from worker.relay import Pace


def wait_empty(table: JobTable) -> None:
    wait_until(lambda: not outbox_rows(table), 10, "an empty outbox")


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("mediamill.job.") for event in events]


@pytest.mark.parametrize(
    ("ending", "kind"), [(Ending.SUCCEEDED, "succeeded"), (Ending.REFUSED, "failed"), (Ending.CANCELLED, "cancelled")]
)
def test_every_end_of_a_job_is_one_event_with_what_is_known_of_it(table: JobTable, ending: Ending, kind: str) -> None:
    publisher = FakePublisher()
    ensure(table.database)
    with relaying(table.database, publisher) as running:
        (id_,) = end_jobs(table, ending=ending, labels={"animal": "cat"})
        running.relay.wake()
        publisher.wait_for(1)
        wait_empty(table)
    (event,) = publisher.wait_for(1)
    data = JobEnded.model_validate(event["data"])
    assert (event["type"], event["subject"]) == (f"mediamill.job.{kind}", str(id_))
    assert (data.id, data.state, data.attempt, data.labels) == (id_, kind, 1, {"animal": "cat"})
    assert (data.result, data.error and data.error.message) == (
        ({"n": 1}, None) if kind == "succeeded" else (None, "no picture")
    )
    assert publisher.records[0].topic == "results"


def test_a_quarantined_job_is_an_event_too(table: JobTable) -> None:
    publisher = FakePublisher()
    ensure(table.database)
    (id_,) = table.add()
    (job,) = table.claim(table.worker())
    table.rows("UPDATE jobs SET alone = true, crashes = 1")
    with table.database.transaction() as connection:
        settle(connection, [Settlement.of(job.fence, Ending.LOST, error=NO)], Rules(crash_limit=2))
    with relaying(table.database, publisher):
        (event,) = publisher.wait_for(1)
    assert (kinds([event]), event["subject"]) == (["quarantined"], str(id_))


def test_a_job_that_is_tried_again_has_its_second_event_after_its_first(table: JobTable) -> None:
    publisher = FakePublisher()
    ensure(table.database)
    ids = end_jobs(table, 20, Ending.REFUSED)
    with table.database.transaction() as connection:
        jobs.retry(connection, ids)
    end_again(table, ids)
    # Every first event is refused once: its successor must not overtake it.
    seen = set[bytes]()

    def refuse_first(record: Outgoing) -> Refusal | None:
        new = record.value not in seen
        seen.add(record.value)
        return Refusal("not_now", "later") if new and b"job.failed" in record.value else None

    publisher.refuses = refuse_first
    with relaying(table.database, publisher), relaying(table.database, publisher):
        events = publisher.wait_for(40)
    for id_ in ids:
        assert kinds([event for event in events if event["subject"] == str(id_)]) == ["failed", "succeeded"]


def test_a_broker_that_is_away_delays_and_loses_nothing_and_is_told_once(table: JobTable) -> None:
    publisher = FakePublisher()
    ensure(table.database)
    with capture_logs() as logs, relaying(table.database, publisher) as running:
        publisher.wait_until_met()
        publisher.away.set()
        end_jobs(table, 3)
        publisher.wait_until_asked(5)
        outage = running.outbox()
        assert outage is not None
        assert (outage.ok, "the broker does not answer" in outage.why) == (False, True)
        publisher.away.clear()
        assert len(publisher.wait_for(3)) == 3
        wait_empty(table)
        wait_until(lambda: (check := running.outbox()) is not None and check.ok, 10, "good health")
    assert [entry["log_level"] for entry in logs] == ["warning", "info"]
    assert all(row["tries"] == 0 for row in outbox_rows(table))


def test_a_broker_that_is_away_at_the_start_keeps_no_event_from_being_written(table: JobTable) -> None:
    publisher = FakePublisher()
    publisher.away.set()
    with relaying(table.database, publisher):
        publisher.wait_until_met()
        end_jobs(table)
        publisher.away.clear()
        assert len(publisher.wait_for(1)) == 1


def test_after_a_lost_answer_an_event_comes_again_under_the_same_id(table: JobTable) -> None:
    publisher = FakePublisher()
    publisher.lost_answers = 1
    ensure(table.database)
    end_jobs(table)
    with relaying(table.database, publisher):
        first, second = publisher.wait_for(2)
        wait_empty(table)
    assert first == second


def test_who_did_not_take_a_batch_is_asked_with_one_event(table: JobTable) -> None:
    publisher = FakePublisher()
    publisher.lost_answers = 2
    ensure(table.database)
    end_jobs(table, 5)
    with relaying(table.database, publisher):
        publisher.wait_for(5 + 1 + 5)
    assert publisher.batches[:3] == [5, 1, 1]


def test_events_that_were_refused_before_are_not_sent_among_the_others(table: JobTable) -> None:
    publisher = FakePublisher()
    ensure(table.database)
    ids = end_jobs(table, 3)
    table.rows("UPDATE outbox SET tries = 1 WHERE job_id = :id", id=ids[0])
    with relaying(table.database, publisher):
        events = publisher.wait_for(3)
    assert publisher.batches == [2, 1]
    assert [event["subject"] for event in events] == [str(id_) for id_ in (*ids[1:], ids[0])]


def test_a_refused_event_is_dead_in_the_end_and_holds_up_no_other(table: JobTable) -> None:
    publisher = FakePublisher()
    ensure(table.database)
    ids = end_jobs(table, 5)
    bad = str(ids[2]).encode()
    publisher.refuses = lambda record: Refusal("too_large", "2 MiB") if record.key == bad else None
    with relaying(table.database, publisher) as running:
        publisher.wait_for(4)
        wait_until(lambda: any(row["dead_at"] for row in outbox_rows(table)), 10, "a dead event")
        wait_until(lambda: "1 events for results are dead" in str(running.outbox()), 10, "a remark")
    (row,) = outbox_rows(table)
    assert (row["job_id"], row["tries"]) == (ids[2], QUICK.tries)
    assert row["last_error"] == f"too_large: 2 MiB (an event of {len(publisher.records[0].value):,} bytes)"
    told = running.metrics.text().decode()
    assert 'outbox_events_total{kind="mediamill.job.succeeded",outcome="refused"} 2.0' in told
    assert 'outbox_events_total{kind="mediamill.job.succeeded",outcome="dead"} 1.0' in told
    assert "mediamill_outbox_dead 1.0" in told
    publisher.refuses = lambda record: None
    with table.database.transaction() as connection:
        outbox.retry(connection, [row["seq"]])
    with relaying(table.database, publisher):
        publisher.wait_for(5)
        wait_empty(table)


def test_two_relays_publish_each_event_once(database: Database, table: JobTable) -> None:
    publisher = FakePublisher()
    ensure(database)
    end_jobs(table, 300)
    pace = replace(QUICK, most=7)
    with relaying(database, publisher, pace), relaying(database, publisher, pace):
        events = publisher.wait_for(300)
        wait_empty(table)
    assert len(publisher.records) == len({event["id"] for event in events}) == 300


def test_what_a_relay_had_published_when_it_died_comes_again_under_the_same_ids(
    database: Database, table: JobTable
) -> None:
    publisher = FakePublisher()
    ensure(database)
    end_jobs(table, 3)
    with database.transaction() as connection:  # one that dies between its publish and its delete
        outbox.lease(connection, uuid.uuid4(), "here", for_s=0.3)
    with relaying(database, publisher):
        publisher.wait_for(3)
        wait_empty(table)
    assert len(publisher.records) == 3


def test_a_process_at_another_cluster_publishes_nothing_and_says_so_once(database: Database, table: JobTable) -> None:
    publisher = FakePublisher("there")
    ensure(database, "here")
    end_jobs(table)
    with capture_logs() as logs, relaying(database, publisher) as running:
        wait_until(lambda: (check := running.outbox()) is not None and not check.ok, 10, "bad health")
        check = running.outbox()
        assert check is not None
        assert check.why == (
            "this process is pointed at Kafka cluster there; it does not publish to results, which is on here"
        )
        looked = running.metrics.text()
        assert b"mediamill_outbox_waiting 1.0" in looked
        with database.transaction() as connection:
            destinations.move(connection, "results", cluster_id="there")
        publisher.wait_for(1)
        wait_until(lambda: (check := running.outbox()) is not None and check.ok, 10, "good health")
    warnings = [entry["event"] for entry in logs if entry["log_level"] == "warning"]
    assert len(warnings) == 1
    assert "`mediamill outbox target results --cluster there`" in warnings[0]


def test_settings_that_name_another_topic_change_nothing_and_are_warned_of(database: Database, table: JobTable) -> None:
    publisher = FakePublisher()
    ensure(database)
    end_jobs(table)
    with capture_logs() as logs, relaying(database, publisher, topics={"results": "ends"}):
        publisher.wait_for(1)
        wait_until(lambda: bool(logs), 10, "a warning")
    assert publisher.records[0].topic == "results"
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert "`mediamill outbox target results ends`" in logs[0]["event"]


def test_a_destination_that_is_switched_off_stays_so_and_what_waits_goes_on_when_it_is_on(
    database: Database, table: JobTable
) -> None:
    publisher = FakePublisher()
    ensure(database)
    end_jobs(table)
    with database.transaction() as connection:
        destinations.set_enabled(connection, "results", enabled=False)
    with relaying(database, publisher) as running:
        wait_until(lambda: "results is switched off" in str(running.outbox()), 10, "a remark")
        assert publisher.records == []
        with database.transaction() as connection:
            destinations.set_enabled(connection, "results", enabled=True)
        publisher.wait_for(1)


def test_on_stop_what_still_waits_goes_out(database: Database, table: JobTable) -> None:
    publisher = FakePublisher()
    ensure(database)
    end_jobs(table, 20)
    running = Running(database, publisher, replace(QUICK, most=3), TOPICS)
    running.stop.set()
    running.run()
    assert len(publisher.records) == 20
    assert outbox_rows(table) == []


def test_a_stop_does_not_wait_for_a_broker_that_is_away(database: Database, table: JobTable) -> None:
    publisher = FakePublisher()
    ensure(database)
    end_jobs(table)
    running = Running(database, publisher, replace(QUICK, drain_s=60), TOPICS)
    publisher.away.set()
    running.stop.set()
    running.run()
    assert publisher.asked == 1
    # Away only when it comes to the events: they are handed back before the end.
    publisher.away.clear()
    publisher.before = publisher.away.set
    running.run()
    assert [row["leased_by"] for row in outbox_rows(table)] == [None]


def test_a_relay_that_is_woken_does_not_wait_for_its_next_look(database: Database, table: JobTable) -> None:
    publisher = FakePublisher()
    ensure(database)
    with relaying(database, publisher, Pace(idle_s=60, busy_s=60)) as running:
        publisher.wait_until_met()
        ids = end_jobs(table)
        running.relay.wake()
        publisher.wait_for(1)
    assert [record.key for record in publisher.records] == [str(id_).encode() for id_ in ids]


def test_the_database_going_away_between_publish_and_delete_is_waited_for(table: JobTable) -> None:
    """What was delivered is deleted when the database is back, and not published again."""
    with PostgresServer() as server:
        from storage.schema import migrate

        database = PooledDatabase(server.create_database("relay"))
        migrate(database)
        here = JobTable(database)
        ensure(database)
        end_jobs(here, 2)
        publisher = FakePublisher()
        published = threading.Event()

        def kill_once() -> None:
            if not published.is_set():
                published.set()
                server.kill()

        publisher.before = kill_once
        with capture_logs() as logs, relaying(database, publisher) as running:
            assert published.wait(10)
            wait_until(lambda: (check := running.outbox()) is not None and not check.ok, 10, "bad health")
            server.start()
            wait_empty(here)
            end_jobs(here)
            publisher.wait_for(3)
        assert len({record.value for record in publisher.records}) == len(publisher.records) == 3
        relays = [entry["event"] for entry in logs if "relay" in entry["event"]]
        assert relays == [
            "the database does not answer; the relay waits",
            "the database answers the relay again",
        ]
        database.close()


def test_what_is_too_large_for_its_topic_is_told_without_its_result(table: JobTable) -> None:
    publisher = FakePublisher()
    publisher.refuses = lambda record: (
        Refusal("too_large", "1 KiB", Fault.SIZE) if b'"result":' in record.value else None
    )
    ensure(table.database)
    ids = end_jobs(table, 3)
    with relaying(table.database, publisher) as running:
        events = publisher.wait_for(3)
        wait_empty(table)
    assert [event["subject"] for event in events] == [str(id_) for id_ in ids]
    data = [JobEnded.model_validate(event["data"]) for event in events]
    assert [(one.state, one.result, one.result_omitted) for one in data] == [("succeeded", None, True)] * 3
    assert b'outcome="refused"' not in running.metrics.text()


def test_a_topic_that_takes_nothing_costs_no_event_its_tries_and_holds_up_no_other_destination(
    table: JobTable,
) -> None:
    publisher = FakePublisher()
    publisher.refuses = lambda record: (
        Refusal("unknown", "there is no topic gone", Fault.TOPIC) if record.topic == "gone" else None
    )
    ensure(table.database, topics={"results": "results", "other": "gone"})
    ids = end_jobs(table, 20)
    pace = replace(QUICK, most=7)
    with capture_logs() as logs, relaying(table.database, publisher, pace) as running:
        events = publisher.wait_for(20)
        wait_until(lambda: "other takes nothing: there is no topic gone" in str(running.outbox()), 10, "bad health")
        check = running.outbox()
        assert check is not None
        assert not check.ok
        end_jobs(table)
        publisher.wait_for(21)
        assert {row["tries"] for row in outbox_rows(table)} == {0}
        publisher.refuses = lambda record: None
        publisher.wait_for(42)
        wait_empty(table)
        wait_until(lambda: (check := running.outbox()) is not None and check.ok, 10, "good health")
    assert {event["subject"] for event in events} == set(map(str, ids))
    assert [entry["event"] for entry in logs] == [
        "a topic takes nothing; its events wait",
        "the topic takes events again",
    ]


def test_a_partition_that_does_not_answer_holds_up_and_doubles_no_event_of_another(table: JobTable) -> None:
    publisher = FakePublisher()
    ensure(table.database)
    ids = end_jobs(table, 5)
    stuck = str(ids[0]).encode()
    publisher.refuses = lambda record: Refusal("NO_ANSWER", "no leader", Fault.SILENCE) if record.key == stuck else None
    with relaying(table.database, publisher):
        publisher.wait_for(4)
        wait_until(lambda: len(outbox_rows(table)) == 1, 10, "all but one to be gone")
        publisher.refuses = lambda record: None
        publisher.wait_for(5)
        wait_empty(table)
    assert [record.key for record in publisher.records] == [str(id_).encode() for id_ in (*ids[1:], ids[0])]


def test_while_the_broker_is_away_metrics_tell_how_much_waits(table: JobTable) -> None:
    publisher = FakePublisher()
    publisher.away.set()
    ensure(table.database)
    end_jobs(table, 3)
    with relaying(table.database, publisher) as running:
        wait_until(lambda: b"mediamill_outbox_waiting 3.0" in running.metrics.text(), 10, "the metric")
    assert len(outbox_rows(table)) == 3
    assert publisher.records == []


def test_what_waits_for_a_destination_that_is_off_is_not_late(database: Database, table: JobTable) -> None:
    publisher = FakePublisher()
    ensure(database)
    end_jobs(table)
    with database.transaction() as connection:
        destinations.set_enabled(connection, "results", enabled=False)
    with relaying(database, publisher) as running:
        wait_until(lambda: b"mediamill_outbox_waiting 1.0" in running.metrics.text(), 10, "the metric")
        assert b"mediamill_outbox_oldest_seconds 0.0" in running.metrics.text()
