"""Workers that are told to stop while Postgres or the object store is away, or accepts and never answers."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.kills import ENVIRON, LEASE_S, counters, life, rows, sleep, submitted
from tests.e2e.material import s3_environ
from tests.e2e.shared import until
from tests.e2e.stage import Stage, Worker, stage
from tests.servers.faulty_proxy import Fault, FaultyProxy
from tests.servers.leashed import alive, wait_until
from tests.servers.line import Line
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Bucket
from worker.daemon import LEAVE_S


@dataclass(frozen=True)
class Remote:
    """A deployment far away from its Postgres and its object store."""

    stage: Stage
    database: Line
    store: FaultyProxy
    bucket: S3Bucket

    def worker(self, **settings: str) -> Worker:
        return self.stage.worker(**settings).wait_until_ready()


@pytest.fixture
def remote(
    tmp_path: Path, postgres_server: PostgresServer, migrated_template: str, tiny_models: Path, s3_bucket: S3Bucket
) -> Iterator[Remote]:
    with (
        postgres_server.database(template=migrated_template) as url,
        Line(postgres_server.port) as line,
        FaultyProxy(s3_bucket.server.port) as proxy,
    ):
        there = urlsplit(url)
        environ = {
            **ENVIRON,
            **s3_environ(s3_bucket),
            "MEDIAMILL_MODELS": str(tiny_models),
            "MEDIAMILL_S3_ENDPOINT": proxy.endpoint,
            "MEDIAMILL_DATABASE_URL": url.replace(there.netloc, there.netloc.replace(str(there.port), str(line.port))),
            "MEDIAMILL_DRAIN_GRACE_S": "0.5",
        }
        with stage(tmp_path, environ, url) as made:
            yield Remote(made, line, proxy, s3_bucket)


def test_what_could_not_be_handed_back_while_postgres_was_away_is_interrupted_by_the_last_word_and_not_lost(
    remote: Remote,
) -> None:
    mill, worker = remote.stage, remote.worker()
    ids = submitted(mill, [sleep(3600)] * 2)
    until(lambda: {row["state"] for row in rows(mill, ids)} == {"running"}, mill)
    one, processes = life(mill, worker), worker.executors()
    remote.database.cut()
    worker.signal(signal.SIGTERM)
    wait_until(lambda: "cannot say goodbye" in worker.log.read_text(), LEASE_S + 10, "the loss of the lease")
    assert not any(map(alive, processes))
    assert {row["state"] for row in rows(mill, ids)} == {"running"}

    remote.database.mend()
    assert worker.wait(10) == 0
    for row in rows(mill, ids):
        assert (row["state"], counters(row)) == ("queued", {"interruptions": 1})
    [gone] = mill.table.rows("SELECT retired_why FROM workers WHERE id = :id", id=one)
    assert gone["retired_why"] == "drained"


def test_a_worker_whose_postgres_never_comes_back_ends_within_a_lease_after_it_has_given_up(remote: Remote) -> None:
    mill, worker = remote.stage, remote.worker(lease="1.5s", beat="0.3s")
    ids = submitted(mill, [sleep(3600)])
    until(lambda: {row["state"] for row in rows(mill, ids)} == {"running"}, mill)
    remote.database.cut()
    worker.signal(signal.SIGTERM)
    assert worker.wait(3 + 5) == 0
    assert "ended without goodbye" in worker.said()
    assert [row["state"] for row in rows(mill, ids)] == ["running"]


@pytest.mark.parametrize("service", ["database", "store"])
def test_a_second_signal_ends_a_worker_that_hangs_in_a_service_which_accepts_and_never_answers(
    remote: Remote, service: str
) -> None:
    mill, worker = remote.stage, remote.worker()
    processes = worker.executors()
    if service == "database":
        remote.database.fall_silent()
        assert remote.database.ignored.wait(10)
    else:
        remote.bucket.client.put_object(Bucket=remote.bucket.name, Key="in", Body=b"content")
        remote.store.where, remote.store.always = re.compile("GET .*/in"), Fault(stall_after=0)
        submitted(mill, [{"type": "test.noop", "inputs": {"files": {"a": remote.bucket.uri("in")}}}])
        wait_until(lambda: any(map(remote.store.where.match, remote.store.seen)), 10, "the fetch")
    worker.signal(signal.SIGTERM)
    wait_until(lambda: "draining" in worker.said(), 5, "the drain")
    assert worker.alive
    second = time.monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.wait(LEAVE_S + 5) == 1
    assert time.monotonic() - second < LEAVE_S + 2
    assert "leaving without its answer" in worker.said()
    wait_until(lambda: not any(map(alive, processes)), 5, "the end of its executor, which dies with its parent")
