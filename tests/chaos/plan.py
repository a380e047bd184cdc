"""What a chaos run does, made from its seed alone: which jobs come when, and who is hurt when."""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Blow(StrEnum):
    """What is done to the deployment."""

    KILL_WORKER = "kill worker"
    STOP_WORKER = "stop worker"
    """SIGSTOP past its lease, then SIGCONT."""
    DRAIN_WORKER = "drain worker"
    KILL_EXECUTOR = "kill executor"
    RESTART_POSTGRES = "restart postgres"
    """SIGKILL, and a start at once."""
    POSTGRES_AWAY = "postgres away"
    """SIGKILL, and a start after more than a lease."""


#: Played in an order by chance, again and again: no run is without any of them for long.
BAG = (
    Blow.KILL_WORKER,
    Blow.KILL_WORKER,
    Blow.STOP_WORKER,
    Blow.DRAIN_WORKER,
    Blow.KILL_EXECUTOR,
    Blow.KILL_EXECUTOR,
    Blow.RESTART_POSTGRES,
    Blow.RESTART_POSTGRES,
    Blow.POSTGRES_AWAY,
)
#: How long a stop and an absence last, in leases.
PAST_THE_LEASE = (1.3, 2.0)
#: The longest sleep of a job, seconds: there is always something in hand to be lost.
LONGEST_SLEEP_S = 1.5


@dataclass(frozen=True, slots=True)
class Planned:
    """A blow: when (seconds from the start), to which of those that live (a fraction of their number), for how long."""

    at_s: float
    blow: Blow
    victim: float
    lasts_s: float = 0


@dataclass(frozen=True, slots=True)
class Wave:
    """Jobs that are submitted together."""

    at_s: float
    messages: Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Material:
    """URIs of what jobs may read."""

    pictures: Sequence[str]
    objects: Sequence[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """A run."""

    waves: Sequence[Wave]
    blows: Sequence[Planned]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All jobs, in the order in which they come."""
        return [message for wave in self.waves for message in wave.messages]


def make_plan(
    seed: int, *, jobs: int, blows: int, seconds: float, lease_s: float, material: Material, now_ms: int
) -> Plan:
    """A plan for about so many seconds. `now_ms` goes into the jobs' ids, whose order is that of time."""
    rng = random.Random(seed)
    every_s = seconds / blows
    messages = [_job(rng, now_ms + n, material) for n in range(jobs)]
    _lethal(rng, messages)
    first = [jobs * n // blows for n in range(blows + 1)]
    waves = [Wave(n * every_s, messages[first[n] : first[n + 1]]) for n in range(blows)]
    bag: list[Blow] = []
    planned = []
    for n in range(blows):
        if not bag:
            bag = rng.sample(BAG, len(BAG))
        blow = bag.pop()
        lasts_s = lease_s * rng.uniform(*PAST_THE_LEASE) if blow in (Blow.STOP_WORKER, Blow.POSTGRES_AWAY) else 0
        planned.append(Planned((n + rng.uniform(0.1, 0.4)) * every_s, blow, rng.random(), lasts_s))
    return Plan(waves, planned)


def _job(rng: random.Random, ms: int, material: Material) -> dict[str, Any]:
    kind = rng.choices(list(_KINDS), weights=[weight for weight, _ in _KINDS.values()])[0]
    id_ = uuid.UUID(int=ms << 80 | 7 << 76 | rng.getrandbits(12) << 64 | 2 << 62 | rng.getrandbits(62))
    lane = rng.choice(["interactive", "upload", "backfill"])
    return {"id": str(id_), "lane": lane, "labels": {"kind": kind}, **_KINDS[kind][1](rng, material)}


def _plain(_rng: random.Random, _material: Material) -> dict[str, Any]:
    return {"type": "test.noop"}


def _output(rng: random.Random, _material: Material) -> dict[str, Any]:
    return {"type": "test.noop", "params": {"output_bytes": rng.randint(1, 20_000)}}


def _input(rng: random.Random, material: Material) -> dict[str, Any]:
    chosen = rng.sample(material.objects, rng.randint(1, 3))
    return {
        "type": "test.noop",
        "inputs": {"files": {f"n{n}": uri for n, uri in enumerate(chosen)}},
        "params": {"output_bytes": rng.randint(0, 5_000)},
    }


def _sleep(rng: random.Random, _material: Material) -> dict[str, Any]:
    seconds = round(rng.uniform(0.05, LONGEST_SLEEP_S), 3)
    return {"type": "test.fault", "params": {"fault": "sleep", "seconds": seconds}}


def _fault(rng: random.Random, _material: Material) -> dict[str, Any]:
    fault = rng.choice(["raise", "retry", "resource_exhausted", "nul_text", "nan", "missing_output"])
    return {"type": "test.fault", "params": {"fault": fault, "only_first_attempts": 1, "retry_after_s": 0.1}}


def _caption(rng: random.Random, material: Material) -> dict[str, Any]:
    return {"type": "image.caption", "inputs": {"image": rng.choice(material.pictures)}}


_KINDS: dict[str, tuple[float, Callable[[random.Random, Material], dict[str, Any]]]] = {
    "plain": (50, _plain),
    "output": (15, _output),
    "input": (12, _input),
    "sleep": (10, _sleep),
    "fault": (9, _fault),
    "caption": (4, _caption),
}


def _lethal(rng: random.Random, messages: list[dict[str, Any]]) -> None:
    """One job in 500 kills the first process that it gets."""
    for n in rng.sample(range(len(messages)), max(2, len(messages) // 500)):
        fault = rng.choice(["segfault", "exit", "kill"])
        kept = {key: messages[n][key] for key in ("id", "lane")}
        params = {"fault": fault, "only_first_attempts": 1}
        messages[n] = {**kept, "labels": {"kind": "lethal"}, "type": "test.fault", "params": params}


def outputs_of(message: dict[str, Any]) -> dict[str, bytes | None]:
    """Role -> sha256 of what the job must leave; None where only the number is known beforehand."""
    if message["type"] == "image.caption":
        return {"captions": None}
    size = message.get("params", {}).get("output_bytes", 0)
    return {"data": hashlib.sha256(bytes(size)).digest()} if size else {}
