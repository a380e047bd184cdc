"""Jobs that may be killers have their worker for themselves, and what dies meanwhile died of them."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from handlers.protocol import Order, Outcome, OutputFile
from storage.database import Database
from storage.objects.base import ObjectInfo, ObjectRef
from storage.objects.uri import ObjectUri
from tests.integration.one_worker import OneWorker, one_worker, success
from tests.integration.test_claimer import until
from tests.integration.test_objects_pinned import CountingStore, look
from worker.attempts import Stop
from worker.executor import ExecutorInterrupted


class WatchedStore(CountingStore):
    """Keeps what is asked of it, and which jobs were marked as alone then; may hold up whoever reads an object."""

    worker: OneWorker

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seen: list[tuple[str, str, int]] = []
        self.gates: dict[str, threading.Event] = {}

    def _look(self, what: str, key: str) -> None:
        rows = self.worker.table.rows("SELECT count(*)::int AS n FROM jobs WHERE alone")
        self.seen.append((what, key, rows[0]["n"]))

    def _open(self, ref: ObjectRef, start: int) -> Any:
        self._look("read", ref.uri.key)
        if (gate := self.gates.get(ref.uri.key)) is not None:
            assert gate.wait(20)
        return super()._open(ref, start)

    def _upload(
        self, source: Path, uri: ObjectUri, content_type: str | None, metadata: Mapping[str, str]
    ) -> ObjectInfo:
        self._look("stored", uri.key.rsplit("/", 1)[1])
        return super()._upload(source, uri, content_type, metadata)


@pytest.fixture
def store(tmp_path: Path) -> WatchedStore:
    return WatchedStore(tmp_path / "store")


@pytest.fixture
def worker(database: Database, store: WatchedStore, tmp_path: Path) -> Iterator[OneWorker]:
    with one_worker(database, store, tmp_path) as made:
        store.worker = made
        yield made


def suspect(worker: OneWorker, uri: str, **counters: int) -> uuid.UUID:
    """A job that may have killed before."""
    id_ = look(worker, uri)
    for name, value in (counters or {"losses": 2}).items():
        worker.table.rows(f"UPDATE jobs SET {name} = :value WHERE id = :id", id=id_, value=value)
    return id_


def with_output(order: Order) -> Outcome:
    path = Path(order.scratch) / "a.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    return success(order, files=(OutputFile(role="a", path=str(path), media_type="application/json"),))


@pytest.mark.parametrize("counters", [{"losses": 2}, {"crashes": 1}])
async def test_a_suspect_is_marked_from_before_its_fetch_until_its_end_is_recorded(
    worker: OneWorker, store: WatchedStore, counters: dict[str, int]
) -> None:
    id_ = suspect(worker, store.put("a.jpg", b"picture"), **counters)
    worker.executor.behave = with_output
    assert await worker.run() == {"succeeded": 1}
    assert store.seen == [("read", "a.jpg", 1), ("stored", "a.json", 1)]
    assert worker.table.row(id_)["alone"] is False


async def test_a_suspect_begins_when_all_others_have_ended_and_no_two_are_on_their_way_at_once(
    worker: OneWorker, store: WatchedStore
) -> None:
    gate = store.gates["slow.jpg"] = threading.Event()
    suspects = [suspect(worker, store.put(f"suspect{n}.jpg", f"suspect {n}".encode())) for n in range(3)]
    look(worker, store.put("slow.jpg", b"slow"))
    look(worker, store.put("quick.jpg", b"quick"))
    under_way: list[int] = []

    def behave(order: Order) -> Outcome:
        rows = worker.table.rows("SELECT id FROM jobs WHERE alone")
        under_way.append(len(rows))
        return with_output(order)

    worker.executor.behave = behave
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await until(lambda: len(worker.attempts) == 4)
        assert worker.attempts.one_wants_to_be_alone
        gate.set()
    assert under_way == [0, 0, 1, 1, 1]
    order = [key for what, key, _ in store.seen if what == "read"]
    assert {*order[:2]} == {"slow.jpg", "quick.jpg"}
    for n in range(2, 5):
        at = store.seen.index(("read", order[n], 1))
        assert store.seen[at + 1] == ("stored", "a.json", 1)
    assert {worker.table.row(id_)["state"] for id_ in suspects} == {"succeeded"}
    assert not worker.attempts.one_wants_to_be_alone


@pytest.mark.parametrize(("why", "state", "counted"), [(Stop.CANCELLED, "cancelled", 0), (Stop.DRAIN, "queued", 1)])
async def test_a_suspect_that_is_ended_while_it_waits_for_others_never_began_and_is_in_nobody_s_way(
    worker: OneWorker, store: WatchedStore, why: Stop, state: str, counted: int
) -> None:
    gate = store.gates["slow.jpg"] = threading.Event()
    ended, waiting = (suspect(worker, store.put(f"{n}.jpg", b"suspect")) for n in range(2))
    look(worker, store.put("slow.jpg", b"slow"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await until(lambda: store.seen)
        attempt = worker.attempts.get(ended)
        assert attempt is not None
        attempt.stop(why)
        await until(lambda: worker.attempts.get(ended) is None)
        gate.set()
    row = worker.table.row(ended)
    assert (row["state"], row["interruptions"], row["crashes"], row["alone"]) == (state, counted, 0, False)
    assert ("read", "0.jpg", 1) not in store.seen
    assert worker.table.row(waiting)["state"] == "succeeded"


async def test_a_drain_in_the_middle_of_a_suspect_counts_no_crash(worker: OneWorker, store: WatchedStore) -> None:
    gate = store.gates["a.jpg"] = threading.Event()
    id_ = suspect(worker, store.put("a.jpg", b"picture"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await until(lambda: store.seen)
        assert worker.table.row(id_)["alone"] is True
        worker.attempts.stop_all(Stop.DRAIN)
        gate.set()
    row = worker.table.row(id_)
    assert (row["state"], row["interruptions"], row["losses"], row["crashes"]) == ("queued", 1, 2, 0)
    assert row["alone"] is False


async def test_a_suspect_is_not_marked_while_the_executor_is_not_ready(
    worker: OneWorker, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever dies then died of something else."""
    id_ = suspect(worker, store.put("a.jpg", b"picture"))
    marks: list[bool] = []

    async def never_ready() -> None:
        marks.append(worker.table.row(id_)["alone"])
        raise ExecutorInterrupted("the executor does not start")

    monkeypatch.setattr(worker.executor, "ready", never_ready)
    assert await worker.run() == {"queued": 1}
    assert marks == [False]
    assert store.seen == []
    assert worker.table.row(id_)["crashes"] == 0
