"""Executors that die or hang, and handlers that break their promises: only those jobs suffer whose fault it is."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
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
    life,
    rows,
    running_on,
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
        late = submitted(by_time, [fault("hang_cpu", timeout_s=0.5, max_attempts=1), *[sleep(0.2)] * 10])
        unwanted = submitted(by_cancel, [fault("hang_cpu"), *[sleep(3600)] * 10])
        until(lambda: all(row["state"] == "running" for row in rows(by_cancel, unwanted)), by_cancel)
        by_cancel.run("jobs", "cancel", str(unwanted[0]))
        yield {"timeout": (by_time, late), "cancel": (by_cancel, unwanted)}


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


@pytest.mark.parametrize(("kind", "words"), [("segfault", "SIGSEGV"), ("kill", "SIGKILL"), ("exit", "exit status 3")])
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
    workers = {life(mill, worker): worker for worker in mill.workers}
    busy = rows(mill, ids)[0]["worker_id"]
    before = workers[busy].executors()
    theirs = running_on(mill, busy)
    for pid in filter(alive, before):
        os.kill(pid, signal.SIGKILL)
    for row in wait_for_state(mill, ids, "succeeded"):
        assert counters(row) == ({"losses": 1} if row["id"] in theirs else {})
    until(lambda: bool(set(workers[busy].executors()) - set(before)), mill)


#: What goes wrong -> error type, words of its sentence.
ERRORS = {
    "raise": ("HandlerBug", "FaultyCode: a fault was asked for"),
    "invalid_input": ("InvalidInput", "a fault was asked for"),
    "retry": ("Retry", "a fault was asked for"),
    "resource_exhausted": ("ResourceExhausted", "a fault was asked for"),
    "missing_output": ("HandlerBug", "output 'missing' was declared and not written"),
    "nul_text": ("HandlerBug", "it holds a NUL character"),
    "lone_surrogate": ("HandlerBug", "surrogates not allowed"),
    "nan": ("HandlerBug", "it holds the number nan"),
    "too_few_results": ("HandlerBug", "returned 0 results for 1 samples: give one for each"),
    "poison_batch": ("HandlerBug", "FaultyCode: a fault was asked for"),
    "poison_sample": ("HandlerBug", "FaultyCode: a fault was asked for"),
}


def test_a_handler_that_breaks_its_promises_has_failed_with_type_and_sentence_and_costs_no_neighbour_a_thing(
    mill: Stage,
) -> None:
    messages = [fault(kind, max_attempts=1) for kind in ERRORS]
    good = [*[fault("sample")] * 10, *[NOOP] * 10]
    done = ended(mill, submitted(mill, [*messages, *good]))
    for row, (type_, words) in zip(done, ERRORS.values(), strict=False):
        assert row["state"] == "failed"
        assert row["error"]["type"] == type_
        assert words in row["error"]["message"]
        # What is permanent was refused: it is no failure that another attempt could follow.
        assert counters(row) == ({} if type_ == "InvalidInput" else {"failures": 1})
    assert [(row["state"], counters(row)) for row in done[len(ERRORS) :]] == [("succeeded", {})] * len(good)


def test_a_failing_job_is_tried_again_after_longer_and_longer_waits_until_it_has_failed(mill: Stage) -> None:
    [row] = ended(mill, submitted(mill, [fault("raise", max_attempts=4)]))
    assert (row["state"], counters(row)) == ("failed", {"failures": 4})
    failed = [event for event in history(mill, row["id"]) if event["kind"] == "failed"]
    assert [event["state"] for event in failed] == ["queued", "queued", "queued", "failed"]
    for n, event in enumerate(failed[:-1]):
        assert 0 <= (event["data"] or {}).get("delay_s", 0) <= 0.2 * 2**n
    _keeps_its_waits(history(mill, row["id"]))


def test_a_job_that_names_the_wait_before_its_next_attempt_gets_it(mill: Stage) -> None:
    [row] = ended(mill, submitted(mill, [fault("retry", first=2, params={"retry_after_s": 0.7})]))
    assert (row["state"], counters(row)) == ("succeeded", {"failures": 2})
    delays = [event["data"]["delay_s"] for event in history(mill, row["id"]) if event["kind"] == "failed"]
    assert delays == [0.7, 0.7]
    _keeps_its_waits(history(mill, row["id"]))


def _keeps_its_waits(events: list[dict[str, Any]]) -> None:
    for event, after in pairwise(events):
        if event["kind"] == "failed" and event["state"] == "queued":
            assert after["kind"] == "claimed"
            assert (after["at"] - event["at"]).total_seconds() >= (event["data"] or {}).get("delay_s", 0) - 0.05


def test_a_job_that_takes_longer_than_its_time_limit_has_failed_of_it(mill: Stage) -> None:
    ids = submitted(mill, [fault("sleep", timeout_s=0.5, max_attempts=1), sleep(1)])
    [row, neighbour] = ended(mill, ids)
    assert (row["state"], counters(row), row["error"]["type"]) == ("failed", {"failures": 1}, "Timeout")
    assert (neighbour["state"], counters(neighbour)) == ("succeeded", {})


def test_a_deadline_that_passes_ends_the_running_job(mill: Stage) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=6)
    ids = submitted(mill, [fault("sleep", deadline=deadline.isoformat()), sleep(1)])
    until(lambda: rows(mill, ids)[0]["state"] == "running", mill)
    [row, neighbour] = ended(mill, ids)
    assert (row["state"], counters(row), row["error"]["type"]) == ("failed", {}, "DeadlineExceeded")
    assert deadline <= row["finished_at"] <= deadline + timedelta(seconds=2)
    assert [event["kind"] for event in history(mill, row["id"])] == ["submitted", "claimed", "expired"]
    assert (neighbour["state"], counters(neighbour)) == ("succeeded", {})


def test_a_running_job_that_is_cancelled_ends_at_once_and_its_neighbours_go_on(mill: Stage) -> None:
    unwanted, *neighbours = submitted(mill, [fault("sleep"), *[sleep(2)] * 5])
    until(lambda: rows(mill, [unwanted])[0]["state"] == "running", mill)
    mill.run("jobs", "cancel", str(unwanted))
    asked = time.monotonic()
    [row] = wait_for_state(mill, [unwanted], "cancelled")
    assert time.monotonic() - asked < 2
    assert (row["error"]["type"], counters(row)) == ("Cancelled", {})
    kinds = [event["kind"] for event in history(mill, unwanted)]
    assert kinds == ["submitted", "claimed", "cancel requested", "cancelled"]
    for neighbour in wait_for_state(mill, neighbours, "succeeded"):
        assert counters(neighbour) == {}


def test_a_cancel_that_comes_while_the_success_is_being_written_loses(mill: Stage) -> None:
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    [id_] = submitted(mill, [fault("sleep", params={"seconds": 1})])
    until(lambda: rows(mill, [id_])[0]["state"] == "running", mill)
    with mill.database.transaction() as connection:
        cancel(connection, [id_], Rules())
        # The recorder waits for the row that the cancel holds: it sees the wish, and has the result.
        until(lambda: bool(mill.table.rows(waiting)), mill)
    [row] = wait_for_state(mill, [id_], "succeeded")
    assert row["cancel_requested"]
    kinds = [event["kind"] for event in history(mill, id_)]
    assert kinds == ["submitted", "claimed", "cancel requested", "succeeded"]


def test_a_handler_that_does_not_end_when_its_time_is_up_is_killed_and_its_neighbours_are_not_charged(
    hung: dict[str, tuple[Stage, list[uuid.UUID]]],
) -> None:
    stage, ids = hung["timeout"]
    [row, *neighbours] = ended(stage, ids, GRACE_S + 15)
    assert (row["state"], counters(row), row["error"]["type"]) == ("failed", {"failures": 1}, "Timeout")
    assert "had to be killed" in row["error"]["message"]
    assert [(each["state"], counters(each)) for each in neighbours] == [("succeeded", {})] * len(neighbours)


def test_a_handler_that_does_not_end_when_it_is_cancelled_is_killed_and_its_neighbours_are_interrupted_for_free(
    hung: dict[str, tuple[Stage, list[uuid.UUID]]],
) -> None:
    stage, ids = hung["cancel"]
    [row, *neighbours] = ended(stage, ids, GRACE_S + 15)
    assert (row["state"], counters(row), row["error"]["type"]) == ("cancelled", {}, "Cancelled")
    for each in neighbours:
        assert (each["state"], counters(each)) == ("succeeded", {"interruptions": 1})
