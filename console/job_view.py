"""How jobs are shown to people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from console import output
from console.output import Column

if TYPE_CHECKING:
    from storage.jobs import JobRecord

#: A job's stages in their order; what other builds recorded comes after them.
STAGES = ("queued", "alone", "fetch", "execute", "prepare", "wait", "infer", "finish", "store", "record")
_LIST = (
    Column("id"), Column("type"), Column("state"), Column("lane"), Column("age", right=True),
    Column("seconds", right=True), Column("tries", right=True), Column("error", shrinks=True),
)  # fmt: skip
_LONG = 400


def show_list(jobs: Sequence[Mapping[str, Any]], *, empty: str) -> None:
    """A line for each job."""
    now = datetime.now(UTC)
    rows = [
        (
            job["id"],
            job["type"],
            job["state"],
            job["lane"],
            output.age(job["created_at"], now),
            output.seconds_between(job["claimed_at"], job["finished_at"]),
            job["attempt"],
            _error_line(job["error"]),
        )
        for job in jobs
    ]
    output.table(_LIST, rows, empty=empty)


def _error_line(error: Mapping[str, Any] | None) -> str:
    return f"{error.get('type', '')}: {error.get('message', '')}" if error else ""


def as_json(record: JobRecord) -> dict[str, Any]:
    """All of a job: its columns, and its rows in other tables under their names."""
    return {
        **record.job,
        **{name: rows for name, rows in asdict(record).items() if name != "job"},
    }


def brief(record: JobRecord) -> None:
    """What somebody wants to know who waited for the job."""
    job = record.job
    seconds = output.seconds_between(job["claimed_at"], job["finished_at"])
    output.line(
        f"{job['type']} {job['state']}{f' in {seconds} s' if seconds else ''}",
        style=output.STYLES.get(job["state"], ""),
    )
    _error(job["error"], traceback=False)
    for text in record.texts:
        output.line(f"  {text['kind']}: {text['text']}")
    if not record.texts and job["result"]:
        output.line(f"  result: {_json(job['result'])}")
    for artifact in record.artifacts:
        output.line(
            f"  {artifact['role']}: {artifact['uri']} ({artifact['media_type']}, {output.size(artifact['size'])})"
        )
    if record.embeddings:
        output.line(f"  embeddings: {len(record.embeddings)}")


def show(record: JobRecord) -> None:
    """Everything about one job."""
    _columns(record.job)
    if record.job["error"]:
        output.heading("error")
        _error(record.job["error"], traceback=True)
    if record.job["result"] is not None:
        output.heading("result")
        output.block(_json(record.job["result"], indent=2))
    if record.job["timings"]:
        output.heading("seconds of the last attempt")
        output.table((Column("stage"), Column("seconds", right=True)), _stages(record.job["timings"]))
    _rows("doing now", record.doing, ("stage", "seconds", "progress", "note"))
    _rows("history", record.events, ("at", "kind", "state", "attempt", "worker_id", "data"))
    _rows("inputs as read", record.inputs, ("role", "name", "uri", "version", "sha256"))
    _rows("artifacts", record.artifacts, ("role", "name", "uri", "media_type", "size", "sha256"))
    _rows("texts", record.texts, ("kind", "language", "text"))
    _rows("embeddings", record.embeddings, ("sha256", "checkpoint", "dimension", "kind", "t0", "t1"))


_SHOWN = (
    "id", "type", "state", "lane", "tenant", "priority", "labels", "checkpoints", "cancel_requested", "worker_id",
    "created_at", "run_after", "deadline", "claimed_at", "finished_at", "timeout_s",
)  # fmt: skip


def _columns(job: Mapping[str, Any]) -> None:
    counters = ", ".join(
        f"{job[name]} {name}" for name in ("failures", "losses", "crashes", "interruptions") if job[name]
    )
    rows = [(name, ", ".join(job[name]) if name == "checkpoints" else job[name]) for name in _SHOWN if job[name]]
    rows.append(("attempts", f"{job['attempt']}{f' ({counters})' if counters else ''}; {job['max_attempts']} may fail"))
    rows.append(("message", _json(job["message"])))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        words = output.moment(value) if isinstance(value, datetime) else value
        words = " ".join(f"{key}={each}" for key, each in words.items()) if isinstance(words, Mapping) else words
        output.line(f"{name:{width}}  {words}", style=output.STYLES.get(str(value), "") if name == "state" else "")


def _error(error: Mapping[str, Any] | None, *, traceback: bool) -> None:
    if not error:
        return
    output.line(f"  {_error_line(error)}", style="red")
    if (before := error.get("before")) and isinstance(before, Mapping):
        output.line(f"  before that: {_error_line(before)}")
    if traceback:
        if error.get("fingerprint"):
            output.line(f"  fingerprint: {error['fingerprint']}")
        output.block(str(error.get("traceback") or ""), indent=4)


def _stages(timings: Mapping[str, float]) -> Iterable[tuple[str, str]]:
    known = [name for name in STAGES if name in timings]
    for name in (*known, *sorted(timings.keys() - set(known))):
        yield name, f"{timings[name]:.3f}"


def _rows(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    if not rows:
        return
    used = [name for name in columns if any(row[name] not in (None, "", {}) for row in rows)]
    output.heading(title)
    output.table([Column(name) for name in used], [[_shortened(row[name]) for name in used] for row in rows])


def _shortened(value: object) -> object:
    return f"{value[:_LONG]}..." if isinstance(value, str) and len(value) > _LONG else value


def _json(value: object, indent: int | None = None) -> str:
    """Long lists (vectors) are shown by their head."""
    return json.dumps(_headed(value), ensure_ascii=False, indent=indent, default=str)


def _headed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _headed(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_headed(each) for each in value[:8]] + ([f"... {len(value) - 8} more"] if len(value) > 8 else [])
    return value
