"""Subtitles that are read: what each format may look like, what is dropped, and what is refused with a reason."""

from __future__ import annotations

import time
from contextlib import nullcontext
from fractions import Fraction

import pytest

from handlers.errors import InvalidInput
from handlers.media.captions import Cue, parse

OF = "inputs/subtitles"

SUBRIP = """1
00:00:01,000 --> 00:00:02,500
Hello
world

2
01:00:00,5 --> 01:00:01,25
Good bye
"""
CUES = [
    Cue(Fraction(1), Fraction(5, 2), "Hello\nworld"),
    Cue(Fraction(7201, 2), Fraction(14405, 4), "Good bye"),
]
WEBVTT = """WEBVTT - a title
Kind: captions

STYLE
::cue(b) { color: red }

REGION
id:fred

NOTE a comment
of two lines

intro
00:01.000 --> 00:02.500 align:start line:0%
<v Ann><b>Hello</b>
<00:01.500>world

01:00:00.500 --> 01:00:01.250
Good <c.loud>bye</c>
"""


def texts(data: str) -> list[str]:
    return [cue.text for cue in parse(data.encode(), OF)]


def one(text: str, header: str = "") -> str:
    """The text of a file's only cue."""
    (found,) = texts(f"{header}00:00:01.000 --> 00:00:02.000\n{text}\n")
    return found


def test_cues_of_both_formats_are_read() -> None:
    assert parse(SUBRIP.encode(), OF) == CUES
    assert parse(WEBVTT.encode(), OF) == CUES


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("source", [SUBRIP, WEBVTT])
def test_marks_of_byte_order_and_line_ends_change_nothing(source: str, end: str, encoding: str) -> None:
    assert parse(source.replace("\n", end).encode(encoding), OF) == CUES


def test_indices_may_be_missing_and_so_may_empty_lines() -> None:
    assert texts("00:01,000 --> 00:02,000\none\n\n00:03,000 --> 00:04,000\ntwo") == ["one", "two"]
    assert texts("1\n00:01,000 --> 00:02,000\none\n2\n00:03,000 --> 00:04,000\ntwo") == ["one", "two"]


def test_a_number_that_is_the_text_stays() -> None:
    assert texts("1\n00:01,000 --> 00:02,000\n1984\n\n2\n00:03,000 --> 00:04,000\n42\n") == ["1984", "42"]


def test_an_empty_line_inside_a_subrip_text_does_not_cut_it_off() -> None:
    assert texts("00:01,000 --> 00:02,000\none\n\nmore\n\n2\n00:03,000 --> 00:04,000\ntwo") == ["one\nmore", "two"]


def test_an_arrow_in_a_subrip_text_is_text() -> None:
    assert one("go --> there") == "go --> there"


def test_coordinates_after_subrip_times_are_passed_over() -> None:
    assert texts("00:00:01,000 --> 00:00:02,000 X1:10 X2:20 Y1:5 Y2:9\nhere\n") == ["here"]


def test_cues_come_sorted() -> None:
    assert texts("00:03,0 --> 00:04,0\nlater\n\n00:01,0 --> 00:05,0\nlong\n\n00:01,0 --> 00:02,0\nshort") == [
        "short",
        "long",
        "later",
    ]


@pytest.mark.parametrize("data", ["", "\n\n", "WEBVTT", "WEBVTT\n", "WEBVTT\n\nNOTE nothing was said\n"])
def test_a_file_without_cues_has_none(data: str) -> None:
    assert parse(data.encode(), OF) == []


def test_cues_that_say_nothing_are_left_out() -> None:
    assert texts("00:01,0 --> 00:02,0\n<i> </i>\n\n00:03,0 --> 00:04,0\n\n\n00:05,0 --> 00:06,0\nheard\n") == ["heard"]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("<i>so</i> <font color='red'>it</font> <B>is</B>", "so it is"),
        ("{\\an8}above {\\pos(1,2)\\fscx500}it", "above it"),
        ("{\\p1}m 0 0 l 9 9{\\p0} and {plain}", "m 0 0 l 9 9 and {plain}"),
        ("1 < 2 > 0 <3", "1 < 2 > 0 <3"),
        ("a\tb\x07 \x1b[31mc", "a b [31mc"),
        ("AT&amp;T", "AT&amp;T"),
    ],
)
def test_subrip_loses_markup_and_keeps_text(text: str, plain: str) -> None:
    assert one(text) == plain


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("<v.first Ann O'Neill>Hi</v>", "Hi"),
        ("AT&amp;T &lt;b&gt; caf&eacute; &#x4e2d;", "AT&T <b> café 中"),
        ("&amp;lt;", "&lt;"),
        ("<ruby>漢<rt>かん</rt></ruby>", "漢かん"),
        ("{\\an8}above", "above"),
    ],
)
def test_webvtt_loses_markup_and_its_entities_are_read_once(text: str, plain: str) -> None:
    assert one(text, "WEBVTT\n\n") == plain


def test_an_arrow_begins_a_new_webvtt_cue_even_without_an_empty_line() -> None:
    assert texts("WEBVTT\n\n00:01.000 --> 00:02.000\none\n00:03.000 --> 00:04.000\ntwo\n") == ["one", "two"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\n\nhello", "line 3: this is neither SubRip"),
        (b"[Script Info]\nTitle: x\n", "line 1: this is neither SubRip"),
        (b"hello\n00:00:01,000 --> 00:00:02,000\nx", "line 1: this is neither SubRip"),
        (
            b"00:00:01,000 --> 00:00:0x,000\nx",
            "line 1: '00:00:01,000 --> 00:00:0x,000' are no times; write 00:00:01,000",
        ),
        (b"1\n00:00:01,000 --> 00:00:02,000\nx\n\n2\n5 --> 6\ny", "line 6: '5 --> 6' are no times"),
        (b"WEBVTT\n\nfirst\n00:01 --> 00:02\nx", "line 4: '00:01 --> 00:02' are no times"),
        (b"00:00:02,000 --> 00:00:01,000\nx", "line 1: the cue ends before it begins; put the earlier"),
        (b"00:61:02,000 --> 00:62:01,000\nx", "line 1: .* more than 59 minutes"),
        (b"1\n00:00:01,000 --> 00:00:02,000\ncaf\xe9\n", "line 3: this is not UTF-8.*; save it as UTF-8"),
        ("1\n".encode("utf-16-le"), "line 1: there is a zero byte"),
        (b"\xff\xfea", "line 1: this is not UTF-8"),
        (b"\x00\x00\x00\x1cftypisom", "line 1: there is a zero byte.*SubRip"),
        (b"00:00:01,000 --> 00:00:02,000\n" + b"x" * 2001, "line 1: the cue has 2,001 characters; at most 2,000"),
        (b"00:01,0 --> 00:02,0\nx\n" * 50_001, "line 100001: there are more than 50,000 cues; split the file"),
        (b" " * 5_000_001, "these subtitles have 5,000,001 bytes, and at most 5,000,000 are read: split the file"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_input_the_line_and_the_fix(data: bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{OF}: {said}"):
        parse(data, OF)


@pytest.mark.parametrize(
    "filler", ["<", "{\\", "<b ", "{\\{\\}", "&", "-->", "--", "1:", " ", "\n", "1\n", "&#", "\u2060"]
)
def test_hostile_repetition_takes_no_longer_than_its_length_does(filler: str) -> None:
    data = ("00:01,0 --> 00:02,0\n" + filler * (2_000_000 // len(filler))).encode()[:4_900_000]
    started = time.process_time()
    with nullcontext() if filler.isspace() else pytest.raises(InvalidInput, match=f"^{OF}: line"):
        parse(data, OF)
    assert time.process_time() - started < 10
