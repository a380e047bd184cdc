from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.query import LONGEST, BadQuery, read_wording


@pytest.mark.parametrize(
    ("text", "words", "unwanted"),
    [
        ("red circle", "red circle", ""),
        ('"red circle" big', '"red circle" big', ""),
        ("red -circle", "red", "circle"),
        ('red -circle -"big dog"', "red", 'circle or "big dog"'),
        ("cat OR dog", "cat or dog", ""),
        ("or cat or or -dog or", "cat", "dog"),
        ("cat -or dog", "cat dog", "or"),
        ("红色圆形", '"红色 色圆 圆形"', ""),
        ("猫 -红色圆", '"猫"', '"红色 色圆"'),
        ("iPhone手机", '"iPhone 手机"', ""),
        ("“red circle”", '"red circle"', ""),
        ('"red', '"red"', ""),
        ("--- ** & cat", "cat", ""),
        ("well-known", "well-known", ""),
        ("", "", ""),
    ],
)
def test_a_query_is_taken_apart(text: str, words: str, unwanted: str) -> None:
    wording = read_wording(text)
    assert (wording.words, wording.unwanted) == (words, unwanted)


def test_a_text_encoder_reads_what_is_wanted_without_operators() -> None:
    assert read_wording('a "red circle" -dog 红色圆').plain == "a red circle 红色圆"


def test_chinese_words_are_kept_as_they_stand_to_be_marked() -> None:
    assert read_wording("红色圆 dog iPhone手机 -猫").literals == ("红色圆", "iphone手机")


@pytest.mark.parametrize(
    ("text", "message"), [("a\x00b", "NUL"), ("\udc80", "surrogate"), ("x" * (LONGEST + 1), f"{LONGEST} or fewer")]
)
def test_what_no_text_can_contain_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(BadQuery, match=message):
        read_wording(text)


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00"), max_size=60))
def test_any_text_can_be_taken_apart_and_again(text: str) -> None:
    words = read_wording(text).words
    assert words.count('"') % 2 == 0
    assert not words.startswith("or ")
    assert not words.endswith(" or")
