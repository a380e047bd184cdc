"""The worker: one life after another, each with an id of its own, until it is told to go.

A life ends in peace by a drain (SIGTERM), or in haste when its lease is lost; then its children are killed, its jobs
are others', and a new life begins with a new id.
"""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import anyio
import structlog
import uuid_utils.compat

from storage.claim import WorkerRetired
from storage.database import Unreachable
from worker import folders
from worker.background import Background
from worker.lease import LeaseLost
from worker.life import Life
from worker.parts import End, Parts

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

#: What a worker that is to leave at once may take to end its children and give its threads back.
LEAVE_S = 3.0
#: What a thread beside the jobs may take to finish what it has in hand.
BESIDE_S = 20.0


@dataclass(frozen=True, slots=True)
class Beside:
    """Threads that work beside the jobs."""

    intake: Sequence[Background] = ()
    """Bring jobs in: they stop when a drain begins."""
    outlet: Sequence[Background] = ()
    """Take news of jobs out: they stop when the last job has ended."""
    draining: Callable[[], object] = lambda: None
    """Told that a drain begins."""


async def serve(
    parts: Parts | None, *, beside: Beside | None = None, on_start: Callable[[uuid.UUID], None] | None = None
) -> End:
    """Works until SIGTERM or SIGINT: the first drains, the second leaves at once. Returns how it ended.

    Without `parts` no jobs are run, and only the threads of `beside` work.
    """
    beside = beside or Beside()
    drain, leave, intake_ended = anyio.Event(), anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(_signals, drain, leave)
        group.start_soon(leave_for_certain, leave)
        group.start_soon(_stop_at, drain, leave, beside, intake_ended)
        for each in (*beside.intake, *beside.outlet):
            each.start()
        if parts is not None:
            await _lives(parts, drain, leave, on_start)
        # Each in its own time: what is read and not stored is read again, what is not published others publish.
        await intake_ended.wait()
        for each in beside.outlet:
            each.stop()
        await _ended(beside.outlet, leave)
        group.cancel_scope.cancel()
    return "at once" if leave.is_set() else "drained"


async def _lives(
    parts: Parts, drain: anyio.Event, leave: anyio.Event, on_start: Callable[[uuid.UUID], None] | None
) -> None:
    last: Life | None = None
    while not drain.is_set():
        life = Life(parts, uuid_utils.compat.uuid7(), None if last is None else last.worker)
        try:
            await life.begin()
            # Not before: a life that could not begin has no jobs, and the one before it still has to be buried.
            last = life
            await _live(life, drain, leave, on_start)
        except* (LeaseLost, WorkerRetired) as lost:
            then = "leaving" if drain.is_set() else "starting over with a new id"
            log.error(f"lease lost: {then}", why=str(lost.exceptions[0]))
        except* Unreachable as error:
            log.warning("waiting for the database", error=str(error.exceptions[0]))
            parts.health.report("database", ok=False, why=str(error.exceptions[0]))
            with anyio.move_on_after(2):
                await drain.wait()
    if last is not None and not leave.is_set():
        await _say_goodbye(last, leave)


async def _stop_at(drain: anyio.Event, leave: anyio.Event, beside: Beside, ended: anyio.Event) -> None:
    """Stops what brings jobs in."""
    await drain.wait()
    beside.draining()
    for each in beside.intake:
        each.stop()
    await _ended(beside.intake, leave)
    ended.set()


async def _ended(threads: Sequence[Background], leave: anyio.Event) -> None:
    """Returns when they have ended, or are to be left behind."""
    end = anyio.current_time() + BESIDE_S
    while not leave.is_set() and any(not each.join(0) for each in threads):
        if anyio.current_time() > end:
            late = [each.name for each in threads if not each.join(0)]
            log.warning("left behind: a service does not answer", parts=late)
            return
        await anyio.sleep(0.05)


async def _signals(drain: anyio.Event, leave: anyio.Event) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
        async for signum in received:
            name = signal.Signals(signum).name
            if drain.is_set():
                log.warning("second signal: leaving at once", signal=name)
                leave.set()
            else:
                log.info("draining: nothing more is claimed", signal=name)
                drain.set()


async def leave_for_certain(
    leave: anyio.Event, *, within_s: float = LEAVE_S, leave_process: Callable[[int], object] = os._exit
) -> None:
    """Ends the process when it was to leave at once and has not.

    A thread that waits for a database or a store that does not answer cannot be ended, and all else waits for it. The
    children die with the process. By a thread: when the event loop has ended, connections have still to be closed.
    """

    def go() -> None:
        log.error("a service does not answer: leaving without its answer")
        leave_process(1)

    await leave.wait()
    timer = threading.Timer(within_s, go)
    timer.daemon = True
    timer.start()


async def _live(
    life: Life, drain: anyio.Event, leave: anyio.Event, on_start: Callable[[uuid.UUID], None] | None
) -> None:
    if on_start is not None:
        on_start(life.worker)
    async with AsyncExitStack() as held:
        held.enter_context(folders.scratch(life.parts.settings.scratch, life.worker))
        async with anyio.create_task_group() as group:
            group.start_soon(_leave_at_once, leave, group.cancel_scope)
            await life.run(group, drain)
            group.cancel_scope.cancel()


async def _say_goodbye(life: Life, leave: anyio.Event) -> None:
    """Also for one that has lost its lease while it drained: there is no next one that would bury it."""
    async with anyio.create_task_group() as group:
        group.start_soon(_leave_at_once, leave, group.cancel_scope)
        await life.end()
        group.cancel_scope.cancel()


async def _leave_at_once(leave: anyio.Event, scope: anyio.CancelScope) -> None:
    await leave.wait()
    scope.cancel()
