"""Cues in lines that can be read: two short ones at a time, as subtitles are set in film and television."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

from handlers.media.captions.cue import Cue, in_order
from handlers.media.linebreak import pieces, wrap


def columns_of(text: str) -> int:
    """The width of a text in columns: two for a wide character (Chinese, Japanese, Korean), none for a mark."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def wrapped(cues: Iterable[Cue], *, columns: int = 42, lines: int = 2) -> list[Cue]:
    """The cues in lines of at most so many columns, as even as they can be, at most so many lines at a time.

    A cue with more becomes several, which share its time by their columns. Its own line ends are only kept where the
    text has room in them.
    """
    return in_order(part for cue in in_order(cues) for part in _parts(cue, columns, lines))


def _parts(cue: Cue, columns: int, lines: int) -> list[Cue]:
    own = cue.text.split("\n")
    if len(own) <= lines and all(columns_of(line) <= columns for line in own):
        return [cue]
    rows = _even(" ".join(own), columns)
    texts = ["\n".join(rows[at : at + lines]) for at in range(0, len(rows), lines)]
    whole, shown = sum(map(columns_of, texts)), 0
    parts: list[Cue] = []
    start = cue.start
    for text in texts:
        shown += columns_of(text)
        end = cue.start + (cue.end - cue.start) * Fraction(shown, max(1, whole))
        parts.append(replace(cue, start=start, end=end, text=text))
        start = end
    return parts


def _even(text: str, columns: int) -> list[str]:
    """As few lines as `columns` allows, and then the narrowest such: the last is not left with one word."""
    rows = wrap(text, columns, columns_of)
    low, high = min(columns, max(map(columns_of, pieces(text)))), columns
    while low < high:
        middle = (low + high) // 2
        if len(wrap(text, middle, columns_of)) <= len(rows):
            high = middle
        else:
            low = middle + 1
    return wrap(text, low, columns_of)
