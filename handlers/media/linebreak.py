"""Where a text may go on in a new line.

A small part of Unicode's line breaking (UAX #14): between words; between the characters of scripts that write no
spaces, except before what may not begin a line and after what may not end one (kinsoku). Hyphenation is not in it.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence

#: Chinese and Japanese characters, kana, and their punctuation: a line may end at each. Korean has spaces.
_IDEOGRAPHIC = re.compile(
    "[\u2e80-\u2fff\u3000-\u30ff\u3100-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef"
    "\U00020000-\U0003ffff]"
)
_NOT_AT_THE_BEGINNING = frozenset(
    "!%),.:;?]}¢°’”‰′″℃、。々〉》」』】〕〗〟〻ぁぃぅぇぉっゃゅょゎゕゖ゛゜ゝゞ゠ァィゥェォッャュョヮヵヶ・ーヽヾ"
    "！％），．：；？］｝～｡｣､･…‥–—"
)
_NOT_AT_THE_END = frozenset("([{£¥‘“〈《「『【〔〖〝（［｛｢＄￡￥")


def wrap(text: str, limit: float, measure: Callable[[str], float]) -> list[str]:
    """The text in lines none of which measures more than `limit`; its own line ends stay.

    `measure` must grow with the text. A word that is too long for a line is broken between its characters; a single
    character that is too wide gets a line of its own, the one case of a line above the limit.
    """
    return [line for paragraph in text.split("\n") for line in _wrapped(paragraph.rstrip(), limit, measure)]


def pieces(text: str) -> list[str]:
    """The text in the parts that stay together: where one ends, a line may."""
    ends = _ends(text)
    return [text[start:end].rstrip() for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _wrapped(paragraph: str, limit: float, measure: Callable[[str], float]) -> list[str]:
    lines: list[str] = []
    ends, clusters = _ends(paragraph), _clusters(paragraph)
    start = 0
    while start < len(paragraph):
        end = _last_that_fits(paragraph, start, ends, limit, measure)
        if end is None:
            first = clusters[bisect_right(clusters, start)]
            end = _last_that_fits(paragraph, start, clusters, limit, measure) or first
        lines.append(paragraph[start:end].rstrip())
        start = end
        while start < len(paragraph) and paragraph[start].isspace():
            start += 1
    return lines or [""]


def _last_that_fits(
    text: str, start: int, ends: Sequence[int], limit: float, measure: Callable[[str], float]
) -> int | None:
    """The last of these ends up to which the line fits, or None. By doubling, then halving: few measurements."""
    low = bisect_right(ends, start)
    step, high = 1, low
    while high < len(ends) and measure(text[start : ends[high]].rstrip()) <= limit:
        low, high, step = high + 1, high + step, step * 2
    high = min(high, len(ends))
    while low < high:
        middle = (low + high) // 2
        if measure(text[start : ends[middle]].rstrip()) <= limit:
            low = middle + 1
        else:
            high = middle
    return ends[low - 1] if low > 0 and ends[low - 1] > start else None


def _ends(text: str) -> list[int]:
    """The places where a line may end, the end of the text among them."""
    return [i for i in range(1, len(text)) if _may_break(text[i - 1], text[i])] + [len(text)]


def _may_break(before: str, after: str) -> bool:
    if before in "\u00a0\u2060\u202f\u200d" or after in "\u00a0\u2060\u202f\u200d":
        return False
    if after.isspace() or unicodedata.combining(after) or unicodedata.category(after) in ("Mn", "Me", "Mc", "Cf"):
        return False
    if before.isspace() or before in "\u200b\u00ad":
        return True
    if after in _NOT_AT_THE_BEGINNING or before in _NOT_AT_THE_END:
        return False
    if _IDEOGRAPHIC.match(before) or _IDEOGRAPHIC.match(after):
        return True
    return before in "-–—" and after.isalpha()


def _clusters(text: str) -> list[int]:
    """The ends of what is seen as one character: a mark stays with its base, and what a joiner joins together."""
    joined = ("Mn", "Me", "Mc", "Cf")
    return [
        i for i in range(1, len(text)) if unicodedata.category(text[i]) not in joined and text[i - 1] != "\u200d"
    ] + [len(text)]
