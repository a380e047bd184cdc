"""One thing that `mediamill doctor` looks at, and how it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How it is."""

    OK = "ok"
    WARN = "warn"
    """It works, but not as one may expect."""
    FAIL = "fail"
    """A worker cannot work so."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    detail: str
    fix: tuple[str, ...] = ()
