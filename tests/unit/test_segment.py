from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.segment import MOST_BYTES, MOST_MARKS, has_cjk, normalised, searchable, segmented


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("红色圆", "红色 色圆"),
        ("猫", "猫"),
        ("a red circle", "a red circle"),
        ("iPhone手机壳", "iPhone 手机 机壳"),
        ("Tシャツを着た犬", "T シャ ャツ ツを を着 着た た犬"),
        ("2024年3月", "2024 年 3 月"),
        ("日本・東京", "日本 ・ 東京"),
        ("빨간 원", "빨간 원"),
        ("", ""),
    ],
)
def test_runs_of_chinese_and_japanese_become_pairs_and_all_else_stays(text: str, words: str) -> None:
    assert " ".join(segmented(text).split()) == words


def test_single_characters_are_indexed_once_each_behind_the_text() -> None:
    assert searchable("猫猫 cat") == "猫猫  cat 猫"


def test_full_and_half_width_are_one() -> None:
    assert normalised("ＡＢＣ ﾗｰﾒﾝ") == "ABC ラーメン"


def test_text_in_scripts_that_write_spaces_is_left_as_it_is() -> None:
    text = "Grüße, мир; سلام; 안녕"
    assert not has_cjk(text)
    assert searchable(text) == text


def test_more_text_than_a_tsvector_can_hold_is_cut_between_words() -> None:
    text = " ".join(f"word{n}" for n in range(100_000))
    cut = searchable(text)
    assert len(cut.encode()) <= MOST_BYTES
    assert text.startswith(cut + " ")


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_every_run_is_found_again_in_what_is_indexed(text: str) -> None:
    words = searchable(text).split()
    for word in segmented(normalised(text)).split():
        assert word in words


@pytest.mark.parametrize("marks", ["\u0315\u0300", "\u0315\uff9e"])
def test_a_text_of_marks_alone_does_not_stop_the_process(marks: str) -> None:
    """Sorting them takes `unicodedata` quadratic time: half an hour for a text as long as an executor may say."""
    began = time.process_time()
    searchable(marks[0] * 400_000 + marks[1] * 400_000)
    assert time.process_time() - began < 5


def test_no_writing_in_use_is_changed_by_the_limit_on_marks() -> None:
    for text in ("Z\u0351\u036b\u0343a\u0323\u0302", "ｶﾞｷﾞ", "नि\u0902", "e" + "\u0301" * MOST_MARKS):
        assert normalised(text) == unicodedata.normalize("NFKC", text)


def test_all_characters_that_become_marks_are_counted_as_marks() -> None:
    for character in map(chr, range(0x110000)):
        first = unicodedata.normalize("NFKD", character)[:1]
        if unicodedata.combining(first):
            assert len(normalised("a" + character * 3 * MOST_MARKS)) <= 2 * MOST_MARKS + 1
