"""Titles, by their pixels: where the ink is, of what color, and what happens when it does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.media.linebreak import wrap
from handlers.video.text import fonts, title
from handlers.video.text.title import TextTooLong
from handlers.video.timeline.plan import TextStyle

FONTS = fonts.found()
STYLE = TextStyle("Hamburg", font="sans", size=40, color="#ff8000", align="center", valign="middle")
WIDTH, HEIGHT = 400, 200


def drawn(text: str = STYLE.text, box: tuple[int, int] = (WIDTH, HEIGHT), **changes: Any) -> Any:
    """The title's pixels: height x width x RGBA."""
    image = title.draw(replace(STYLE, text=text, **changes), *box, FONTS)
    assert image.mode == "RGBA"
    assert image.size == box
    return np.asarray(image)


def ink(pixels: Any) -> tuple[int, int, int, int]:
    """The rectangle that is not clear: left, top, right, bottom; the latter two are just outside it."""
    rows, columns = np.nonzero(pixels[..., 3].any(axis=1))[0], np.nonzero(pixels[..., 3].any(axis=0))[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def lines(pixels: Any) -> int:
    """Of text without descenders: groups of rows with ink."""
    rows = pixels[..., 3].any(axis=1).astype(int)
    return int((np.diff(np.concatenate([[0], rows])) == 1).sum())


def glyph(character: str, **changes: Any) -> bytes:
    """What one character looks like, wherever it stands."""
    pixels = drawn(character, **changes)
    left, top, right, bottom = ink(pixels)
    return pixels[top:bottom, left:right].tobytes()


def test_every_built_in_font_is_there_once_the_set_up_has_run() -> None:
    assert FONTS.keys() == fonts.FILES.keys()


@pytest.mark.parametrize("align", ["left", "center", "right"])
@pytest.mark.parametrize("valign", ["top", "middle", "bottom"])
def test_the_ink_stands_where_it_was_asked_for(align: str, valign: str) -> None:
    left, top, right, bottom = ink(drawn("Höhe", align=align, valign=valign))
    margins = {"left": left, "center": abs(WIDTH - right - left), "right": WIDTH - right}
    heights = {"top": top, "middle": abs(HEIGHT - bottom - top), "bottom": HEIGHT - bottom}
    assert margins[align] <= 6
    assert heights[valign] <= 12
    assert margins[align] == min(margins.values())
    assert heights[valign] == min(heights.values())


def test_titles_of_one_style_share_a_baseline_whatever_their_letters() -> None:
    flat, tall = ink(drawn("xxx")), ink(drawn("xÅx"))
    assert flat[3] == tall[3]
    assert tall[1] < flat[1]


def test_lines_are_aligned_one_by_one() -> None:
    pixels = drawn("MMMMMM\nM", align="right")
    top, bottom = pixels[: HEIGHT // 2], pixels[HEIGHT // 2 :]
    assert abs(ink(top)[2] - ink(bottom)[2]) <= 1
    assert ink(top)[0] < ink(bottom)[0] - 100


@pytest.mark.parametrize(("color", "alpha"), [("#ff8000", 255), ("#ff800080", 128)])
def test_the_letters_have_the_color_asked_for(color: str, alpha: int) -> None:
    pixels = drawn(color=color)
    inked = pixels[pixels[..., 3] > 0]
    assert (inked[:, :3] == (255, 128, 0)).all()
    assert inked[:, 3].max() == alpha
    assert (pixels[..., 3] == alpha).sum() > 1000


def test_a_text_too_wide_for_one_line_goes_on_in_the_next() -> None:
    assert lines(drawn("MINIMUM")) == 1
    pixels = drawn("MINIMUM MAXIMUM MINIMUM", (300, HEIGHT))
    assert lines(pixels) == 3
    left, _, right, _ = ink(pixels)
    assert right - left <= 300


@pytest.mark.parametrize("width", [60, 97, 150, 333])
@pytest.mark.parametrize(
    "text", ["The quick brown fox jumps", "Donaudampfschifffahrtsgesellschaft", "今日はとても良い天気ですね。"]
)
def test_no_line_is_wider_than_the_box_and_none_touches_its_edge_cut_off(text: str, width: int) -> None:
    narrow = drawn(text, (width, 2000), valign="top")
    left, _, right, _ = ink(narrow)
    assert 0 <= left < right <= width
    faces = title._Faces(fonts.chain("sans", FONTS), 40, 0)
    assert all(faces.measured(line).width <= width for line in wrap(text, width, lambda x: faces.measured(x).width))


def test_line_spacing_moves_the_lines_apart() -> None:
    near, far = ink(drawn("M\nM", line_spacing=1.0)), ink(drawn("M\nM", line_spacing=2.0))
    assert (far[3] - far[1]) - (near[3] - near[1]) == 40


def test_an_empty_line_is_room() -> None:
    apart, together = ink(drawn("M\n\nM")), ink(drawn("M\nM"))
    assert (apart[3] - apart[1]) - (together[3] - together[1]) == 48


def test_a_plate_lies_behind_the_text_and_around_it() -> None:
    bare, plated = drawn(), drawn(box_color="#0000ff80")
    (left, top, right, bottom), outer = ink(bare), ink(plated)
    assert outer[0] <= left - 8 < right + 8 <= outer[2]
    assert outer[1] <= top - 8 < bottom + 8 <= outer[3]
    assert tuple(plated[outer[1], outer[0]]) == (0, 0, 255, 128)
    inside = plated[bare[..., 3] == 255]
    assert (inside == (255, 128, 0, 255)).all()


def test_a_plate_stays_inside_the_box() -> None:
    assert ink(drawn("Hamburg", (240, 70), box_color="#000000", valign="top"))[1] == 0


def test_an_outline_surrounds_the_letters() -> None:
    bare, outlined = drawn(), drawn(stroke_color="#0000ff", stroke_width=3)
    (left, top, right, bottom), outer = ink(bare), ink(outlined)
    assert outer[0] <= left - 2 < right + 2 <= outer[2]
    assert outer[1] <= top - 2 < bottom + 2 <= outer[3]
    assert (outlined == (0, 0, 255, 255)).all(axis=2).sum() > 500
    assert (outlined == (255, 128, 0, 255)).all(axis=2).sum() > 500


def test_an_outline_does_not_shine_through_letters_that_are_seen_through() -> None:
    full = drawn()[..., 3] == 255
    seen_through = drawn(color="#ff800080", stroke_color="#0000ff", stroke_width=3)
    bare = drawn(color="#ff800080")
    both = (bare[..., 3] == 128) & (seen_through[..., 3] == 128)
    assert both.sum() > 0.9 * full.sum()
    assert (seen_through[both] == (255, 128, 0, 128)).all()


@pytest.mark.parametrize("character", "漢汉あア한")
@pytest.mark.parametrize("font", ["sans", "serif", "mono", "sans-bold"])
def test_characters_that_a_font_lacks_come_from_another(character: str, font: str) -> None:
    box = glyph("\U00010380", font=font)
    assert ord(character) not in fonts.coverage(FONTS[font])
    assert title.missing(replace(STYLE, text=character, font=font), FONTS) == ""
    assert glyph(character, font=font) != box
    assert glyph(character, font=font) == glyph(character, font="sans-cjk")


def test_latin_between_chinese_characters_keeps_the_font_asked_for() -> None:
    faces = title._Faces(fonts.chain("serif", FONTS), 40, 0)
    runs = [(path.name, run) for path, run in faces.runs("看 iPod 吧！ok")]
    assert runs == [
        (FONTS["sans-cjk"].name, "看 "),
        ("DejaVuSerif.ttf", "iPod "),
        (FONTS["sans-cjk"].name, "吧！"),
        ("DejaVuSerif.ttf", "ok"),
    ]


def test_characters_that_no_font_has_are_told_and_leave_a_box() -> None:
    style = replace(STYLE, text="a \U00010380b\U00010380 \U0001fae0\u200d\ufe0f\n")
    assert title.missing(style, FONTS) == "\U00010380\U0001fae0"
    assert glyph("\U00010380") == glyph("\U0001fae0")


def test_marks_stay_on_their_letters() -> None:
    assert glyph("e\u0301") == glyph("é")


@pytest.mark.parametrize("text", ["", " \n\t ", "\x00\x07"])
def test_a_text_without_a_letter_is_clear(text: str) -> None:
    assert not drawn(text, box_color="#000000").any()


def test_control_characters_are_not_drawn() -> None:
    assert drawn("H\x00am\x1b\x7fburg\r").tobytes() == drawn("Hamburg\n").tobytes()


@pytest.mark.parametrize(
    ("text", "changes", "said"),
    [
        ("word " * 60, {}, r"in \d+ lines of type of 40 pixels, and its box has 400 x 200: shorten it"),
        ("W", {"size": 500}, "needs"),
        ("W", {"size": 2000}, "type of 2000 pixels does not fit into a box 200 pixels high"),
        ("x" * 2001, {"size": 1}, "the text has 2,001 characters, and a title at most 2,000"),
        ("Z" + "\u0301" * 200, {}, "needs"),
        ("\n" * 50 + "x", {}, "in 51 lines"),
    ],
)
def test_what_does_not_fit_is_refused_and_never_cut_off(text: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TextTooLong, match=said):
        drawn(text, **changes)


def test_a_font_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(LookupError, match="no font 'papyrus': choose one of mono, sans, sans-bold, sans-cjk, serif"):
        drawn(font="papyrus")


def test_a_font_of_the_deployments_own_is_asked_first_and_helped_out_by_the_others(tmp_path: Path) -> None:
    own = tmp_path / "brand.ttf"
    own.write_bytes(FONTS["mono"].read_bytes())
    pixels = np.asarray(title.draw(replace(STYLE, font="brand"), WIDTH, HEIGHT, FONTS | {"brand": own}))
    assert (pixels == drawn(font="mono")).all()
    assert fonts.chain("brand", FONTS | {"brand": own})[:3] == (own, FONTS["sans"], FONTS["sans-cjk"])


def test_fonts_are_found_by_their_files_the_best_first(tmp_path: Path) -> None:
    for name in ("a/wqy-microhei.ttc", "b/c/NotoSansCJK-Regular.ttc", "b/DejaVuSans.ttf", "c/DejaVuSans.ttf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert fonts.found([tmp_path / "missing", tmp_path]) == {
        "sans": tmp_path / "b" / "DejaVuSans.ttf",
        "sans-cjk": tmp_path / "b" / "c" / "NotoSansCJK-Regular.ttc",
    }
    assert fonts.found([]) == {}


def test_a_font_tells_the_name_that_subtitles_call_it_by() -> None:
    assert fonts.family(FONTS["sans"]) == "DejaVu Sans"
    assert fonts.family(FONTS["mono"]) == "DejaVu Sans Mono"
