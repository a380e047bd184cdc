"""When a lane is full: what could run now is counted, cheaply, and reading stops at the cap."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from config.lanes import Lane
from storage.database import Database, DatabaseError
from storage.ingest import runnable

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

#: A lane is counted this often at most.
COUNT_EACH_S = 1.0
#: Counting takes one part in so many of the time: among very many scheduled jobs it is not cheap.
COUNT_SHARE = 20
#: However long it took, so long after it is done again.
COUNT_LATEST_S = 30.0


@dataclass(slots=True)
class _Count:
    jobs: int = 0
    added: int = 0
    due: float = 0.0


class Caps:
    """How full the lanes are. Of one thread.

    Between two counts what this process has added is added, so that the cap is passed by one batch of each process at
    most, and by what others make within a second.
    """

    def __init__(self, database: Database, cap: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`cap`: runnable jobs of a lane; `clock` gives monotonic seconds."""
        self._database = database
        self._cap = cap
        self._clock = clock
        self._counts: dict[Lane, _Count] = {}

    def added(self, lane: Lane, jobs: int) -> None:
        """So many jobs that can run now were put into the lane."""
        self._counts.setdefault(lane, _Count()).added += max(0, jobs)

    def full(self, lane: Lane) -> bool:
        """Whether the lane is at its cap; counts again if the last count is too old."""
        count = self._counts.setdefault(lane, _Count())
        began = self._clock()
        if began >= count.due:
            try:
                with self._database.transaction() as connection:
                    count.jobs = runnable(connection, lane, self._cap)
                count.added = 0
            except DatabaseError as error:
                # The last verdict holds; a batch that cannot be stored says aloud that the database is away.
                log.debug("a lane could not be counted", lane=lane, error=str(error))
            took = self._clock() - began
            count.due = began + min(max(COUNT_EACH_S, COUNT_SHARE * took), COUNT_LATEST_S)
        return count.jobs + count.added >= self._cap
