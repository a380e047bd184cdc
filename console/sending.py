"""Waiting for messages that were sent by Kafka to become jobs, or to be rejected."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from console import output
from storage.arrivals import Arrived, Expected, Refused, arrivals

if TYPE_CHECKING:
    from intake.kafka.submit import Sent
    from storage.database import Database

#: How many messages one look asks for.
_AT_ONCE = 1000
_LEAST_PAUSE_S = 0.02
_MOST_PAUSE_S = 0.5
#: After so long without any arrival it is said what is waited for.
_HINT_S = 5.0


def wait_for_arrival(database: Database, sent: Sequence[Sent], *, quiet: bool) -> Mapping[uuid.UUID, Arrived | Refused]:
    """What each message became, by its `record_id`. Raises Unreachable when the database goes away."""
    pending = {one.record_id: _expected(one) for one in sent}
    found: dict[uuid.UUID, Arrived | Refused] = {}
    pause, hint_at = _LEAST_PAUSE_S, time.monotonic() + _HINT_S
    while pending:
        with database.transaction() as connection:
            news = arrivals(connection, list(pending.values())[:_AT_ONCE])
        found |= news
        for id_ in news:
            del pending[id_]
        if news:
            pause, hint_at = _LEAST_PAUSE_S, time.monotonic() + _HINT_S
            continue
        if time.monotonic() > hint_at and not quiet:
            hint_at = float("inf")
            output.note(f"{len(pending)} messages wait in Kafka for a worker that reads them: mediamill top")
        time.sleep(pause)
        pause = min(pause * 1.5, _MOST_PAUSE_S)
    return found


def _expected(sent: Sent) -> Expected:
    return Expected(sent.id, sent.record_id, sent.spec.body_sha256, sent.spec.tenant, sent.spec.dedupe_key)
