"""Waiting out an outage of the database, with what is in hand kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from storage.claim import WorkerRetired
from storage.database import Conflict, LockTimeout, Unreachable
from worker.metrics import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """Tries again while the database is away, or others are in the way.

    `give_up` says that the lease is lost, and with it the right to write.
    """

    give_up: Callable[[], bool]
    metrics: Metrics
    pause: Callable[[float], None] = time.sleep

    def through(self, what: str, work: Callable[[], T]) -> T:
        """Runs `work`, in a thread, until the database takes it. Raises WorkerRetired when it is too late."""
        wait_s = 0.1
        while True:
            try:
                return work()
            except (Unreachable, Conflict, LockTimeout) as error:
                if self.give_up():
                    raise WorkerRetired("the lease was lost while the database was away") from error
                log.warning("the database does not take it, trying again", what=what, error=str(error))
                self.metrics.count("database_errors_total", what=what)
                self.pause(wait_s)
                wait_s = min(2 * wait_s, 2.0)
