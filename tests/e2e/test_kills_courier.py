"""Jobs that kill the worker itself, and not only its executor: each ends quarantined, and takes nobody along."""

from __future__ import annotations

import signal
import sys
import time
import uuid
from pathlib import Path

from tests.e2e.deadly_worker import READ, STORED
from tests.e2e.kills import history, rows, short_leased, submitted
from tests.e2e.shared import put
from tests.e2e.stage import Stage, Worker
from tests.servers.postgres import PostgresServer

WITHIN_S = 120


def deaths_until_all_have_ended(mill: Stage, ids: list[uuid.UUID]) -> int:
    """One worker after the other, as a supervisor would start them; how many were killed."""
    command = [sys.executable, "-m", "tests.e2e.deadly_worker"]
    deaths, end = 0, time.monotonic() + WITHIN_S
    while True:
        worker = Worker(mill.environ, mill.folder / f"worker-{deaths}.log", command)
        mill.workers.append(worker)
        while worker.alive:
            if all(row["finished_at"] for row in rows(mill, ids)):
                assert worker.drain() == 0
                return deaths
            assert time.monotonic() < end, worker.said()
            time.sleep(0.05)
        assert worker.wait(1) == -signal.SIGKILL, worker.said()
        deaths += 1


def test_jobs_that_kill_the_worker_in_fetch_and_in_store_end_quarantined_and_their_neighbours_succeed(
    tmp_path: Path, postgres_server: PostgresServer, migrated_template: str, tiny_models: Path
) -> None:
    """Some 20 s: four workers or more are started, and their jobs are taken back after the lease."""
    environ = {"MEDIAMILL_CRASH_LIMIT": "1", "MEDIAMILL_LEASE": "1.5s", "MEDIAMILL_BEAT": "0.3s"}
    with short_leased(tmp_path, postgres_server, migrated_template, tiny_models, **environ) as mill:
        killer = {"type": "test.noop", "inputs": {"files": {"a": put(mill, f"{READ}.bin", b"boo")}}}
        storing = {"type": "test.noop", "params": {"output_bytes": 10}, "output": f"s3://media/{STORED}/"}
        innocent = {"type": "test.noop", "params": {"output_bytes": 10}}
        killers, neighbours = submitted(mill, [killer, storing]), submitted(mill, [innocent] * 6)

        # Two that they share or have for themselves, then each one alone.
        assert 4 <= deaths_until_all_have_ended(mill, killers + neighbours) <= 6
        for row in rows(mill, killers):
            assert (row["state"], row["crashes"]) == ("quarantined", 1)
            assert row["losses"] >= 2
            crashed = history(mill, row["id"])[-1]
            assert crashed["kind"] == "crashed"
            sql = "SELECT DISTINCT id FROM job_events WHERE worker_id = :worker AND kind IN ('lost', 'crashed')"
            taken = {event["id"] for event in mill.table.rows(sql, worker=crashed["worker_id"])}
            assert taken <= set(killers)
        assert {row["state"] for row in rows(mill, neighbours)} == {"succeeded"}
        assert {row["crashes"] for row in rows(mill, neighbours)} == {0}
