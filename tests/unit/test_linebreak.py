"""Where lines are broken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.media.linebreak import pieces, wrap


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("the quick brown fox", ["the quick", "brown fox"]),
        ("exactly te", ["exactly te"]),
        ("one\n\ntwo  ", ["one", "", "two"]),
        ("a well-known-thing", ["a well-", "known-", "thing"]),
        ("from 10-20 to 30-40", ["from 10-20", "to 30-40"]),
        ("1000 000\u00a0km", ["1000", "000\u00a0km"]),
        ("unbelievable", ["unbelievab", "le"]),
        ("", [""]),
    ],
)
def test_lines_end_between_words_and_inside_one_only_where_it_is_too_long(text: str, lines: list[str]) -> None:
    assert wrap(text, 10, len) == lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("今日は晴れです", ["今日は晴", "れです"]),
        ("今日は晴。そう", ["今日は", "晴。そう"]),
        ("今日は「晴」だ", ["今日は", "「晴」だ"]),
        ("ちょっと待って", ["ちょっと", "待って"]),
        ("スーパーマーケット", ["スーパー", "マーケッ", "ト"]),
        ("見るiPod", ["見る", "iPod"]),
        ("대한 민국", ["대한", "민국"]),
    ],
)
def test_scripts_without_spaces_break_between_characters_but_not_before_closing_marks(
    text: str, lines: list[str]
) -> None:
    assert wrap(text, 4, len) == lines


def test_what_is_seen_as_one_character_is_not_taken_apart() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert wrap(family * 2, 5, len) == [family, family]
    assert wrap("e\u0301" * 3, 4, len) == ["e\u0301" * 2, "e\u0301"]


def test_the_pieces_are_what_stays_together() -> None:
    assert pieces("well-known 天気、だ") == ["well-", "known", "天", "気、", "だ"]


@given(st.text(alphabet="ab -、天「」\n\u0301", max_size=80), st.integers(2, 12))
def test_no_line_is_over_the_limit_and_nothing_but_space_is_lost(text: str, limit: int) -> None:
    def width(line: str) -> int:
        return len(line.replace("\u0301", ""))

    lines = wrap(text, limit, width)
    assert all(width(line) <= limit for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
