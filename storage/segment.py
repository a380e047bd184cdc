"""Segments Chinese and Japanese text for full-text search.

Postgres splits words at spaces, which these scripts do not write. Runs of them become overlapping pairs of characters,
as Lucene's CJKBigramFilter does it: no dictionary, and a query finds them anywhere. As with its `outputUnigrams`,
single characters are indexed too, because many a word is one (猫, 山): once each, at the end, where they part no
phrase.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

# Han, Hiragana, Katakana (with its marks, without the dots between words), and Bopomofo.
# Hangul writes spaces and is left alone.
_CJK = (
    r"\u3005\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf"
    r"\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUN = re.compile(f"[{_CJK}]+")

#: A tsvector holds 1 MiB of distinct words and positions; what is beyond so many bytes of text is kept, but not found.
MOST_BYTES = 450_000
#: Marks on one letter; UAX #15 (Stream-Safe Text Format) says that no writing in use has more.
MOST_MARKS = 30


def normalised(text: str) -> str:
    """One form for full and half width (ＡＢＣ, ｶﾀｶﾅ) and for composed and decomposed letters: Unicode's NFKC.

    Of more than MOST_MARKS marks on one letter the first stay: Unicode wants them sorted, which `unicodedata` does in
    quadratic time without giving way to other threads; a million of them would stop the process for half an hour.
    """
    if not text.isascii():
        text = _too_many_marks().sub(lambda run: run.group()[:MOST_MARKS], text)
    return unicodedata.normalize("NFKC", text)


@cache
def _too_many_marks() -> re.Pattern[str]:
    # Three Tibetan vowels and the halfwidth sound marks are letters by themselves, and become marks.
    marks = "\u0f73\u0f75\u0f81\uff9e\uff9f"
    marks += "".join(c for c in map(chr, range(0x110000)) if unicodedata.combining(c))
    return re.compile(f"[{re.escape(marks)}]{{{MOST_MARKS + 1},}}")


def has_cjk(text: str) -> bool:
    """Whether any of the text is in a script that writes no spaces."""
    return _RUN.search(text) is not None


def searchable(text: str) -> str:
    """The words of a text to be indexed: `红色圆` gives `红色 色圆` and, at the end, `圆 红 色`."""
    text = normalised(text)
    characters = sorted({character for run in _RUN.findall(text) for character in run})
    return _within(" ".join([segmented(text), *characters]), MOST_BYTES)


def segmented(text: str) -> str:
    """The (normalised) text with every run of CJK characters written as bigrams, a lone character as itself."""
    return _RUN.sub(lambda run: f" {' '.join(_bigrams(run.group()))} ", text).strip()


def _bigrams(run: str) -> list[str]:
    return [run] if len(run) == 1 else [run[i : i + 2] for i in range(len(run) - 1)]


def _within(text: str, most: int) -> str:
    encoded = text.encode()
    if len(encoded) <= most:
        return text
    # The last word may be cut in two, and is left out.
    return encoded[:most].decode(errors="ignore").rpartition(" ")[0]
