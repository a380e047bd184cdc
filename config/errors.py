"""What is raised when the configuration is wrong."""

from __future__ import annotations

from collections.abc import Sequence


class BadSetting(Exception):
    """Settings are wrong; `lines` has one line for each: where it stands, its value, what would be right."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)
