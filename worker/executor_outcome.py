"""What the courier believes of an outcome, before anyone reads it: its maker has touched untrusted media.

What it says about files, texts and vectors is checked where these are stored (`worker.store`, `worker.outcome`).
"""

from __future__ import annotations

import math

from handlers.errors import HandlerBug
from handlers.protocol import INTERRUPTED, Failure, Outcome, Timings, unstorable
from worker.executor_flight import ExecutorInterrupted, Reason


def believed(outcome: Outcome, *, told: Reason | None, suspicious: bool) -> Outcome | ExecutorInterrupted:
    """The outcome, or in its place the failure of its job that says what was wrong with it.

    `told`: what the executor was told to end the job for. `suspicious`: the line it came in may hold what Postgres
    cannot (`may_be_unstorable`).
    """
    failure = outcome.failure
    if failure is not None and failure.type == INTERRUPTED and told == "interrupted":
        return ExecutorInterrupted(failure.message)
    if (wrong := _wrong(outcome, told, suspicious=suspicious)) is None:
        return outcome
    refused = Failure(type=HandlerBug.type, message=f"the executor's answer was refused: {wrong}")
    timings = outcome.timings if _are_seconds(outcome.timings) else Timings()
    return Outcome(key=outcome.key, failure=refused, timings=timings)


def _are_seconds(timings: Timings) -> bool:
    prepare, wait, infer, finish = timings.prepare, timings.wait, timings.infer, timings.finish
    return math.isfinite(prepare + wait + infer + finish) and min(prepare, wait, infer, finish) >= 0


def _wrong(outcome: Outcome, told: Reason | None, *, suspicious: bool) -> str | None:
    failure = outcome.failure
    if (failure is None) == (outcome.result is None):
        return "it must have either a result or a failure"
    if failure is not None and (failure.type == INTERRUPTED or (failure.waiting and told != "timeout")):
        # Both cost a job nothing: said unasked, they would let it run for ever.
        return "nobody had asked for this end"
    if not _are_seconds(outcome.timings):
        # What jobs cost is learnt from these: one that is no number would be remembered for ever.
        return "its timings must be seconds"
    if suspicious and (what := unstorable(outcome.model_dump())) is not None:
        return f"it holds {what}"
    return None
