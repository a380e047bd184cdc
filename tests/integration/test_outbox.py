"""The outbox's statements: what is leased, in what order, and what becomes of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from storage import destinations, jobs, outbox
from storage.database import Database
from storage.outbox import Event, EventState, Filter, Refused
from storage.settle import Ending, Rules
from storage.sql import text
from tests.fixtures import JobTable
from tests.integration.relaying import end_again, end_jobs, ensure, outbox_rows

A, B = uuid.UUID(int=1), uuid.UUID(int=2)


def lease(
    database: Database, relay: uuid.UUID = A, cluster: str = "here", for_s: float = 60, **more: Any
) -> list[Event]:
    with database.transaction() as connection:
        return outbox.lease(connection, relay, cluster, for_s=for_s, **more)


def delivered(database: Database, events: list[Event], relay: uuid.UUID = A) -> int:
    with database.transaction() as connection:
        return outbox.delivered(connection, relay, [event.seq for event in events])


def refuse(database: Database, event: Event, delay_s: float = 0, *, dead: bool = False) -> None:
    with database.transaction() as connection:
        outbox.refused(connection, A, [Refused(event.seq, "too_large: 2 MiB", delay_s, dead)])


def states(database: Database) -> list[EventState]:
    with database.transaction() as connection:
        return [event["state"] for event in outbox.find(connection, Filter(), limit=100)]


def two_ends(table: JobTable) -> uuid.UUID:
    """A job that failed, was tried again and succeeded: two events."""
    (id_,) = end_jobs(table, ending=Ending.REFUSED)
    with table.database.transaction() as connection:
        jobs.retry(connection, [id_])
    end_again(table, [id_])
    assert len(outbox_rows(table)) == 2
    return id_


def test_events_are_leased_oldest_first_and_to_one_relay(database: Database, table: JobTable) -> None:
    ensure(database)
    ids = end_jobs(table, 3)
    first = lease(database, most=2)
    assert [event.job_id for event in first] == ids[:2]
    assert [event.job_id for event in lease(database, B)] == ids[2:]
    assert lease(database, B) == []
    assert delivered(database, first) == 2
    assert states(database) == ["leased"]


def test_the_younger_event_of_a_job_waits_for_the_older(database: Database, table: JobTable) -> None:
    ensure(database)
    two_ends(table)
    (failed,) = lease(database)
    assert failed.kind == "mediamill.job.failed"
    assert lease(database, B) == []
    refuse(database, failed, delay_s=60)
    assert lease(database, B) == []
    table.rows("UPDATE outbox SET next_at = now()")
    assert lease(database) != []
    assert delivered(database, [failed]) == 1
    (succeeded,) = lease(database, B)
    assert succeeded.kind == "mediamill.job.succeeded"


def test_a_dead_event_does_not_keep_back_what_follows_it(database: Database, table: JobTable) -> None:
    ensure(database)
    two_ends(table)
    (failed,) = lease(database)
    refuse(database, failed, dead=True)
    (succeeded,) = lease(database)
    assert succeeded.kind == "mediamill.job.succeeded"
    assert states(database) == ["dead", "leased"]


def test_an_expired_lease_is_taken_over_and_its_former_holder_deletes_nothing(
    database: Database, table: JobTable
) -> None:
    ensure(database)
    end_jobs(table)
    late = lease(database, A, for_s=0)
    assert [event.seq for event in lease(database, B)] == [event.seq for event in late]
    assert delivered(database, late, A) == 0
    assert delivered(database, late, B) == 1


def test_a_postponed_event_is_as_it_was_but_due_later(database: Database, table: JobTable) -> None:
    ensure(database)
    end_jobs(table)
    (before,) = outbox_rows(table)
    (event,) = lease(database)
    with database.transaction() as connection:
        outbox.postpone(connection, B, [event.seq], delay_s=60)
    assert states(database) == ["leased"]
    with database.transaction() as connection:
        outbox.postpone(connection, A, [event.seq], delay_s=60)
    (after,) = outbox_rows(table)
    assert {**after, "next_at": None} == {**before, "next_at": None}
    assert after["next_at"] > before["next_at"] + timedelta(seconds=50)
    assert lease(database) == []


def test_a_destination_that_is_left_out_keeps_no_other_waiting(database: Database, table: JobTable) -> None:
    ensure(database, topics={"results": "results", "other": "other"})
    end_jobs(table)
    assert [event.destination for event in lease(database, without=["results"])] == ["other"]
    assert [event.destination for event in lease(database)] == ["results"]


def test_a_refused_event_comes_back_after_its_delay_with_its_error(database: Database, table: JobTable) -> None:
    ensure(database)
    end_jobs(table, 2)
    first, second = lease(database)
    refuse(database, first, delay_s=60)
    refuse(database, second)
    assert [(event.seq, event.tries) for event in lease(database)] == [(second.seq, 1)]
    with database.transaction() as connection:
        (shown,) = outbox.find(connection, Filter(states=[EventState.REFUSED]), limit=10)
    assert (shown["seq"], shown["tries"], shown["last_error"]) == (first.seq, 1, "too_large: 2 MiB")
    assert shown["next_at"] > shown["created_at"]


def test_one_lease_is_bounded_by_bytes_but_never_empty(database: Database, table: JobTable) -> None:
    ensure(database)
    end_jobs(table, 3)
    assert len(lease(database, most_bytes=1)) == 1
    assert len(lease(database, most_bytes=1 << 20)) == 2


def test_only_destinations_on_the_own_cluster_that_are_switched_on_are_leased(
    database: Database, table: JobTable
) -> None:
    ensure(database, "there")
    end_jobs(table)
    assert lease(database, cluster="here") == []
    with database.transaction() as connection:
        destinations.set_enabled(connection, "results", enabled=False)
    assert lease(database, cluster="there") == []
    with database.transaction() as connection:
        destinations.set_enabled(connection, "results", enabled=True)
    assert len(lease(database, cluster="there")) == 1


def test_events_for_webhooks_wait_and_are_in_nobodys_way(database: Database, table: JobTable) -> None:
    ensure(database)
    end_jobs(table, 2, message={"callback": "https://example.com/hook"})
    assert [event.destination for event in lease(database)] == ["results", "results"]
    with database.transaction() as connection:
        waiting = {each.name: (each.waiting, each.kind, each.target) for each in destinations.overview(connection)}
    assert waiting == {"results": (2, "topic", "results"), "webhook": (2, "webhook", None)}


def test_a_destination_that_is_there_stays_as_it_is(database: Database) -> None:
    ensure(database, None)
    with database.transaction() as connection:
        destinations.set_enabled(connection, "results", enabled=False)
        assert destinations.ensure(connection, "results", "other", None).cluster_id is None
        assert destinations.ensure(connection, "results", "other", "here").cluster_id == "here"
        there = destinations.ensure(connection, "results", "other", "there")
    assert (there.target, there.enabled, there.cluster_id) == ("results", False, "here")


def test_what_waits_follows_its_destination_to_another_topic(database: Database, table: JobTable) -> None:
    ensure(database)
    end_jobs(table)
    with database.transaction() as connection:
        assert destinations.move(connection, "results", target="ends", cluster_id="there")
        assert not destinations.move(connection, "nowhere", target="ends")
    assert [event.target for event in lease(database, cluster="there")] == ["ends"]


def test_a_destination_that_is_off_gets_no_events_and_gets_them_again_when_it_is_on(
    database: Database, table: JobTable
) -> None:
    ensure(database)
    for enabled in (False, True):
        with database.transaction() as connection:
            destinations.set_enabled(connection, "results", enabled)
        end_jobs(table)
        assert len(outbox_rows(table)) == int(enabled)


def test_the_dead_letter_destination_gets_no_events_of_jobs(database: Database, table: JobTable) -> None:
    ensure(database, topics={"dead-letter": "rejected"})
    end_jobs(table)
    assert outbox_rows(table) == []


def test_dead_and_refused_events_are_due_at_once_when_somebody_retries_them(
    database: Database, table: JobTable
) -> None:
    ensure(database)
    end_jobs(table, 3)
    dead, refused, leased = lease(database)
    refuse(database, dead, dead=True)
    refuse(database, refused, delay_s=60)
    with database.transaction() as connection:
        answers = outbox.retry(connection, [dead.seq, refused.seq, leased.seq, 999])
    assert answers == {dead.seq: "dead", refused.seq: "refused", leased.seq: "leased"}
    assert [(event.seq, event.tries) for event in lease(database)] == [(dead.seq, 0), (refused.seq, 0)]


def test_a_trace_and_a_null_within_the_result_reach_the_event(database: Database, table: JobTable) -> None:
    ensure(database)
    (id_,) = table.add(trace={"traceparent": "00-a-b-01", "tracestate": "x=1"})
    end_again(table, [id_])
    table.rows("UPDATE outbox SET payload = payload || jsonb_build_object('result', '{\"a\": null}'::jsonb)")
    (event,) = lease(database)
    assert (event.traceparent, event.tracestate) == ("00-a-b-01", "x=1")
    assert '"trace"' not in event.data


def test_a_lease_reads_no_more_than_it_takes_however_much_waits_and_however_new_that_is(
    database: Database, table: JobTable
) -> None:
    ensure(database)
    table.rows("""
        INSERT INTO outbox (event_id, job_id, kind, destination, target, payload)
        SELECT gen_random_uuid(), gen_random_uuid(), 'mediamill.job.succeeded', 'results', 'results', '{}'
        FROM generate_series(1, 20000)
    """)
    values = {"relay_id": A, "cluster_id": "here", "most": 100, "most_bytes": 1 << 20, "for_s": 60, "without": []}
    with database.transaction() as connection:
        explain = text("EXPLAIN (ANALYZE, FORMAT JSON, TIMING OFF) " + outbox.LEASE.text)
        (plan,) = connection.execute(explain, values).scalar_one()
    nodes = list(nodes_of(plan["Plan"]))
    assert {node["Index Name"] for node in nodes if "Index Name" in node} == {"outbox_due", "outbox_job", "outbox_pkey"}
    assert all(node["Actual Rows"] * node["Actual Loops"] <= 100 for node in nodes)


def nodes_of(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan's nodes."""
    yield node
    for inner in node.get("Plans", ()):
        yield from nodes_of(inner)


def test_a_job_that_is_cancelled_again_without_having_run_is_news_again(database: Database, table: JobTable) -> None:
    ensure(database)
    (id_,) = table.add()
    for _ in range(2):
        with database.transaction() as connection:
            jobs.cancel(connection, [id_], Rules())
            jobs.retry(connection, [id_])
    told = outbox_rows(table)
    assert [row["kind"] for row in told] == ["mediamill.job.cancelled"] * 2
    assert told[0]["event_id"] != told[1]["event_id"]
