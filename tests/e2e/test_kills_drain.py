"""Workers that are told to stop: what fits in the grace is finished, the rest is handed back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.kills import counters, crew, fault, history, life, rows, short_leased, sleep, submitted, wait_for_state
from tests.e2e.shared import until
from tests.e2e.stage import Stage
from tests.servers.leashed import alive, wait_until
from tests.servers.postgres import PostgresServer


@pytest.fixture(scope="module")
def mill(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    migrated_template: str,
    tiny_models: Path,
) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("drain")
    with short_leased(folder, postgres_server, migrated_template, tiny_models, MEDIAMILL_DRAIN_GRACE_S="3") as made:
        yield made


def test_a_drain_finishes_short_jobs_and_hands_long_ones_back_for_another_worker(mill: Stage) -> None:
    [first, second] = crew(mill, 2)
    second.signal(signal.SIGSTOP)  # the first gets all
    # By one command: a second one may take longer than the short jobs do.
    ids = submitted(mill, [sleep(2)] * 10 + [sleep(3600)] * 2)
    short, long = ids[:10], ids[10:]
    until(lambda: all(row["state"] == "running" for row in rows(mill, ids)), mill)
    one, processes = life(mill, first), first.executors()
    assert {row["worker_id"] for row in rows(mill, ids)} == {one}
    second.signal(signal.SIGCONT)

    assert first.drain(20) == 0
    assert not any(map(alive, processes))
    for row in rows(mill, short):
        assert (row["state"], counters(row), row["attempt"]) == ("succeeded", {}, 1)
    [worker] = mill.table.rows("SELECT * FROM workers WHERE id = :id", id=one)
    assert worker["retired_why"] == "drained"
    for row in wait_for_state(mill, long, "succeeded"):
        assert (counters(row), row["attempt"], row["priority"]) == ({"interruptions": 1}, 2, 1)
        claimed, interrupted, again, _ = history(mill, row["id"])[1:]
        assert claimed["worker_id"] == interrupted["worker_id"] == one != again["worker_id"]


def test_while_a_worker_drains_it_claims_nothing_and_says_that_it_is_not_ready(mill: Stage) -> None:
    [worker] = crew(mill, 1)
    [running] = submitted(mill, [sleep(2.5)])
    until(lambda: rows(mill, [running])[0]["state"] == "running", mill)
    worker.signal(signal.SIGTERM)
    wait_until(lambda: worker.get("/readyz")[0] == 503, 5, "it is not ready any more")
    [later] = submitted(mill, [{"type": "test.noop"}])
    assert worker.wait(20) == 0
    assert [row["state"] for row in rows(mill, [running, later])] == ["succeeded", "queued"]


def test_nothing_is_claimed_beside_a_job_that_runs_alone(mill: Stage) -> None:
    _, *others = crew(mill, 1)
    for other in others:
        other.kill()
    [suspect] = submitted(mill, [sleep(1.5, run_after="2100-01-01T00:00:00Z")])
    mill.table.rows("UPDATE jobs SET losses = 2, run_after = now() WHERE id = :id", id=suspect)
    until(lambda: rows(mill, [suspect])[0]["alone"], mill)
    innocent = submitted(mill, [{"type": "test.noop"}] * 5)
    wait_for_state(mill, innocent, "succeeded")
    end = history(mill, suspect)[-1]
    assert (end["kind"], rows(mill, [suspect])[0]["alone"]) == ("succeeded", False)
    for id_ in innocent:
        claimed = history(mill, id_)[1]
        assert claimed["kind"] == "claimed"
        assert claimed["at"] >= end["at"]


def test_a_second_signal_ends_the_worker_at_once_and_its_jobs_are_taken_back(mill: Stage) -> None:
    [worker] = crew(mill, 1)
    [id_] = submitted(mill, [fault("sleep", first=1)])
    until(lambda: rows(mill, [id_])[0]["state"] == "running", mill)
    processes = worker.executors()
    worker.signal(signal.SIGTERM)
    wait_until(lambda: worker.get("/readyz")[0] == 503, 5, "it is not ready any more")
    worker.signal(signal.SIGTERM)
    assert worker.wait(2.5) == 0  # less than the grace
    assert not any(map(alive, processes))
    crew(mill, 1)
    [row] = wait_for_state(mill, [id_], "succeeded")
    assert counters(row) == {"losses": 1}
