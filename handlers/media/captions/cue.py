"""A cue of subtitles: when it is shown, and what it says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

#: Limits of what is read.
MAX_BYTES = 5_000_000
MAX_CUES = 50_000
MAX_CHARACTERS = 2_000

_LINE_END = re.compile("\r\n|[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Cue:
    """A text and the time it is shown, in seconds from the beginning: from `start` up to `end`.

    The text is plain: without markup, its lines parted by a line feed.
    """

    start: Fraction
    end: Fraction
    text: str


def tidied(text: str) -> str:
    """Plain lines: no control characters, no empty lines, no space at the ends of a line.

    An empty line ends a cue in every format of subtitles, so a text cannot hold one.
    """
    plain = _CONTROL.sub("", _LINE_END.sub("\n", text).replace("\t", " "))
    return "\n".join(filter(None, (line.strip() for line in plain.split("\n"))))


def in_order(cues: Iterable[Cue]) -> list[Cue]:
    """Those that say something, tidied, by their start and then their end."""
    plain = (replace(cue, text=tidied(cue.text)) for cue in cues)
    return sorted((cue for cue in plain if cue.text), key=lambda cue: (cue.start, cue.end))
