"""What must hold after a run: every job finished once, everything it made is there once, and nothing else is."""

from __future__ import annotations

import hashlib
import statistics
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from storage.settle import FINISHED
from tests.chaos.driver import Observed, Silence
from tests.chaos.plan import Plan, outputs_of
from tests.e2e.stage import Stage

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reclaim:
    """How long a job of a worker that fell silent waited."""

    silence: Silence
    back_s: float
    """Until it was in the queue again."""
    claimed_s: float
    """Until another attempt had it."""
    seen_throughout: bool
    """Whether the database was there all the time: else its absence starts every reaper's wait anew."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a run."""

    jobs: int
    states: Mapping[str, int]
    lost: Sequence[str]
    """Jobs that were accepted and have no end."""
    doubled: Sequence[str]
    """Jobs that ended more than once, and what is there twice."""
    wrong: Sequence[str]
    """Anything else that does not hold, a sentence each."""
    endings: Mapping[str, int]
    """How attempts ended, in number."""
    reclaims: Sequence[Reclaim]

    @property
    def good(self) -> bool:
        """Whether everything holds."""
        return not (self.lost or self.doubled or self.wrong)

    def summary(self) -> list[str]:
        """A line for each thing worth knowing."""
        lines = [
            f"jobs     {self.jobs}",
            f"lost     {len(self.lost)}",
            f"doubled  {len(self.doubled)}",
            f"wrong    {len(self.wrong)}",
            f"states   {_counted(self.states)}",
            f"attempts {_counted(self.endings)}",
        ]
        for name, seconds in (
            ("reclaim", [each.back_s for each in self.reclaims]),
            ("reclaim, database there", [each.back_s for each in self.reclaims if each.seen_throughout]),
            ("next claim", [each.claimed_s for each in self.reclaims]),
        ):
            if seconds:
                spread = f"p50 {statistics.median(seconds):.2f} s, max {max(seconds):.2f} s"
                lines.append(f"{name}: {spread} ({len(seconds)} jobs)")
        problems = [
            *(f"lost: {each}" for each in self.lost),
            *(f"doubled: {each}" for each in self.doubled),
            *self.wrong,
        ]
        return [*lines, *problems[:50]]


def _counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in numbers.items())


def judge(stage: Stage, plan: Plan, observed: Observed) -> Verdict:
    """Looks at the database, the object store and the processes that are left. No worker may run any more."""
    return _Judge(stage, plan, observed).verdict()


class _Judge:
    def __init__(self, stage: Stage, plan: Plan, observed: Observed) -> None:
        self._stage = stage
        self._rows = stage.table.rows
        self._observed = observed
        self._messages = {uuid.UUID(message["id"]): message for message in plan.messages}
        self._jobs = {row["id"]: row for row in self._rows("SELECT * FROM jobs JOIN job_details USING (id)")}
        events = self._rows("SELECT id, kind, state, attempt, worker_id, at FROM job_events ORDER BY at")
        self._events: dict[uuid.UUID, list[Row]] = {id_: [] for id_ in self._jobs}
        for event in events:
            self._events.setdefault(event["id"], []).append(event)

    def verdict(self) -> Verdict:
        ends = {id_: [e for e in events if e["state"] in FINISHED] for id_, events in self._events.items()}
        states: dict[str, int] = {}
        for row in self._jobs.values():
            states[row["state"]] = states.get(row["state"], 0) + 1
        endings: dict[str, int] = {}
        for events in self._events.values():
            for event in events:
                endings[event["kind"]] = endings.get(event["kind"], 0) + 1
        lost = [
            f"{id_} ({'no row' if id_ not in self._jobs else self._jobs[id_]['state']})"
            for id_ in self._messages
            if id_ not in self._jobs or self._jobs[id_]["state"] not in FINISHED or not ends[id_]
        ]
        doubled = [f"{id_} ended {len(e)} times" for id_, e in ends.items() if len(e) > 1]
        doubled += [
            f"embedding of {bytes(row['content']).hex()}"
            for row in self._rows("SELECT content FROM embeddings GROUP BY content, space HAVING count(*) > 1")
        ]
        wrong = [sentence for check in self._checks() for sentence in check]
        return Verdict(len(self._messages), states, lost, doubled, wrong, endings, list(self._reclaims()))

    def _checks(self) -> Iterator[Iterator[str]]:
        yield self._no_strangers()
        yield self._all_succeeded()
        yield self._counters_agree()
        yield self._counts_agree()
        yield self._artifacts()
        yield self._no_orphans()
        yield self._embeddings()
        yield self._nothing_runs()

    def _no_strangers(self) -> Iterator[str]:
        """Jobs that nobody submitted: only those that complete embeddings may be there."""
        for id_, row in self._jobs.items():
            if id_ not in self._messages and row["type"] != "image.embed":
                yield f"job {id_} ({row['type']}) was submitted by nobody"

    def _all_succeeded(self) -> Iterator[str]:
        for id_, row in self._jobs.items():
            if row["state"] != "succeeded":
                yield f"job {id_} ({row['labels']}) is {row['state']}: {row['error']}"

    def _counters_agree(self) -> Iterator[str]:
        counted = {
            "attempt": "claimed", "failures": "failed", "losses": "lost", "crashes": "crashed",
            "interruptions": "interrupted",
        }  # fmt: skip
        for id_, row in self._jobs.items():
            kinds = [event["kind"] for event in self._events[id_]]
            for counter, kind in counted.items():
                if row[counter] != kinds.count(kind):
                    yield f"job {id_}: {counter} is {row[counter]}, its history has {kinds}"

    def _counts_agree(self) -> Iterator[str]:
        view = "SELECT lane, type, tenant, state, jobs FROM ops.job_counts"
        real = "SELECT lane, type, tenant, state, count(*) AS jobs FROM jobs GROUP BY lane, type, tenant, state"
        told, counted = ({tuple(row.values()) for row in self._rows(sql)} for sql in (view, real))
        for difference in sorted(told ^ counted):
            yield f"ops.job_counts and a count differ: {difference}"
        if dangling := self._rows("SELECT id FROM jobs WHERE alone OR (state = 'running')"):
            yield f"{len(dangling)} jobs are still running or marked as alone"

    def _artifacts(self) -> Iterator[str]:
        found: dict[uuid.UUID, list[Row]] = {}
        for row in self._rows("SELECT * FROM artifacts"):
            found.setdefault(row["job_id"], []).append(row)
        for id_, message in self._messages.items():
            job = self._jobs.get(id_)
            if job is None or job["state"] != "succeeded":
                continue
            expected, rows = outputs_of(message), found.get(id_, [])
            if sorted(row["role"] for row in rows) != sorted(expected):
                yield f"job {id_} has artifacts {[row['role'] for row in rows]} and should have {list(expected)}"
                continue
            [last] = [event for event in self._events[id_] if event["kind"] == "succeeded"][:1] or [None]
            for row in rows:
                yield from self._artifact(row, expected[row["role"]], last)

    def _artifact(self, row: Row, expected: bytes | None, success: Row | None) -> Iterator[str]:
        if success is not None and row["attempt"] != success["attempt"]:
            yield f"artifact {row['key']} is of attempt {row['attempt']}, attempt {success['attempt']} succeeded"
        path = self._store / row["bucket"] / row["key"]
        if not path.is_file():
            yield f"artifact {row['key']} is not in the store"
            return
        data = path.read_bytes()
        digest = hashlib.sha256(data).digest()
        if digest != bytes(row["content"]) or len(data) != row["size"] or (expected or digest) != digest:
            yield f"artifact {row['key']} is not what was recorded"

    @property
    def _store(self) -> Path:
        return self._stage.folder / "home" / "store"

    def _no_orphans(self) -> Iterator[str]:
        known = {(row["bucket"], row["key"]) for row in self._rows("SELECT bucket, key FROM artifacts")}
        swept = {
            f"{row['job_id']}/{row['attempt']}-{row['worker_id'].hex[-8:]}"
            for row in self._rows("SELECT job_id, attempt, worker_id FROM sweeps")
        }
        bucket = self._store / "media"
        for path in (bucket / "derived").rglob("*"):
            key = str(path.relative_to(bucket))
            if path.is_file() and ("media", key) not in known and "/".join(key.split("/")[1:3]) not in swept:
                yield f"{key} belongs to no job and is not to be swept"

    def _embeddings(self) -> Iterator[str]:
        read = "SELECT DISTINCT content FROM job_inputs i JOIN jobs j ON j.id = i.job_id WHERE j.type = 'image.caption'"
        pictures = {bytes(row["content"]) for row in self._rows(read)}
        embedded = {bytes(row["content"]) for row in self._rows("SELECT content FROM embeddings")}
        if pictures != embedded:
            yield f"{len(pictures)} pictures were read and {len(embedded)} contents are embedded"

    def _nothing_runs(self) -> Iterator[str]:
        for process in self._observed.processes:
            if process.alive:
                yield f"process {process.pid} of a worker that is gone still runs"
        for code in self._observed.exit_codes:
            if code != 0:
                yield f"a worker that was drained at the end exited with {code}"

    def _reclaims(self) -> Iterator[Reclaim]:
        for silence in self._observed.silences:
            for id_ in silence.jobs:
                after = [e for e in self._events[id_] if e["at"] > silence.at]
                back = next((e["at"] for e in after if e["worker_id"] == silence.worker), None)
                again = next((e["at"] for e in after if e["kind"] == "claimed"), None)
                if back is None or again is None:
                    continue  # it came back before its lease had passed, or its end was written just before
                away = any(went <= back and silence.at <= came for went, came in self._observed.outages)
                yield Reclaim(silence, _seconds(back - silence.at), _seconds(again - silence.at), not away)


def _seconds(span: timedelta) -> float:
    return span.total_seconds()
