"""Subtitles that are written: what is read back is what was written, and no text becomes markup."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handlers.media.captions import Cue, parse, to_ass, to_srt, to_vtt, wrapped
from handlers.media.captions.cue import in_order
from handlers.media.captions.wrapping import columns_of

ODD = ["<", ">", "{", "}", "\\", "-", "-->", "--", "&", "&lt;", "<b>", "</i>", "<c.x>", "{\\an8}", "\u2060", "1", ":"]
WORDS = [*ODD, " ", "\n", "\r\n", "\n\n", "\t", "\x00", "\x1f", "\u2028", "\x85", "\ufeff", "NOTE", "WEBVTT", "00:01,0"]
TEXTS = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS), max_size=14).map("".join))
MILLISECONDS = st.integers(0, 359_999_999)


@st.composite
def cues(draw: st.DrawFn) -> Cue:
    start, end = sorted((draw(MILLISECONDS), draw(MILLISECONDS)))
    return Cue(Fraction(start, 1000), Fraction(end, 1000), draw(TEXTS))


@given(st.lists(cues(), max_size=5))
@example([Cue(Fraction(0), Fraction(1), "00:00:01,000 --> 00:00:02,000")])
@example([Cue(Fraction(0), Fraction(1), "42"), Cue(Fraction(1), Fraction(1), "43")])
@example([Cue(Fraction(0), Fraction(1), "<\u2060b> {\u2060\\an8} --\u2060>")])
def test_what_is_written_is_read_back(written: list[Cue]) -> None:
    assert parse(to_srt(written).encode(), "x") == in_order(written)
    assert parse(to_vtt(written).encode(), "x") == in_order(written)


@given(cues())
def test_no_text_reaches_a_player_as_markup(cue: Cue) -> None:
    assert to_vtt([cue]).count("-->") == to_srt([cue]).count("-->") == len(in_order([cue]))
    _, _, body = to_vtt([cue]).partition(" --> ")
    assert "<" not in body
    assert "{\\" not in body + to_srt([cue])


@given(cues())
def test_no_text_reaches_libass_as_a_style_or_as_another_line(cue: Cue) -> None:
    before, _, events = to_ass([cue], width=640, height=360, font_name="DejaVu Sans").partition("Effect, Text\n")
    assert "Default,DejaVu Sans,18," in before
    assert len(events.splitlines()) == events.count("\n") == len(in_order([cue]))
    said = events.split(",,0,0,0,,", 1)[-1]
    assert not re.search(r"(?<!\\)[{}]", said), "an override that libass would open"
    assert not re.search(r"\\(?![N{}\u2060])", said), "an escape that libass would know"


def test_times_are_rounded_half_up_to_what_the_format_can_say() -> None:
    cue = Cue(Fraction(1, 3), Fraction(7322, 1) + Fraction(9995, 10_000), "x")
    assert "00:00:00,333 --> 02:02:03,000" in to_srt([cue])
    assert "00:00:00.333 --> 02:02:03.000" in to_vtt([cue])
    assert "0:00:00.33,2:02:03.00," in to_ass([cue], width=640, height=360, font_name="Sans")


def test_lines_and_colors_are_as_ass_has_them() -> None:
    ass = to_ass(
        [Cue(Fraction(0), Fraction(1), "one\ntwo, {three}")],
        width=1920,
        height=1080,
        font_name="Sans",
        size=50,
        color="#ff8000",
    )
    assert "PlayResX: 1920\nPlayResY: 1080\n" in ass
    assert "Style: Default,Sans,50,&H000080FF,&H000080FF,&H00000000," in ass
    assert ass.endswith(",,0,0,0,,one\\Ntwo, \\{three\\}\n")


@pytest.mark.parametrize("name", ["", "a,b", "a\nStyle: x", "{b}", "a\\b"])
def test_a_font_name_that_would_break_its_line_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a font"):
        to_ass([], width=640, height=360, font_name=name)


def test_a_color_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="write #rrggbb"):
        to_ass([], width=640, height=360, font_name="Sans", color="red")


LONG = "The quick brown fox jumps over the lazy dog, and then, tired of it all, it goes to sleep under a tree."


def test_a_long_cue_becomes_several_that_share_its_time() -> None:
    parts = wrapped([Cue(Fraction(10), Fraction(20), LONG)], columns=30)
    assert " ".join(part.text.replace("\n", " ") for part in parts) == LONG
    assert all(len(part.text.split("\n")) <= 2 for part in parts)
    assert max(columns_of(line) for part in parts for line in part.text.split("\n")) <= 30
    assert parts[0].start == 10
    assert parts[-1].end == 20
    assert all(before.end == after.start for before, after in pairwise(parts))
    assert len(parts) == 2


def test_two_lines_are_of_about_one_length() -> None:
    (part,) = wrapped([Cue(Fraction(0), Fraction(1), "Nobody had expected that it would rain all day")])
    assert part.text == "Nobody had expected that\nit would rain all day"


def test_lines_that_are_short_enough_stay_as_they_are() -> None:
    cue = Cue(Fraction(0), Fraction(1), "- Yes?\n- No.")
    assert wrapped([cue]) == [cue]


def test_a_wide_character_takes_two_columns() -> None:
    (part,) = wrapped([Cue(Fraction(0), Fraction(1), "今日はとても良い天気ですね")], columns=14)
    assert part.text == "今日はとても良\nい天気ですね"


@given(st.lists(cues(), max_size=3), st.integers(4, 50), st.integers(1, 3))
def test_wrapping_loses_nothing_but_space_and_goes_over_no_edge(given: list[Cue], columns: int, lines: int) -> None:
    parts = wrapped(given, columns=columns, lines=lines)

    def ink(some: list[Cue]) -> str:
        return "".join(sorted("".join("".join(cue.text.split()) for cue in some)))

    assert ink(parts) == ink(in_order(given))
    for part in parts:
        rows = part.text.split("\n")
        assert len(rows) <= lines
        assert all(columns_of(row) <= columns for row in rows)
    assert parts == in_order(parts)
