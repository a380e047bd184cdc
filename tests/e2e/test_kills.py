"""Workers that die, or stop and come back: another does their jobs, and nothing is written twice."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.kills import (
    RECLAIMED_WITHIN_S,
    counters,
    crew,
    history,
    life,
    rows,
    running_on,
    short_leased,
    sleep,
    submitted,
    wait_for_state,
)
from tests.e2e.shared import put, until
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
    with short_leased(tmp_path_factory.mktemp("kills"), postgres_server, migrated_template, tiny_models) as made:
        yield made


def test_the_jobs_of_a_killed_worker_are_done_by_another_and_nothing_of_it_is_left(mill: Stage) -> None:
    workers = {life(mill, worker): worker for worker in crew(mill, 2)}
    ids = submitted(mill, [sleep(5)] * 60)
    until(lambda: sum(len(running_on(mill, id_)) for id_ in workers) >= 45, mill)
    dead, victim = max(workers.items(), key=lambda worker: len(running_on(mill, worker[0])))
    processes = victim.executors()
    assert len(processes) > 1
    victim.kill()
    theirs = running_on(mill, dead)
    assert theirs

    wait_until(lambda: not any(map(alive, processes)), 5, "the end of its executor, which dies with its parent")
    until(lambda: not running_on(mill, dead), mill, RECLAIMED_WITHIN_S)
    for row in wait_for_state(mill, ids, "succeeded"):
        if row["id"] in theirs:
            assert counters(row) == {"losses": 1}
            first, lost, second = history(mill, row["id"])[1:4]
            assert [e["kind"] for e in (first, lost, second)] == ["claimed", "lost", "claimed"]
            assert first["worker_id"] == lost["worker_id"] == dead != second["worker_id"]
        else:
            assert counters(row) == {}
        assert [event["kind"] for event in history(mill, row["id"])].count("succeeded") == 1


def test_a_worker_stopped_past_its_lease_writes_nothing_more_and_starts_over_with_a_new_id(
    mill: Stage, pictures: list[Path]
) -> None:
    workers = {life(mill, worker): worker for worker in crew(mill, 2)}
    images = [put(mill, f"in/{picture.name}", picture.read_bytes()) for picture in pictures]
    captions = [{"type": "image.caption", "inputs": {"image": uri}} for uri in images] * 8
    ids = submitted(mill, [*[sleep(4)] * 4, *captions])
    until(lambda: all(running_on(mill, id_) for id_ in workers), mill)
    old, stopped = max(workers.items(), key=lambda worker: len(running_on(mill, worker[0])))
    executors = stopped.executors()
    stopped.signal(signal.SIGSTOP)
    theirs = running_on(mill, old)
    assert theirs
    wait_for_state(mill, ids, "succeeded")
    before = mill.table.rows("SELECT count(*) AS n FROM job_events")

    stopped.signal(signal.SIGCONT)
    until(lambda: life(mill, stopped) != old, mill)
    wait_until(lambda: not any(map(alive, executors)), 10, "the end of its executor")
    assert mill.table.rows("SELECT count(*) AS n FROM job_events") == before
    [retired] = mill.table.rows("SELECT retired_at, retired_why FROM workers WHERE id = :id", id=old)
    assert "silent" in retired["retired_why"]
    assert not mill.table.rows(
        "SELECT * FROM job_events WHERE worker_id = :id AND at > :at AND kind <> 'lost'",
        id=old,
        at=retired["retired_at"],
    )

    for row in rows(mill, ids):
        kinds = [event["kind"] for event in history(mill, row["id"])]
        assert kinds.count("succeeded") == 1
        if row["id"] in theirs:
            assert kinds == ["submitted", "claimed", "lost", "claimed", "succeeded"]
            assert row["worker_id"] != old
    per_job = "SELECT job_id FROM artifacts WHERE role = 'captions' GROUP BY job_id HAVING count(*) = 1"
    assert len(mill.table.rows(per_job)) == len(captions)
    assert mill.table.rows("SELECT count(*)::int AS n FROM embeddings") == [{"n": len(pictures)}]

    # It goes on working: with the other away, it is the one who does what comes.
    for id_, worker in workers.items():
        if id_ != old:
            assert worker.drain() == 0
    stopped.wait_until_ready()
    [last] = wait_for_state(mill, submitted(mill, [{"type": "test.noop"}]), "succeeded")
    assert last["worker_id"] == life(mill, stopped) != old
