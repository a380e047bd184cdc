"""A job's whole way through Kafka: a message, a worker, a result event; through the command line."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.database import Database
from storage.sql import text
from tests.e2e.stage import Stage, stage
from tests.fixtures import JobTable
from tests.servers.kafka import Kafka
from tests.servers.leashed import wait_until


@pytest.fixture
def on_kafka(tmp_path: Path, database: Database, kafka: Kafka, tiny_models: Path) -> Iterator[Stage]:
    environ = {**kafka.environ, "MEDIAMILL_KAFKA_PARTITIONS": "2", "MEDIAMILL_MODELS": str(tiny_models)}
    with stage(tmp_path, environ, database.url) as made:
        yield made


def test_a_message_becomes_a_job_and_its_end_an_event(on_kafka: Stage, kafka: Kafka) -> None:
    worker = on_kafka.worker().wait_until_ready()
    id_ = str(uuid.uuid4())
    kafka.produce(kafka.name("jobs.upload"), json.dumps({"type": "test.noop", "id": id_, "labels": {"a": "b"}}))
    [event] = kafka.consume(kafka.name("results"), 1)
    assert event.key == id_.encode()
    said = json.loads(event.value)
    assert (said["type"], said["subject"]) == ("mediamill.job.succeeded", id_)
    assert said["data"]["labels"] == {"a": "b"}
    shown = on_kafka.json("jobs", "show", id_)
    assert (shown["lane"], shown["state"]) == ("upload", "succeeded")
    assert worker.drain() == 0


def test_what_the_command_line_submits_goes_through_kafka_and_is_waited_for(on_kafka: Stage, kafka: Kafka) -> None:
    on_kafka.worker().wait_until_ready()
    said = on_kafka.json("submit", "test.noop", "--lane", "backfill", "--wait")
    [one] = said["submitted"]
    assert (one["admission"], one["state"]) == ("sent", "succeeded")
    [record] = kafka.consume(kafka.name("jobs.backfill"), 1)
    assert json.loads(record.value)["id"] == one["id"]


def test_a_direct_submission_goes_past_kafka(on_kafka: Stage, kafka: Kafka) -> None:
    on_kafka.worker().wait_until_ready()
    said = on_kafka.json("submit", "test.noop", "--direct", "--wait")
    assert said["submitted"][0]["admission"] == "inserted"
    assert kafka.consume(kafka.name("jobs.interactive")) == []


def test_of_a_message_that_a_worker_rejects_the_sender_hears_why(on_kafka: Stage) -> None:
    on_kafka.worker().wait_until_ready()
    id_ = str(uuid.uuid4())
    on_kafka.run("submit", "test.noop", "--id", id_, "--wait")
    other = on_kafka.run("submit", "test.noop", "--id", id_, "--label", "another=body", "--wait", check=False)
    assert other.returncode == 2
    assert f"/id: is {id_}, the id of a job with another body" in other.stderr


def test_a_message_whose_dedupe_key_is_held_ends_as_the_job_that_holds_it(on_kafka: Stage) -> None:
    on_kafka.worker().wait_until_ready()
    [first] = on_kafka.json("submit", "test.noop", "--dedupe-key", "one", "--wait")["submitted"]
    [again] = on_kafka.json("submit", "test.noop", "--dedupe-key", "one", "--wait")["submitted"]
    assert (again["id"], again["admission"]) == (first["id"], "deduplicated")


def test_each_role_can_be_a_process_of_its_own(on_kafka: Stage, kafka: Kafka) -> None:
    ingest = on_kafka.worker("ingest").wait_until_ready()
    [sent] = on_kafka.json("submit", "test.noop")["submitted"]
    wait_until(lambda: _state(on_kafka, sent["id"]) == "queued", 20, "the message to be a job")
    work = on_kafka.worker("work").wait_until_ready()
    wait_until(lambda: _state(on_kafka, sent["id"]) == "succeeded", 20, "the job to succeed")
    relay = on_kafka.worker("relay").wait_until_ready()
    [event] = kafka.consume(kafka.name("results"), 1)
    assert event.key == sent["id"].encode()
    assert [worker.drain() for worker in (ingest, work, relay)] == [0, 0, 0]


def test_a_role_of_kafka_without_kafka_is_refused(on_folder: Stage) -> None:
    done = on_folder.run("worker", "--role", "ingest", check=False)
    assert done.returncode == 2
    assert "--role ingest is about Kafka: set MEDIAMILL_KAFKA_BOOTSTRAP" in done.stderr


def test_jobs_in_postgres_go_on_while_the_broker_is_away(
    tmp_path: Path, database: Database, own_kafka: Kafka, tiny_models: Path
) -> None:
    environ = {**own_kafka.environ, "MEDIAMILL_KAFKA_PARTITIONS": "1", "MEDIAMILL_MODELS": str(tiny_models)}
    own_kafka.server.kill()
    with stage(tmp_path, environ, database.url) as there:
        worker = there.worker()
        [done] = there.json("submit", "test.noop", "--direct", "--wait")["submitted"]
        assert done["state"] == "succeeded"
        status, body = worker.get("/readyz")
        assert status == 503
        assert {"kafka", "outbox"} <= {check["name"] for check in json.loads(body)["checks"] if not check["ok"]}
        own_kafka.server.start()
        worker.wait_until_ready()
        [event] = own_kafka.consume(own_kafka.name("results"), 1)
        assert event.key == done["id"].encode()


def test_what_was_read_can_be_read_again_and_changes_nothing(on_kafka: Stage, kafka: Kafka) -> None:
    worker = on_kafka.worker("ingest").wait_until_ready()
    kafka.produce(kafka.name("jobs.backfill"), *(json.dumps({"type": "test.noop"}) for _ in range(20)))
    wait_until(lambda: _waiting(on_kafka) == 0, 20, "everything to be read")
    refused = on_kafka.run("ingest", "rewind", "--since", "1h", check=False)
    assert (refused.returncode, "members" in refused.stderr) == (3, True), refused.stderr
    worker.drain()
    with on_kafka.database.transaction() as connection:  # as after a restore of an earlier state
        connection.execute(text("DELETE FROM jobs WHERE id IN (SELECT id FROM jobs LIMIT 5)"))
        for table in ("job_details", "job_events"):
            connection.execute(text(f"DELETE FROM {table} t WHERE NOT EXISTS (SELECT FROM jobs WHERE id = t.id)"))
    moved = on_kafka.json("ingest", "rewind", "--since", "1h")
    assert sum(one["before"] - one["offset"] for one in moved) == 20
    assert _waiting(on_kafka) == 20
    on_kafka.worker("ingest").wait_until_ready()
    wait_until(lambda: _waiting(on_kafka) == 0, 20, "everything to be read again")
    assert on_kafka.table.rows("SELECT count(*)::int AS n FROM jobs") == [{"n": 20}]


def test_lost_ranges_are_shown_until_they_are_acknowledged(on_kafka: Stage, kafka: Kafka) -> None:
    worker = on_kafka.worker("ingest").wait_until_ready()
    topic = kafka.name("jobs.upload")
    kafka.produce(topic, json.dumps({"type": "test.noop"}), partition=0)
    wait_until(lambda: _waiting(on_kafka) == 0, 20, "the message to be read")
    worker.drain()
    kafka.produce(topic, *(json.dumps({"type": "test.noop"}) for _ in range(3)), partition=0)
    kafka.delete_records(topic, 3)
    on_kafka.worker("ingest").wait_until_ready()
    wait_until(lambda: bool(on_kafka.json("ingest", "lost")), 20, "the loss to be found")
    [lost] = on_kafka.json("ingest", "lost", "--acknowledge")
    assert (lost["topic"], lost["partition"], lost["first_offset"], lost["end_offset"]) == (topic, 0, 1, 3)
    assert on_kafka.run("ingest", "lost").stdout.strip() == "nothing was lost"
    assert len(on_kafka.json("ingest", "lost", "--all")) == 1


def test_doctor_warns_of_topics_that_keep_messages_for_too_short(on_kafka: Stage, kafka: Kafka) -> None:
    for lane in ("interactive", "upload"):
        kafka.create(f"jobs.{lane}", retention_ms=30 * 86400 * 1000)
    kafka.create("jobs.backfill", retention_ms=3600 * 1000)
    kafka.create("results")
    said = on_kafka.run("doctor", "--json", check=False)
    [check] = [check for check in json.loads(said.stdout)["checks"] if check["name"] == "kafka"]
    assert check["status"] == "warn"
    assert check["fix"] == [
        f"{kafka.name('jobs.backfill')} keeps messages for 1h: an outage of the database that is longer loses them"
    ]


def test_doctor_looks_at_a_cluster_that_has_never_seen_a_group(
    tmp_path: Path, database: Database, own_kafka: Kafka
) -> None:
    for topic in ("jobs.interactive", "jobs.upload", "jobs.backfill", "results"):
        own_kafka.create(topic)
    with stage(tmp_path, own_kafka.environ, database.url) as there:
        said = there.run("doctor", "--json", check=False)
    [check] = [check for check in json.loads(said.stdout)["checks"] if check["name"] == "kafka"]
    assert (check["status"], check["fix"]) == ("ok", [])


def _waiting(there: Stage) -> int:
    return sum(one["waiting"] for one in there.json("ingest", "status"))


def _state(there: Stage, id_: str) -> str | None:
    rows = JobTable(there.database).rows("SELECT state FROM jobs WHERE id = :id", id=id_)
    return rows[0]["state"] if rows else None
