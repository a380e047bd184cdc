"""The lanes: how urgent a job is, by the door that it came through."""

from __future__ import annotations

from typing import Literal

Lane = Literal["interactive", "upload", "backfill"]
LANES: tuple[Lane, ...] = ("interactive", "upload", "backfill")
