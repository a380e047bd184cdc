"""Executors that die or hang, and handlers that break their promises: only those jobs suffer whose fault it is."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage.jobs import cancel
from storage.settle import Rules
from tests.e2e.kills import (
    counters,
    crew,
    fault,
    history,
    running_on,
    life,
    rows,
    short_leased,
    sleep,
    submitted,
    wait_for_state,
)
from tests.e2e.shared import ended, until
from tests.e2e.stage import Stage
from tests.servers.leashed import alive
from tests.servers.postgres import PostgresServer

NOOP: dict[str, Any] = {"type": "test.noop"}
#: What an executor may take to end a job that was told to, before it is killed.
GRACE_S = 30


@pytest.fixture(scope="module")
def mill(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    migrated_template: str,
    tiny_models: Path,
) -> Iterator[Stage]:
    """Two workers, so that the one's executor may die while the other's lives."""
    with short_leased(tmp_path_factory.mktemp("executors"), postgres_server, migrated_template, tiny_models) as made:
        crew(made, 2)
        yield made


@pytest.fixture(scope="module", autouse=True)
def hung(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    migrated_template: str,
    tiny_models: Path,
) -> Iterator[dict[str, tuple[Stage, list[uuid.UUID]]]]:
    """Two deployments with one worker each whose executor hangs; the last tests of the module look at what came of it.

    They hang from the module's start on, since an executor is given its grace, and the other tests may have that time.
    """
    with ExitStack() as held:

        def deployment(name: str) -> Stage:
            folder = tmp_path_factory.mktemp(name)
            made = held.enter_context(short_leased(folder, postgres_server, migrated_template, tiny_models))
            made.worker()
            return made

        by_time, by_cancel = deployment("timeout"), deployment("cancel")
        yield {
            "timeout": (
                by_time,
                submitted(by_time, [fault("hang_cpu", timeout_s=0.5, max_attempts=1), *[sleep(0.2)] * 10]),
            ),
            "cancel": (by_cancel, submitted(by_cancel, [fault("hang_cpu"), *[sleep(3600)] * 10])),
        }


def test_a_job_that_kills_each_process_ends_quarantined_and_its_neighbours_succeed_and_a_retry_may_help(
    mill: Stage,
) -> None:
    neighbours = submitted(mill, [sleep(1)] * 15)
    [poison] = submitted(mill, [fault("segfault", first=4)])
    neighbours += submitted(mill, [sleep(1)] * 15)
    [row] = wait_for_state(mill, [poison], "quarantined")
    assert counters(row) == {"losses": 2, "crashes": 2}
    assert row["error"]["type"] == "ExecutorLost"
    assert "SIGSEGV" in row["error"]["message"]
    assert [event["kind"] for event in history(mill, poison)] == [
        "submitted", "claimed", "lost", "claimed", "lost", "claimed", "crashed", "claimed", "crashed",
    ]  # fmt: skip
    for neighbour in wait_for_state(mill, neighbours, "succeeded"):
        assert counters(neighbour).keys() <= {"losses"}

    assert mill.json("jobs", "retry", str(poison))
    [row] = wait_for_state(mill, [poison], "succeeded")
    assert row["result"]["attempt"] == 5
    assert counters(row) == {}


@pytest.mark.parametrize(
    ("kind", "words"), [("segfault", "SIGSEGV"), ("kill", "SIGKILL"), ("exit", "exit status 3")]
)
def test_an_executor_that_dies_takes_only_its_own_jobs_with_it(mill: Stage, kind: str, words: str) -> None:
    [killer] = submitted(mill, [fault(kind, first=1)])
    ids = [killer, *submitted(mill, [sleep(0.3)] * 20)]
    done = wait_for_state(mill, ids, "succeeded")
    assert counters(done[0]) == {"losses": 1}
    [lost] = [event for event in history(mill, killer) if event["kind"] == "lost"]
    assert words in lost["data"]["message"]
    for id_, row in zip(ids, done, strict=True):
        assert counters(row).keys() <= {"losses"}
        theirs = {event["worker_id"] for event in history(mill, id_) if event["kind"] == "lost"}
        assert theirs <= {lost["worker_id"]}


def test_an_executor_that_is_killed_from_outside_is_started_again(mill: Stage) -> None:
    ids = submitted(mill, [sleep(3)] * 4)
    until(lambda: all(row["state"] == "running" for row in rows(mill, ids)), mill)
    [busy] = {row["worker_id"] for row in rows(mill, ids)} & {life(mill, worker) for worker in mill.workers}
    [worker] = [worker for worker in mill.workers if life(mill, worker) == busy]
    before = worker.executors()
    theirs = running_on(mill, busy)
    import os

    for pid in before:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    for row in wait_for_state(mill, ids, "succeeded"):
        assert counters(row) == ({"losses": 1} if row["id"] in theirs else {})
    until(lambda: bool(set(worker.executors()) - set(before)), mill)


ERRORS = {
    "raise": ("HandlerBug", "failed"),
    "invalid_input": ("InvalidInput", "failed"),
    "retry": ("Retry", "failed"),
    "resource_exhausted": ("ResourceExhausted", "failed"),
    "missing_output": ("HandlerBug", "failed"),
    "nul_text": ("HandlerBug", "failed"),
    "lone_surrogate": ("HandlerBug", "failed"),
    "nan": ("HandlerBug", "failed"),
    "too_few_results": ("HandlerBug", "failed"),
    "poison_batch": ("HandlerBug", "failed"),
    "poison_sample": ("HandlerBug", "failed"),
}


def test_a(mill: Stage) -> None:
    ids = submitted(mill, [fault(kind, max_attempts=1) for kind in ERRORS] + [fault("sample")] * 10 + [NOOP] * 10)
    for row in ended(mill, ids):
        print(row["message"]["params"] if "params" in row["message"] else "", row["state"], counters(row), row["error"] and {k: v for k, v in row["error"].items() if k != "traceback"})
