"""Draws the demo's pictures: run by the executor's interpreter, which has Pillow.

    PYTHON -m console.demo_pictures FOLDER COUNT QUERY.png

draws the first COUNT of a dozen scenes of the toy world into FOLDER, and one more that is much like the first, to
search by. What is there already is left as it is, so that it stays the same version of the same object. Prints the
COUNT paths.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Mapping
from pathlib import Path

from toyworld.world.paint import draw
from toyworld.world.scenes import Background, Colour, Place, Shape, scene_of

Things = list[tuple[Shape, Colour, Place]]

SIDE = 256
#: Name of a picture -> what is in it.
SCENES: Mapping[str, tuple[Things, Background]] = {
    "red-circle": ([(Shape.CIRCLE, Colour.RED, Place.MIDDLE)], Background.WHITE),
    "blue-square": ([(Shape.SQUARE, Colour.BLUE, Place.LEFT)], Background.BLACK),
    "green-triangle": ([(Shape.TRIANGLE, Colour.GREEN, Place.TOP)], Background.GREY),
    "yellow-star": ([(Shape.STAR, Colour.YELLOW, Place.RIGHT)], Background.BLACK),
    "purple-ring": ([(Shape.RING, Colour.PURPLE, Place.MIDDLE)], Background.WHITE),
    "orange-cross": ([(Shape.CROSS, Colour.ORANGE, Place.BOTTOM)], Background.GREY),
    "red-star-and-blue-ring": (
        [(Shape.STAR, Colour.RED, Place.LEFT), (Shape.RING, Colour.BLUE, Place.RIGHT)],
        Background.WHITE,
    ),
    "cyan-circle": ([(Shape.CIRCLE, Colour.CYAN, Place.TOP)], Background.BROWN),
    "pink-square": ([(Shape.SQUARE, Colour.PINK, Place.BOTTOM)], Background.BLACK),
    "red-circle-and-green-cross": (
        [(Shape.CIRCLE, Colour.RED, Place.TOP), (Shape.CROSS, Colour.GREEN, Place.BOTTOM)],
        Background.GREY,
    ),
    "blue-star": ([(Shape.STAR, Colour.BLUE, Place.MIDDLE)], Background.WHITE),
    "yellow-triangle": ([(Shape.TRIANGLE, Colour.YELLOW, Place.RIGHT)], Background.BROWN),
}
_QUERY: tuple[Things, Background] = ([(Shape.CIRCLE, Colour.RED, Place.RIGHT)], Background.WHITE)


def save(path: Path, things: Things, background: Background) -> None:
    """Draws a scene, unless there is one; the same each time, since its name is the seed."""
    if path.exists():
        return
    chance = random.Random(path.stem)
    whole = path.with_name(f".{path.name}.{os.getpid()}")
    draw(scene_of(chance, things, background), chance, SIDE).save(whole, "png")
    whole.replace(path)


def main() -> None:
    """The command line."""
    folder, count, query = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    for name, (things, background) in list(SCENES.items())[:count]:
        save(folder / f"{name}.png", things, background)
        sys.stdout.write(f"{folder / name}.png\n")
    save(query, *_QUERY)


if __name__ == "__main__":
    main()
