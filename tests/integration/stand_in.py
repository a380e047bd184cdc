"""A worker's stand-in: it does no work, and says of each job how it has ended."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from typing import Any

from storage.claim import Want, claim
from storage.database import Database
from storage.settle import Ending, Rules, Settlement, settle
from storage.workers import register


class StandIn:
    """Does jobs as a worker does, as far as the database can tell; `outcomes` says how each type ends."""

    def __init__(self, database: Database, outcomes: Mapping[str, Mapping[str, Any]]) -> None:
        self._database = database
        self._outcomes = outcomes
        self._stop = threading.Event()
        self.id = uuid.uuid4()
        self.done: list[str] = []
        with database.transaction() as connection:
            register(connection, self.id, host="stand-in", pid=1, build="test", devices=[])
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        while not self._stop.wait(0.01):
            for type_, outcome in self._outcomes.items():
                self._turn(type_, outcome)

    def _turn(self, type_: str, outcome: Mapping[str, Any]) -> None:
        with self._database.transaction() as connection:
            wanted = [Want(lane, type_, 100) for lane in ("interactive", "upload", "backfill")]
            for job in claim(connection, self.id, wanted, ["tiny-clip", "embed", "caption"]):
                settle(connection, [Settlement.of(job.fence, **outcome)], Rules())
                self.done.append(type_)

    def __enter__(self) -> StandIn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def succeed(**result: Any) -> dict[str, Any]:
    return {"ending": Ending.SUCCEEDED, "result": result, "timings": {"fetch": 0.01, "infer": 0.5}}


def fail(message: str) -> dict[str, Any]:
    return {
        "ending": Ending.REFUSED,
        "error": {"type": "InvalidInput", "message": message, "traceback": "where it was"},
    }
