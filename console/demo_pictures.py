"""Draws the demo's pictures: run by the executor's interpreter, which has Pillow.

    PYTHON console/demo_pictures.py FOLDER COUNT QUERY.png

draws the first COUNT of a dozen scenes into FOLDER, and one more that is much like the first, to search by. What is
there already is left as it is, so that it stays the same version of the same object. Prints the COUNT paths.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from PIL import Image, ImageDraw

WIDTH, HEIGHT = 320, 240
#: Drawn so many times larger, then made smaller: smooth edges.
FINE = 3
WHITE, NIGHT, SKY, GRASS = (250, 250, 246), (18, 24, 60), (150, 205, 245), (96, 170, 80)
RED, BLUE, GREEN, YELLOW = (214, 40, 48), (36, 84, 190), (40, 140, 70), (250, 205, 40)
BROWN, PURPLE, ORANGE = (120, 78, 46), (124, 60, 160), (240, 130, 30)

Colour = tuple[int, int, int]
Point = tuple[float, float]


class Sheet:
    """A sheet of paper of 320 x 240; colours are RGB, points count from the upper left."""

    def __init__(self, ground: Colour) -> None:
        self._image = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), ground)
        self._draw = ImageDraw.Draw(self._image)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self._draw.ellipse([value * FINE for value in (x - radius, y - radius, x + radius, y + radius)], fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self._draw.rectangle([value * FINE for value in (left, top, right, bottom)], fill=colour)

    def shape(self, points: list[Point], colour: Colour) -> None:
        self._draw.polygon([(x * FINE, y * FINE) for x, y in points], fill=colour)

    def star(self, x: float, y: float, radius: float, colour: Colour) -> None:
        turns = [(n * math.pi / 5, radius if n % 2 == 0 else radius * 0.4) for n in range(10)]
        self.shape([(x + r * math.sin(turn), y - r * math.cos(turn)) for turn, r in turns], colour)

    def save(self, path: Path) -> None:
        whole = path.with_name(f".{path.name}.{os.getpid()}")
        self._small().save(whole, "png")
        whole.replace(path)

    def pixels(self) -> bytes:
        """Red, green and blue of each pixel, line by line."""
        pixels: bytes = self._small().tobytes()
        return pixels

    def _small(self) -> Image.Image:
        return self._image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def circle(sheet: Sheet) -> None:
    sheet.disc(150, 120, 76, RED)


def circle_elsewhere(sheet: Sheet) -> None:
    sheet.disc(164, 114, 70, (200, 48, 40))


def square(sheet: Sheet) -> None:
    sheet.box(95, 55, 225, 185, BLUE)


def triangle(sheet: Sheet) -> None:
    sheet.shape([(160, 40), (255, 200), (65, 200)], GREEN)


def night(sheet: Sheet) -> None:
    for x, y, radius in ((60, 60, 14), (120, 30, 9), (200, 70, 12), (285, 40, 16), (250, 120, 8), (40, 140, 10)):
        sheet.star(x, y, radius, YELLOW)
    sheet.box(0, 200, 320, 240, (8, 10, 26))


def moon(sheet: Sheet) -> None:
    sheet.disc(160, 110, 70, (240, 236, 200))
    sheet.disc(190, 95, 62, NIGHT)


def house(sheet: Sheet) -> None:
    sheet.box(0, 180, 320, 240, GRASS)
    sheet.box(100, 110, 220, 200, (236, 214, 170))
    sheet.shape([(85, 112), (160, 50), (235, 112)], RED)
    sheet.box(148, 150, 178, 200, BROWN)
    sheet.box(114, 128, 138, 150, SKY)
    sheet.box(186, 128, 210, 150, SKY)


def tree(sheet: Sheet) -> None:
    sheet.box(0, 190, 320, 240, GRASS)
    sheet.box(148, 120, 172, 205, BROWN)
    for x, y, radius in ((130, 105, 38), (190, 105, 38), (160, 72, 44)):
        sheet.disc(x, y, radius, GREEN)


def boat(sheet: Sheet) -> None:
    sheet.box(0, 160, 320, 240, BLUE)
    sheet.shape([(90, 150), (230, 150), (205, 185), (115, 185)], BROWN)
    sheet.shape([(158, 40), (158, 142), (100, 142)], WHITE)
    sheet.shape([(166, 55), (166, 142), (215, 142)], ORANGE)


def hills(sheet: Sheet) -> None:
    sheet.disc(235, 75, 34, YELLOW)
    sheet.disc(80, 300, 150, GRASS)
    sheet.disc(250, 320, 150, GREEN)


def chessboard(sheet: Sheet) -> None:
    for row in range(6):
        for column in range(8):
            if (row + column) % 2:
                sheet.box(column * 40, row * 40, column * 40 + 40, row * 40 + 40, (30, 30, 30))


def rainbow(sheet: Sheet) -> None:
    for n, colour in enumerate((RED, ORANGE, YELLOW, GREEN, BLUE, PURPLE, SKY)):
        sheet.disc(160, 230, 170 - n * 17, colour)
    sheet.box(0, 215, 320, 240, GRASS)


def flower(sheet: Sheet) -> None:
    sheet.box(155, 120, 165, 240, GREEN)
    for n in range(8):
        turn = n * math.pi / 4
        sheet.disc(160 + 42 * math.sin(turn), 95 - 42 * math.cos(turn), 24, PURPLE)
    sheet.disc(160, 95, 26, YELLOW)


SCENES: Mapping[str, tuple[Colour, Callable[[Sheet], None]]] = {
    "red-circle": (WHITE, circle),
    "blue-square": (WHITE, square),
    "green-triangle": (WHITE, triangle),
    "starry-night": (NIGHT, night),
    "moon": (NIGHT, moon),
    "house": (SKY, house),
    "tree": (SKY, tree),
    "boat": (SKY, boat),
    "sun-and-hills": (SKY, hills),
    "chessboard": (WHITE, chessboard),
    "rainbow": (SKY, rainbow),
    "purple-flower": (WHITE, flower),
}


def _draw(path: Path, ground: Colour, scene: Callable[[Sheet], None]) -> None:
    if not path.exists():
        sheet = Sheet(ground)
        scene(sheet)
        sheet.save(path)


def main() -> None:
    """The command line."""
    folder, count, query = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    for name, (ground, scene) in list(SCENES.items())[:count]:
        _draw(folder / f"{name}.png", ground, scene)
        print(folder / f"{name}.png")
    _draw(query, WHITE, circle_elsewhere)


if __name__ == "__main__":
    main()
