"""A title: a text set in a box of pixels, as a picture with transparency.

Characters that the font asked for lacks are taken from those that stand in for it, run by run. Scripts from right to
left are shaped and ordered inside a run where Pillow has Raqm (its wheels do) and FriBiDi (Debian's libfribidi0, which
ffmpeg needs too); runs themselves, which are several only where one font does not do, go from left to right. Without
these two libraries Arabic is unjoined, and it and Hebrew come out in the order of their characters.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handlers.media.linebreak import wrap
from handlers.video.text.fonts import chain, coverage
from handlers.video.timeline.plan import TextStyle

if TYPE_CHECKING:
    from PIL.Image import Image

#: Characters of one title.
MAX_CHARACTERS = 2_000

_LINE_END = re.compile("\r\n|[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")


class TextTooLong(Exception):
    """The text does not fit into its box; the sentence says by how much."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A line and what it covers, in pixels from the beginning of its baseline: `left` to `right`, `top` to `bottom`."""

    text: str
    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left


@dataclass(frozen=True)
class _Faces:
    """A chain of fonts at one size."""

    paths: tuple[Path, ...]
    size: int
    stroke: int
    _loaded: dict[Path, Any] = field(default_factory=dict)

    def face(self, path: Path) -> Any:
        from PIL import ImageFont

        if path not in self._loaded:
            self._loaded[path] = ImageFont.truetype(path, self.size)
        return self._loaded[path]

    def runs(self, line: str) -> Iterator[tuple[Path, str]]:
        """The line in parts that one font shows. Marks, joiners and spaces stay with what is before them."""
        start, current = 0, None
        for i, character in enumerate(line):
            if current is not None and (character.isspace() or _invisible(character) or _mark(character)):
                continue
            shown = next((path for path in self.paths if ord(character) in coverage(path)), self.paths[0])
            if shown != current:
                if current is not None:
                    yield current, line[start:i]
                start, current = i, shown
        if current is not None:
            yield current, line[start:]

    def measured(self, line: str) -> _Line:
        """What the line covers, outline included."""
        x = left = top = right = bottom = 0.0
        for path, run in self.runs(line):
            box = self.face(path).getbbox(run, anchor="ls", stroke_width=self.stroke)
            left, top = min(left, x + box[0]), min(top, box[1])
            right, bottom = max(right, x + box[2]), max(bottom, box[3])
            x += self.face(path).getlength(run)
        return _Line(line, left, top, right, bottom)

    def metrics(self, lines: list[str]) -> tuple[int, int]:
        """The greatest ascent and descent of the fonts in use."""
        used = {path for line in lines for path, _ in self.runs(line)} or {self.paths[0]}
        pairs = [self.face(path).getmetrics() for path in used]
        return max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)


def missing(style: TextStyle, fonts: Mapping[str, Path]) -> str:
    """The characters that no font shows, each once: a box stands in their place. Raises LookupError as `draw` does."""
    known = [coverage(path) for path in chain(style.font, fonts)]
    return "".join(
        character
        for character in dict.fromkeys(_plain(style.text))
        if not character.isspace() and not _invisible(character) and not any(ord(character) in one for one in known)
    )


def draw(style: TextStyle, box_width: int, box_height: int, fonts: Mapping[str, Path]) -> Image:
    """The text as an RGBA picture (not premultiplied) of exactly that many pixels, clear where there is no text.

    Lines are broken where they would be wider than the box; a plate, where one is asked for, lies behind the block of
    lines and a quarter of `style.size` around it. Raises TextTooLong for what does not fit, and LookupError for a font
    that is not among `fonts` (id -> file).
    """
    from PIL import Image

    canvas = Image.new("RGBA", (box_width, box_height))
    text = _plain(style.text)
    if len(text) > MAX_CHARACTERS:
        raise TextTooLong(f"the text has {len(text):,} characters, and a title at most {MAX_CHARACTERS:,}")
    faces = _Faces(chain(style.font, fonts), style.size, style.stroke_width)
    if not text.strip():
        return canvas
    if style.size > 4 * box_height:
        raise TextTooLong(f"type of {style.size} pixels does not fit into a box {box_height} pixels high")
    padding = style.size // 4 if style.box_color else 0
    room_x, room_y = box_width - 2 * padding, box_height - 2 * padding
    lines = [faces.measured(line) for line in wrap(text, room_x, lambda line: faces.measured(line).width)]
    pitch = round(style.size * style.line_spacing)
    width = math.ceil(max(line.width for line in lines))
    top = min(i * pitch + line.top for i, line in enumerate(lines))
    bottom = max(i * pitch + line.bottom for i, line in enumerate(lines))
    if width > room_x or bottom - top > room_y:
        raise TextTooLong(
            f"the text needs {width} x {math.ceil(bottom - top)} pixels in {len(lines)} lines of type of {style.size} "
            f"pixels, and its box has {room_x} x {room_y}: shorten it, or give it smaller type or a larger box"
        )
    ascent, descent = faces.metrics([line.text for line in lines])
    height = ascent + (len(lines) - 1) * pitch + descent
    slack = {"top": 0.0, "middle": (room_y - height) / 2, "bottom": float(room_y - height)}[style.valign]
    # Placed by the fonts' own heights, so that titles stand alike whatever letters they have, but never over the edge.
    baseline = round(min(max(slack + ascent, -top), room_y - bottom))
    block_x = padding + {"left": 0, "center": (room_x - width) // 2, "right": room_x - width}[style.align]
    if style.box_color:
        upper, lower = min(top, -ascent), max(bottom, (len(lines) - 1) * pitch + descent)
        plate = (
            block_x - padding,
            max(0, math.floor(padding + baseline + upper) - padding),
            block_x + width + padding,
            min(box_height, math.ceil(padding + baseline + lower) + padding),
        )
        canvas.paste(_rgba(style.box_color), plate)
    indents = {"left": 0.0, "center": 0.5, "right": 1.0}
    placed = [
        (indents[style.align] * (width - line.width) - line.left, i * pitch - math.floor(top), line)
        for i, line in enumerate(lines)
    ]
    size = (width, math.ceil(bottom) - math.floor(top))
    corner = (block_x, padding + baseline + math.floor(top))
    for layer in _layers(style, faces, placed, size):
        canvas.alpha_composite(layer, dest=corner)
    return canvas


def _layers(
    style: TextStyle, faces: _Faces, placed: list[tuple[float, int, _Line]], size: tuple[int, int]
) -> Iterator[Image]:
    """The outline, where there is one, and the letters."""
    from PIL import Image, ImageChops, ImageDraw

    def mask(stroke: int) -> Image:
        ink = Image.new("L", size)
        pen = ImageDraw.Draw(ink)
        for x, y, line in placed:
            for path, run in faces.runs(line.text):
                pen.text((x, y), run, fill=255, font=faces.face(path), anchor="ls", stroke_width=stroke)
                x += faces.face(path).getlength(run)
        return ink

    def layer(color: str, ink: Image) -> Image:
        *rgb, alpha = _rgba(color)
        filled = Image.new("RGBA", size, (*rgb, 0))
        filled.putalpha(ink.point([value * alpha // 255 for value in range(256)]))
        return filled

    letters = mask(0)
    if style.stroke_width:
        outline = mask(style.stroke_width)
        if _rgba(style.color)[3] < 255:  # it would be seen through the letters
            outline = ImageChops.subtract(outline, letters)
        yield layer(style.stroke_color or "#000000", outline)
    yield layer(style.color, letters)


def _plain(text: str) -> str:
    lines = _LINE_END.sub("\n", text).replace("\t", "    ")
    return "".join(c for c in lines if c == "\n" or unicodedata.category(c) not in ("Cc", "Cs"))


def _mark(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Mc", "Me")


def _invisible(character: str) -> bool:
    """Joiners, marks of direction, selectors of variants."""
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f" or character >= "\U000e0000"


def _rgba(color: str) -> tuple[int, int, int, int]:
    """`#rrggbb` or `#rrggbbaa` as numbers from 0 to 255."""
    red, green, blue, alpha = bytes.fromhex(color[1:].ljust(8, "f"))
    return red, green, blue, alpha
