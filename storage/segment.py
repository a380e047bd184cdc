"""Segments Chinese and Japanese text for full-text search.

Postgres splits words at spaces, which these scripts do not write. Runs of them become overlapping pairs of characters,
as Lucene's CJKBigramFilter does it: no dictionary, and a query of two or more characters finds them anywhere.
"""

from __future__ import annotations

import re

# Han, Hiragana, Katakana (with its marks), and Bopomofo; Hangul writes spaces and is left alone.
_CJK = r"\u3005\u3007\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_RUN = re.compile(f"[{_CJK}]+")


def searchable(text: str) -> str:
    """The text with every run of CJK characters written as bigrams: `红色圆` gives `红色 色圆`."""
    return _RUN.sub(lambda run: f" {' '.join(_bigrams(run.group()))} ", text)


def _bigrams(run: str) -> list[str]:
    return [run] if len(run) == 1 else [run[i : i + 2] for i in range(len(run) - 1)]
