"""Wakes the claim loop on new work and passes on cancels, as Postgres tells them; without it polling does both."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import anyio
import anyio.to_thread
import structlog

from storage.database import Unreachable
from storage.listen import Listener
from storage.submit import NEW_JOBS_CHANNEL
from storage.workers import CANCEL_CHANNEL
from worker.clock import Clock

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def _id(payload: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(payload)
    except ValueError:
        # Whoever may connect may NOTIFY: their words must not end the worker.
        log.warning("a notification names no job", payload=payload[:100])
        return None


async def listen(
    url: str,
    *,
    new_jobs: Callable[[str | None], None],
    cancel: Callable[[uuid.UUID], None],
    clock: Clock,
    limiter: anyio.CapacityLimiter,
) -> None:
    """Listens until cancelled, on one connection after another."""
    while True:
        try:
            listener = await anyio.to_thread.run_sync(
                Listener, url, (NEW_JOBS_CHANNEL, CANCEL_CHANNEL), limiter=limiter
            )
        except Unreachable as error:
            log.warning("cannot listen: polling alone", error=str(error))
            await clock.sleep(2)
            continue
        try:
            # What was said before LISTEN took hold was not heard.
            new_jobs(None)
            while True:
                await anyio.wait_readable(listener.fileno())
                for notification in listener.received():
                    if notification.channel == NEW_JOBS_CHANNEL:
                        new_jobs(notification.payload)
                    elif (id_ := _id(notification.payload)) is not None:
                        cancel(id_)
        except Unreachable as error:
            log.warning("lost the listening connection", error=str(error))
            await clock.sleep(0.5)
        finally:
            listener.close()
