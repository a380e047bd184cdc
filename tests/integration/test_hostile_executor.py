"""What a worker makes of the answers of an executor that somebody else has taken over: only its own jobs suffer."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handlers.protocol import Order, Outcome, Outcomes, from_executor
from storage.database import Database
from storage.objects.local import LocalStore
from storage.objects.rules import BucketRules
from tests.integration.one_worker import TYPE, OneWorker, one_worker, success
from worker.executor_outcome import believed

pytestmark = pytest.mark.anyio


class HostileWorker:
    """Two jobs: the first's answer is as it is said, the second's is a plain success."""

    def __init__(self, one: OneWorker) -> None:
        self.one = one
        self.hostile, self.neighbour = one.table.add(n=2, type_=TYPE, message={"inputs": {}})

    async def answered(self, **outcome: Any) -> dict[str, Any]:
        """The row of the first job after an answer of that JSON (`1e999` is an infinity there)."""

        def behave(order: Order) -> Outcome:
            if not order.key.startswith(str(self.hostile)):
                return success(order)
            return said(order, **outcome)

        self.one.executor.behave = behave
        await self.one.run()
        assert self.one.table.row(self.neighbour)["state"] == "succeeded"
        row: dict[str, Any] = self.one.table.row(self.hostile)
        return row


def said(order: Order, **outcome: Any) -> Outcome:
    """An outcome as the courier reads it from a line."""
    item = json.dumps({"key": order.key, **outcome}).replace('"1e999"', "1e999")
    line = from_executor.validate_json(f'{{"op": "outcomes", "items": [{item}]}}')
    assert isinstance(line, Outcomes)
    end = believed(line.items[0], told=None, suspicious=False)
    assert isinstance(end, Outcome)
    return end


@pytest.fixture
def worker(database: Database, tmp_path: Path) -> Iterator[HostileWorker]:
    store = LocalStore(tmp_path / "store", BucketRules.parse(["media"]))
    with one_worker(database, store, tmp_path) as one:
        yield HostileWorker(one)


@pytest.mark.parametrize("delay", ["1e999", 1e300, -1e300, 1e12])
async def test_a_delay_beyond_all_time_ends_no_worker(worker: HostileWorker, delay: object) -> None:
    row = await worker.answered(failure={"type": "Retry", "message": "", "retry_after_s": delay})
    assert (row["state"], row["failures"]) == ("queued", 1)
    assert (row["run_after"] - row["created_at"]).days <= 7


@pytest.mark.parametrize("seconds", ["1e999", math.nan, -5.0, 1e9])
async def test_times_that_cannot_be_are_not_learned_from(worker: HostileWorker, seconds: object) -> None:
    row = await worker.answered(result={}, timings={"infer": seconds, "prepare": seconds})
    assert all(0 <= (row["timings"] or {}).get(stage, 0) < 60 for stage in ("infer", "prepare"))


async def test_words_of_megabytes_are_cut_before_anything_is_made_of_them(worker: HostileWorker) -> None:
    row = await worker.answered(failure={"type": "x" * 10**6, "message": "y" * 10**6, "traceback": "1" * 10**6})
    assert {name: len(row["error"][name]) for name in ("type", "message", "traceback")} == {
        "type": 20_000,
        "message": 20_000,
        "traceback": 20_000,
    }


async def test_a_scratch_folder_thousands_of_levels_deep_is_removed_and_ends_nobody(
    worker: HostileWorker, tmp_path: Path
) -> None:
    def behave(order: Order) -> Outcome:
        Path(order.scratch).mkdir()
        folder = os.open(order.scratch, os.O_RDONLY)
        for _ in range(2000):
            os.mkdir("d", dir_fd=folder)
            below = os.open("d", os.O_RDONLY, dir_fd=folder)
            os.close(folder)
            folder = below
        os.close(folder)
        return success(order)

    worker.one.executor.behave = behave
    assert await worker.one.run() == {"succeeded": 2}
    assert list((tmp_path / "scratch").iterdir()) == []


async def test_more_than_postgres_takes_in_one_statement_is_written_in_several_and_what_is_too_much_alone_fails_alone(
    worker: HostileWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres closes the connection on a message of 1 GiB, which must not look like an outage."""
    monkeypatch.setattr("storage.settle.MOST_JSON", 3000)
    (also,) = worker.one.table.add(type_=TYPE, message={"inputs": {}})

    def behave(order: Order) -> Outcome:
        length = 4000 if order.key.startswith(str(worker.hostile)) else 1500
        return Outcome(key=order.key, result={"found": "x" * length})

    worker.one.executor.behave = behave
    await worker.one.run()
    rows = [worker.one.table.row(id_) for id_ in (worker.hostile, worker.neighbour, also)]
    assert [row["state"] for row in rows] == ["queued", "succeeded", "succeeded"]
    assert "the limit is 3,000" in rows[0]["error"]["message"]
