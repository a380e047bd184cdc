"""Waiting for messages that were sent by Kafka to become jobs, or to be rejected."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from console import output
from intake.kafka.errors import KafkaTrouble
from intake.problems import Code, Problem
from storage.arrivals import Arrived, Expected, Refused, arrivals

if TYPE_CHECKING:
    from intake.kafka.submit import Sent
    from storage.database import Database

#: How many messages one look asks for.
_AT_ONCE = 1000
_LEAST_PAUSE_S = 0.02
_MOST_PAUSE_S = 0.5
#: After so long without any arrival it is said what is waited for, and asked whether that is still in Kafka.
_HINT_S = 5.0
_GONE = Problem(
    "",
    Code.MISSING,
    "is not in Kafka any more, and neither a job nor rejected: it expired, its topic was deleted, or the job that held"
    " its dedupe key has failed since",
    "send it again",
)


def wait_for_arrival(
    database: Database,
    sent: Sequence[Sent],
    gone: Callable[[Sequence[Sent]], Collection[uuid.UUID]],
    *,
    quiet: bool,
) -> Mapping[uuid.UUID, Arrived | Refused]:
    """What each message became, by its `record_id`; `gone` says which wait in Kafka no more, or raises KafkaTrouble.

    Raises Unreachable when the database goes away.
    """
    pending = {one.record_id: one for one in sent}
    found: dict[uuid.UUID, Arrived | Refused] = {}
    pause, ask_at, told = _LEAST_PAUSE_S, time.monotonic() + _HINT_S, quiet
    while pending:
        some = list(pending.values())[:_AT_ONCE]
        asking = time.monotonic() > ask_at
        # Asked before the tables: what was read by then is in them now.
        over = _unless_unknown(gone, some) if asking else set[uuid.UUID]()
        with database.transaction() as connection:
            news = arrivals(connection, [_expected(one) for one in some])
        news |= {id_: Refused([_GONE.as_json()]) for id_ in over if id_ not in news}
        found |= news
        for id_ in news:
            del pending[id_]
        if news or asking:
            ask_at = time.monotonic() + _HINT_S
        if news:
            pause = _LEAST_PAUSE_S
            continue
        if asking and not told:
            told = True
            output.note(f"{len(pending)} messages wait in Kafka for a worker that reads them: mediamill top")
        time.sleep(pause)
        pause = min(pause * 1.5, _MOST_PAUSE_S)
    return found


def _unless_unknown(
    gone: Callable[[Sequence[Sent]], Collection[uuid.UUID]], some: Sequence[Sent]
) -> Collection[uuid.UUID]:
    """Who submits may not be allowed to ask how far the group has read: then it is waited."""
    try:
        return gone(some)
    except KafkaTrouble:
        return ()


def _expected(sent: Sent) -> Expected:
    return Expected(sent.id, sent.record_id, sent.spec.body_sha256, sent.spec.tenant, sent.spec.dedupe_key)
