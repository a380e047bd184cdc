"""The outlines of the shapes: functions of distance for the renderer to train on, polygons for the judging one.

All are in the unit circle, y down. The two descriptions are written independently, so that a slip in one is no rule of
the world: a test holds them against each other.
"""

from __future__ import annotations

import math
from typing import Any

from toyworld.world.scenes import Shape

#: Of a star: the inner corners' distance from the middle, where the outer ones' is 1.
STAR_WAIST = 0.42
#: Of a cross: half the width of a bar.
CROSS_BAR = 0.32
#: Of a ring: the hole's radius.
RING_HOLE = 0.55


def distance(shape: Shape, x: Any, y: Any) -> Any:
    """How far points are outside the outline, at most about; negative inside. `x`, `y`: float arrays of one shape."""
    import numpy as np

    match shape:
        case Shape.CIRCLE:
            return np.hypot(x, y) - 1
        case Shape.RING:
            away = np.hypot(x, y)
            return np.maximum(away - 1, RING_HOLE - away)
        case Shape.SQUARE:
            return np.maximum(np.abs(x), np.abs(y)) - math.sqrt(0.5)
        case Shape.CROSS:
            across = np.maximum(np.abs(x) - 1, np.abs(y) - CROSS_BAR)
            return np.minimum(across, np.maximum(np.abs(x) - CROSS_BAR, np.abs(y) - 1))
        case Shape.TRIANGLE:
            # Three half planes, each half a radius from the middle; one corner is on top.
            sides = [y, *(turn * math.cos(math.pi / 6) * x - 0.5 * y for turn in (-1, 1))]
            return np.maximum(np.maximum(sides[0], sides[1]), sides[2]) - 0.5
        case Shape.STAR:
            return _star(x, y)


def _star(x: Any, y: Any) -> Any:
    """Every point is turned into the one tenth of the star that is right of its top corner."""
    import numpy as np

    fifth = 2 * math.pi / 5
    around = np.arctan2(x, -y)
    around = np.abs(around - fifth * np.round(around / fifth))
    away = np.hypot(x, y)
    px, py = away * np.sin(around), away * np.cos(around)
    # The edge from the outer corner (0, 1) to the inner one.
    inner_x, inner_y = STAR_WAIST * math.sin(fifth / 2), STAR_WAIST * math.cos(fifth / 2)
    along_x, along_y = inner_x, inner_y - 1
    length = math.hypot(along_x, along_y)
    return (px * -along_y + (py - 1) * along_x) / length


def polygon(shape: Shape) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """The outline's corners, and those of the hole in it (none for most)."""
    match shape:
        case Shape.CIRCLE:
            return _regular(96, 1.0), []
        case Shape.RING:
            return _regular(96, 1.0), _regular(96, RING_HOLE)
        case Shape.SQUARE:
            return _regular(4, 1.0, first=math.pi / 4), []
        case Shape.TRIANGLE:
            return _regular(3, 1.0), []
        case Shape.STAR:
            outer, inner = _regular(5, 1.0), _regular(5, STAR_WAIST, first=math.pi / 5)
            return [corner for pair in zip(outer, inner, strict=True) for corner in pair], []
        case Shape.CROSS:
            bar = CROSS_BAR
            # fmt: off
            return [(-bar, -1), (bar, -1), (bar, -bar), (1, -bar), (1, bar), (bar, bar), (bar, 1), (-bar, 1),
                    (-bar, bar), (-1, bar), (-1, -bar), (-bar, -bar)], []
            # fmt: on


def _regular(corners: int, radius: float, first: float = 0.0) -> list[tuple[float, float]]:
    """Clockwise from the top, or from `first` radians after it."""
    turns = (first + 2 * math.pi * corner / corners for corner in range(corners))
    return [(radius * math.sin(turn), -radius * math.cos(turn)) for turn in turns]
