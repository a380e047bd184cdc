"""How rejected messages are shown to people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from console import output
from console.output import Column

if TYPE_CHECKING:
    from intake.replay import Outcome
    from storage.rejected_bodies import Sent

_GROUPS = (
    Column("fingerprint"), Column("lane"), Column("topic"), Column("messages", right=True),
    Column("replayed", right=True), Column("first", right=True), Column("last", right=True),
    Column("error", shrinks=True),
)  # fmt: skip
_EACH = (
    Column("id"), Column("fingerprint"), Column("lane"), Column("topic"), Column("partition", right=True),
    Column("offset", right=True), Column("age", right=True), Column("size", right=True), Column("job"),
    Column("error", shrinks=True),
)  # fmt: skip
_REPLAY = (
    Column("fingerprint"), Column("messages", right=True), Column("jobs", right=True), Column("already", right=True),
    Column("refused", right=True), Column("unreadable", right=True), Column("taken", right=True),
    Column("error", shrinks=True),
)  # fmt: skip
_SHOWN = (
    "id", "fingerprint", "lane", "topic", "partition", "offset", "received_at", "sent_at", "build", "may_be_newer",
    "size", "body_uri", "body_at", "trace", "replayed_at", "job_id", "job_state",
)  # fmt: skip
#: Characters of a body, and of a header, that people are shown.
_LONGEST_BODY = 8_000
_LONGEST_HEADER = 400


def show_groups(groups: Sequence[Mapping[str, Any]]) -> None:
    """A line for each kind of problem."""
    now = datetime.now(UTC)
    rows = [
        (
            group["fingerprint"],
            group["lane"],
            group["topic"],
            group["messages"],
            group["replayed"],
            output.age(group["first"], now),
            output.age(group["last"], now),
            _first_line(group["error"]),
        )
        for group in groups
    ]
    output.table(_GROUPS, rows, empty="no such messages")


def show_each(messages: Sequence[Mapping[str, Any]]) -> None:
    """A line for each message."""
    now = datetime.now(UTC)
    rows = [
        (
            one["id"],
            one["fingerprint"],
            one["lane"],
            one["topic"],
            one["partition"],
            one["offset"],
            output.age(one["received_at"], now),
            output.size(one["size"]),
            one["job_id"],
            _first_line(one["error"]),
        )
        for one in messages
    ]
    output.table(_EACH, rows, empty="no such messages")


def show(row: Any, sent: Sent | None, why: str | None) -> None:
    """Everything about one message; `sent` is None where it cannot be had, `why` says then why not."""
    values = vars(row)
    shown = [name for name in _SHOWN if values[name] is not None]
    width = max(map(len, shown))
    for name in shown:
        output.line(f"{name:{width}}  {_plain(values[name])}")
    output.heading("error")
    for problem in row.error:
        output.line(f"  {line_of(problem)}")
    if sent is None:
        output.heading("body")
        output.line(f"  cannot be read: {why}", style="red")
        return
    if sent.key is not None:
        output.heading("key")
        output.line(f"  {_cut(_words(sent.key), _LONGEST_HEADER)}")
    if sent.headers:
        output.heading("headers")
        for name, value in sent.headers:
            output.line(f"  {name}: {'null' if value is None else _cut(_words(value), _LONGEST_HEADER)}")
    output.heading("body")
    _show_body(sent.body)


def _show_body(body: bytes | None) -> None:
    if body is None:
        output.line("  none: a tombstone", style="dim")
        return
    if not body:
        output.line("  empty", style="dim")
        return
    words = _words(body)
    if isinstance(value := _json(body), dict | list):
        words = json.dumps(value, indent=2, ensure_ascii=False)
    output.block(words[:_LONGEST_BODY])
    if len(words) > _LONGEST_BODY:
        output.line(f"  ... ({len(words):,} characters; mediamill rejected body prints all)", style="dim")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _words(value: bytes) -> str:
    """As text; bytes that are none as `\\xff`."""
    return value.decode("utf-8", "backslashreplace")


def _cut(words: str, most: int) -> str:
    return words if len(words) <= most else f"{words[:most]}... ({len(words):,} characters)"


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return output.moment(value)
    if isinstance(value, Mapping):
        return " ".join(f"{key}={each}" for key, each in value.items())
    return str(value)


def line_of(problem: Mapping[str, Any]) -> str:
    """As `intake.problems.describe` says it, also of a problem whose code this build does not know."""
    said = "; ".join(filter(None, (problem.get("message"), problem.get("fix"))))
    return f"{problem.get('pointer') or '(message)'}: {said} [{problem.get('code')}]"


def _first_line(error: Sequence[Mapping[str, Any]] | None) -> str:
    if not error:
        return ""
    more = f" (and {len(error) - 1} more)" if len(error) > 1 else ""
    return line_of(error[0]) + more


@dataclass
class Tally:
    """What a replay did, by why the messages were refused before."""

    messages: dict[str, Counter[str]] = field(default_factory=dict)
    errors: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, outcomes: Iterable[Outcome]) -> None:
        for one in outcomes:
            self.messages.setdefault(one.fingerprint, Counter())[one.answer.name.lower()] += 1
            why = _first_line([problem.as_json() for problem in one.problems]) or one.why
            if why:
                errors = self.errors.setdefault(one.fingerprint, Counter())
                # A sentence may quote a value: of many that differ, the first ones stand for all.
                errors[why if why in errors or len(errors) < 100 else next(iter(errors))] += 1

    def total(self, answer: str) -> int:
        return sum(counts[answer] for counts in self.messages.values())

    @property
    def rows(self) -> list[dict[str, Any]]:
        """By fingerprint: how many messages, what became of them, and the commonest reason of those still refused."""
        return [
            {
                "fingerprint": fingerprint,
                "messages": counts.total(),
                "jobs": counts["job"],
                "already": counts["already"],
                "refused": counts["refused"],
                "unreadable": counts["unreadable"],
                "taken": counts["taken"],
                "error": self.errors[fingerprint].most_common(1)[0][0] if fingerprint in self.errors else None,
            }
            for fingerprint, counts in self.messages.items()
        ]

    def show(self) -> None:
        rows = [[row[column.title] for column in _REPLAY] for row in self.rows]
        output.table(_REPLAY, rows, empty="no such messages")
