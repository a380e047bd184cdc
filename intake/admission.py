"""From a valid message to the row that storage takes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from intake.message import JobSpec
from storage.submit import NewJob


def new_job(spec: JobSpec, id_: uuid.UUID, trace: Mapping[str, str] | None = None) -> NewJob:
    """The new job of a message; `id_` is the message's own id where it has one, else one that the door made."""
    return NewJob(
        id=id_,
        type=spec.type,
        lane=spec.lane,
        body_sha256=spec.body_sha256,
        message=spec.message,
        tenant=spec.tenant,
        priority=spec.priority,
        run_after=spec.run_after,
        deadline=spec.deadline,
        timeout_s=spec.timeout_s,
        max_attempts=spec.max_attempts,
        dedupe_key=spec.dedupe_key,
        checkpoints=spec.checkpoints,
        labels=spec.labels,
        trace=trace,
    )
