"""Cues as SubRip, WebVTT and Advanced SubStation Alpha (ASS, for drawing into a picture).

A text is shown as it is, character by character: nothing in it becomes markup, a style, or another cue.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction

from handlers.media.captions.cue import Cue, in_order
from handlers.media.captions.reading import SUBRIP_TAG

#: Seen by no one, it parts what together would be markup (SubRip and ASS have no way to escape).
_WORD_JOINER = "\u2060"
_SUBRIP_MARKUP = re.compile(
    rf"<(?={_WORD_JOINER}|{SUBRIP_TAG.pattern[1:]})|\{{(?=[\\{_WORD_JOINER}])|--(?=[>{_WORD_JOINER}])", re.IGNORECASE
)


def to_srt(cues: Iterable[Cue]) -> str:
    """SubRip, times to the millisecond. Cues without text are left out."""
    blocks = (
        f"{number}\n{_stamp(cue.start, ',')} --> {_stamp(cue.end, ',')}\n{_guarded(cue.text)}\n"
        for number, cue in enumerate(in_order(cues), 1)
    )
    return "\n".join(blocks)


def to_vtt(cues: Iterable[Cue]) -> str:
    """WebVTT, times to the millisecond. Cues without text are left out."""
    blocks = (
        f"\n{_stamp(cue.start, '.')} --> {_stamp(cue.end, '.')}\n{_escaped(cue.text)}\n" for cue in in_order(cues)
    )
    return "WEBVTT\n" + "".join(blocks)


def to_ass(
    cues: Iterable[Cue],
    *,
    width: int,
    height: int,
    font_name: str,
    size: int | None = None,
    color: str = "#ffffff",
    outline_color: str = "#000000",
    outline: int | None = None,
    margin: int | None = None,
) -> str:
    """ASS for a picture of that many pixels: at the bottom, in the middle, outlined; times to the centisecond.

    `font_name` is the family's name inside the font file. `size` (the type's height), `outline` (its width) and
    `margin` (from the picture's edges) are pixels; by default a 20th of the shorter side, a 15th of the size and a
    20th of the height. Colors are `#rrggbb`. Raises ValueError for a font name that would break the line it stands in.
    """
    if not re.fullmatch(r"[^,{}\\\x00-\x1f\x7f]{1,100}", font_name):
        raise ValueError(f"{font_name!r} cannot be the name of a font in ASS: no comma, brace, backslash, line end")
    size = size or max(8, min(width, height) // 20)
    outline = max(1, size // 15) if outline is None else outline
    margin = height // 20 if margin is None else margin
    style = (
        f"Default,{font_name},{size},{_ass_color(color)},{_ass_color(color)},{_ass_color(outline_color)},&H00000000,"
        f"0,0,0,0,100,100,0,0,1,{outline},0,2,{margin},{margin},{margin},1"
    )
    head = (
        "[Script Info]\nScriptType: v4.00+\nWrapStyle: 0\nScaledBorderAndShadow: yes\n"
        f"PlayResX: {width}\nPlayResY: {height}\n\n"
        "[V4+ Styles]\nFormat: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, "
        "Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, "
        f"MarginL, MarginR, MarginV, Encoding\nStyle: {style}\n\n"
        "[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
    )
    return head + "".join(
        f"Dialogue: 0,{_ass_stamp(cue.start)},{_ass_stamp(cue.end)},Default,,0,0,0,,{_ass_text(cue.text)}\n"
        for cue in in_order(cues)
    )


def _units(seconds: Fraction, per_second: int) -> int:
    """Half up, and never before the beginning."""
    return max(0, int(seconds * per_second + Fraction(1, 2)))


def _stamp(seconds: Fraction, point: str) -> str:
    whole, milliseconds = divmod(_units(seconds, 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{milliseconds:03}"


def _ass_stamp(seconds: Fraction) -> str:
    whole, hundredths = divmod(_units(seconds, 100), 100)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}.{hundredths:02}"


def _guarded(text: str) -> str:
    return _SUBRIP_MARKUP.sub(rf"\g<0>{_WORD_JOINER}", text)


def _escaped(text: str) -> str:
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return plain.replace("{\\", "&#123;\\")  # no markup of WebVTT, but many players take it for that of ASS


def _ass_color(color: str) -> str:
    """`#rrggbb` as `&HAABBGGRR`, where 0 is opaque."""
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", color):
        raise ValueError(f"{color!r} is no color: write #rrggbb")
    return f"&H00{color[5:7]}{color[3:5]}{color[1:3]}".upper()


def _ass_text(text: str) -> str:
    """As libass reads it: `\\{` is a brace; a backslash before anything that it does not know is a backslash."""
    plain = text.replace("\\", f"\\{_WORD_JOINER}").replace("{", "\\{").replace("}", "\\}")
    return plain.replace("\n", "\\N")
