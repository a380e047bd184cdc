"""What the options of several commands have in common: their types, and the filters of jobs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

LANES = ("interactive", "upload", "backfill")
STATES = ("waiting", "queued", "running", "succeeded", "failed", "cancelled", "quarantined")


class Age(click.ParamType[timedelta]):
    """A length of time: `90`, `10m`, `2h`, `7d`."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """As `config.values.duration` reads it."""
        if isinstance(value, timedelta):
            return value
        from config.values import duration

        try:
            return timedelta(seconds=duration(value))
        except (ValueError, OverflowError) as error:
            self.fail(f"{value!r} {error}", param, ctx)


class Moment(click.ParamType[datetime]):
    """A moment: RFC 3339 with a zone, or an age before now (`2h`); for `future`, after now."""

    name = "time"

    def __init__(self, *, future: bool = False) -> None:
        self._sign = 1 if future else -1

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Always in UTC."""
        if isinstance(value, datetime):
            return value
        from config.values import duration

        try:
            if re.fullmatch(r"[0-9.]+\s*[a-z]+", value):
                return datetime.now(UTC) + self._sign * timedelta(seconds=duration(value))
            moment = datetime.fromisoformat(value)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time; write 2030-01-31T12:00:00Z, or a length like 2h", param, ctx)
        if moment.tzinfo is None:
            self.fail(f"{value!r} has no zone; write 2030-01-31T12:00:00Z", param, ctx)
        return moment.astimezone(UTC)


class Pair(click.ParamType[tuple[str, str]]):
    """`name=value`."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """The first `=` parts them."""
        if isinstance(value, tuple):
            return value
        key, separator, rest = value.partition("=")
        if not separator or not key:
            self.fail(f"{value!r} is no pair; write name=value", param, ctx)
        return key, rest


def pairs(given: Sequence[tuple[str, str]], option: str) -> dict[str, str]:
    """The pairs by name. Raises UsageError where a name comes twice."""
    found: dict[str, str] = {}
    for key, value in given:
        if key in found:
            raise click.UsageError(f"{option} {key} is given twice")
        found[key] = value
    return found


def json_option(function: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


@dataclass(frozen=True, slots=True)
class JobFilters:
    """The filters that were given."""

    state: Sequence[str]
    type: Sequence[str]
    lane: Sequence[str]
    tenant: Sequence[str]
    label: Mapping[str, str]
    newer_than: timedelta | None
    older_than: timedelta | None

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return any((self.state, self.type, self.lane, self.tenant, self.label, self.newer_than, self.older_than))


def job_filters(function: F) -> F:
    """The options of JobFilters; they arrive as keyword arguments, for `taken`."""
    options = [
        click.option("--state", multiple=True, type=click.Choice(STATES), help="Only in this state; may be repeated."),
        click.option("--type", "type_", multiple=True, metavar="TYPE", help="Only of this type; may be repeated."),
        click.option("--lane", multiple=True, type=click.Choice(LANES), help="Only in this lane; may be repeated."),
        click.option("--tenant", multiple=True, help="Only of this tenant; may be repeated."),
        click.option("--label", multiple=True, type=Pair(), help="Only with this label; repeated: with all of them."),
        click.option("--newer-than", type=Age(), help="Only made less than this ago: 10m, 2h, 7d."),
        click.option("--older-than", type=Age(), help="Only made longer than this ago."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def taken(given: Mapping[str, Any]) -> JobFilters:
    """The filters of a command's keyword arguments."""
    return JobFilters(
        state=given["state"],
        type=given["type_"],
        lane=given["lane"],
        tenant=given["tenant"],
        label=pairs(given["label"], "--label"),
        newer_than=given["newer_than"],
        older_than=given["older_than"],
    )
