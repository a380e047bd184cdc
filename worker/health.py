"""Whether the worker is well, told over HTTP by a thread of its own, which answers when the event loop does not.

Each component reports on itself: a heartbeat (`tick`) that must not grow old while it is expected, or a state with its
reason (`report`). What follows is decided here. `/healthz` is red only when a restart would help; `/readyz` is red as
soon as the worker does no work. A worker that lives and claims nothing although it could is red in both.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

#: What goes on in a rhythm: the event loop turns, claims are answered, the threads of ingest and relay turn.
Pulse = Literal["loop", "claim", "ingest", "relay"]
#: What is in some state.
Part = Literal[
    "database", "store", "executor", "lease", "draining", "sandbox", "checkpoints", "disk", "kafka", "outbox"
]


class Effect(StrEnum):
    """What a failing check means."""

    RESTART = "restart"
    """The process will not recover by itself: `/healthz` and `/readyz` are red."""
    NOT_READY = "not ready"
    """It does no work for now: `/readyz` is red. A restart would not help."""
    WARNING = "warning"
    """Worth knowing: it is listed, and nothing is red."""


#: What it means when a part says that it is not well.
EFFECTS: dict[Part, Effect] = {
    "database": Effect.NOT_READY,
    "store": Effect.NOT_READY,
    "executor": Effect.NOT_READY,
    "lease": Effect.NOT_READY,
    "disk": Effect.NOT_READY,
    "draining": Effect.NOT_READY,
    # No jobs come in, or no news of them goes out; those in Postgres go on.
    "kafka": Effect.NOT_READY,
    "outbox": Effect.NOT_READY,
    "sandbox": Effect.WARNING,
    "checkpoints": Effect.WARNING,
}

#: What is said of a part that has not reported yet.
_NOT_YET: dict[Part, str] = {
    "database": "no connection yet",
    "executor": "not started yet",
    "kafka": "no connection to Kafka yet",
    "outbox": "no connection to Kafka yet",
}
#: What it means that there was no sign.
STALLED: dict[Pulse, str] = {
    "loop": "the event loop has not turned",
    "claim": "claiming has stalled: no claim was answered",
    "ingest": "ingest has stalled: its thread has not turned",
    "relay": "the relay has stalled: its thread has not turned",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """How old the last sign of a pulse may be, seconds: to be ready, and to be left running."""

    loop_s: float = 10
    loop_restart_s: float = 60
    claim_s: float = 60
    claim_restart_s: float = 300

    def of(self, pulse: Pulse) -> tuple[float, float]:
        """Both limits of a pulse."""
        return (self.loop_s, self.loop_restart_s) if pulse == "loop" else (self.claim_s, self.claim_restart_s)


@dataclass(frozen=True, slots=True)
class Check:
    """How one thing is."""

    name: str
    ok: bool
    why: str
    since_s: float
    """How long it has been so; for a pulse, how long ago its last sign was."""
    effect: Effect
    """What it means when it is not ok."""

    def as_json(self) -> dict[str, Any]:
        """As it stands in the answers."""
        return {
            "name": self.name,
            "ok": self.ok,
            "why": self.why,
            "since_s": round(self.since_s, 3),
            "effect": self.effect.value,
        }


@dataclass(frozen=True, slots=True)
class _State:
    ok: bool
    why: str
    since: float


class Health:
    """What the components have said of themselves. Safe to use from any thread; nothing in it waits.

    `clock` gives monotonic seconds. The parts that are `expected` are not ready until they report.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        limits: Limits | None = None,
        *,
        expected: Sequence[Part] = ("database", "executor"),
    ) -> None:
        self._clock = clock
        self._limits = limits or Limits()
        self._lock = threading.Lock()
        now = clock()
        self._states: dict[Part, _State] = {part: _State(False, _NOT_YET.get(part, ""), now) for part in expected}
        # The moment from which the age of a pulse counts; absent: no sign is expected.
        self._expected: dict[Pulse, float] = {}

    def tick(self, pulse: Pulse) -> None:
        """A sign of life; from now on the next one is expected.

        `loop`: about once a second, by the event loop. `claim`: when a claim was answered, with jobs or without.
        """
        with self._lock:
            self._expected[pulse] = self._clock()

    def expect(self, pulse: Pulse) -> None:
        """From now on a sign is due (the worker has room for more jobs); changes nothing if one was due already."""
        with self._lock:
            self._expected.setdefault(pulse, self._clock())

    def rest(self, pulse: Pulse) -> None:
        """No sign is due (the worker is full, or ends) until the next `tick` or `expect`."""
        with self._lock:
            self._expected.pop(pulse, None)

    def report(self, part: Part, *, ok: bool, why: str = "") -> None:
        """How a part is, in a sentence for an operator: no secrets, it is served to whoever asks."""
        with self._lock:
            before = self._states.get(part)
            now = self._clock()
            # Its age is that of the verdict, not of the last words about it.
            since = before.since if before is not None and before.ok == ok else now
            if part == "database" and ok and before is not None and not before.ok and "claim" in self._expected:
                # Claims could not be answered while it was away: they have their time anew.
                self._expected["claim"] = now
            self._states[part] = _State(ok, why, since)

    def checks(self) -> list[Check]:
        """How everything is, now."""
        with self._lock:
            now = self._clock()
            database_ok = "database" not in self._states or self._states["database"].ok
            pulses = [self._pulse(pulse, since, now, database_ok) for pulse, since in self._expected.items()]
            parts = [
                Check(part, state.ok, state.why, now - state.since, EFFECTS[part])
                for part, state in self._states.items()
            ]
        return sorted(pulses + parts, key=lambda check: check.name)

    def _pulse(self, pulse: Pulse, since: float, now: float, database_ok: bool) -> Check:
        age = now - since
        ready_s, restart_s = self._limits.of(pulse)
        if age <= ready_s:
            return Check(pulse, True, "as it should be", age, Effect.NOT_READY)
        # Only claims wait for the database without a sign: a restart would not bring it back.
        helps = age > restart_s and (pulse != "claim" or database_ok)
        return Check(
            pulse, False, f"{STALLED[pulse]} for {age:.0f} s", age, Effect.RESTART if helps else Effect.NOT_READY
        )


def alive(checks: list[Check]) -> bool:
    """Whether the process should be left running."""
    return all(check.ok or check.effect is not Effect.RESTART for check in checks)


def ready(checks: list[Check]) -> bool:
    """Whether it does its work."""
    return all(check.ok or check.effect is Effect.WARNING for check in checks)
