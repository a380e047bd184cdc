"""What there is in a picture of the toy world, and what is true of it.

A scene has one or two things on a plain background. Lengths and places are fractions of the picture's side, from the
top left corner; angles are in radians, and turn from the x axis (to the right) to the y axis (down).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

RGB = tuple[int, int, int]
Kind = TypeVar("Kind", bound=StrEnum)


class Shape(StrEnum):
    """The outline of a thing."""

    CIRCLE = "circle"
    SQUARE = "square"
    TRIANGLE = "triangle"
    STAR = "star"
    CROSS = "cross"
    RING = "ring"


class Colour(StrEnum):
    """The colour of a thing."""

    RED = "red"
    ORANGE = "orange"
    YELLOW = "yellow"
    GREEN = "green"
    CYAN = "cyan"
    BLUE = "blue"
    PURPLE = "purple"
    PINK = "pink"


class Background(StrEnum):
    """What is behind the things."""

    BLACK = "black"
    GREY = "grey"
    WHITE = "white"
    BROWN = "brown"


class Place(StrEnum):
    """Where a thing is: in the picture, or in comparison with the other."""

    LEFT = "left"
    RIGHT = "right"
    TOP = "top"
    BOTTOM = "bottom"
    MIDDLE = "middle"


COLOUR_RGB: dict[Colour, RGB] = {
    Colour.RED: (218, 32, 36),
    Colour.ORANGE: (250, 140, 22),
    Colour.YELLOW: (244, 224, 40),
    Colour.GREEN: (42, 162, 62),
    Colour.CYAN: (44, 204, 214),
    Colour.BLUE: (40, 76, 214),
    Colour.PURPLE: (124, 46, 164),
    Colour.PINK: (248, 152, 196),
}
BACKGROUND_RGB: dict[Background, RGB] = {
    Background.BLACK: (14, 14, 18),
    Background.GREY: (128, 128, 128),
    Background.WHITE: (240, 240, 240),
    Background.BROWN: (108, 70, 42),
}
#: A channel differs from the colour's own by so much at most.
_SHADE = 10
_TURN = math.radians(14)

_CENTRES: dict[Place, tuple[float, float]] = {
    Place.LEFT: (0.27, 0.5),
    Place.RIGHT: (0.73, 0.5),
    Place.TOP: (0.5, 0.27),
    Place.BOTTOM: (0.5, 0.73),
    Place.MIDDLE: (0.5, 0.5),
}
_OPPOSITE = {Place.LEFT: Place.RIGHT, Place.TOP: Place.BOTTOM}
_IN_THE_PICTURE = {
    Place.LEFT: "on the left of",
    Place.RIGHT: "on the right of",
    Place.TOP: "at the top of",
    Place.BOTTOM: "at the bottom of",
    Place.MIDDLE: "in the middle of",
}
_BESIDE = {Place.LEFT: "left of", Place.TOP: "above"}


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape."""

    shape: Shape
    colour: Colour
    place: Place
    x: float
    y: float
    radius: float
    """Of the circle around it."""
    angle: float
    rgb: RGB

    @property
    def name(self) -> str:
        """As captions have it: `red circle`."""
        return f"{self.colour} {self.shape}"

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the square around its circle."""
        return self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a scene, with its one true answer."""

    kind: str
    """`colour`, `shape`, `count`, `background` or `place`."""
    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Scene:
    """One or two things on a background; of two, the left or the upper comes first."""

    things: tuple[Thing, ...]
    background: Background
    background_rgb: RGB

    @property
    def caption(self) -> str:
        """The whole truth, in the one form that captions have."""
        first = self.things[0]
        if len(self.things) == 1:
            return f"{_a(first.name)} {_IN_THE_PICTURE[first.place]} a {self.background} background"
        second = self.things[1]
        return f"{_a(first.name)} {_BESIDE[first.place]} {_a(second.name)} on a {self.background} background"

    @property
    def questions(self) -> tuple[Question, ...]:
        """All that have one true answer."""
        asked = [
            Question("count", "how many shapes are there?", ("one", "two")[len(self.things) - 1]),
            Question("background", "what colour is the background?", self.background),
        ]
        shapes = [thing.shape for thing in self.things]
        colours = [thing.colour for thing in self.things]
        for thing in self.things:
            if shapes.count(thing.shape) == 1:
                asked.append(Question("colour", f"what colour is the {thing.shape}?", thing.colour))
                asked.append(Question("place", f"where is the {thing.shape}?", thing.place))
            if colours.count(thing.colour) == 1:
                asked.append(Question("shape", f"what shape is {thing.colour}?", thing.shape))
        return tuple(asked)


def draw_scene(chance: random.Random, *, things: int | None = None) -> Scene:
    """A scene of one or (in three of ten cases) two things, or of as many as is said."""
    count = things if things is not None else (2 if chance.random() < 0.3 else 1)
    if count == 1:
        return scene_of(chance, [(_any(chance, Shape), _any(chance, Colour), _any(chance, Place))])
    first = chance.choice(list(_OPPOSITE))
    return scene_of(chance, [(_any(chance, Shape), _any(chance, Colour), place) for place in (first, _OPPOSITE[first])])


def scene_of(
    chance: random.Random, things: list[tuple[Shape, Colour, Place]], background: Background | None = None
) -> Scene:
    """A scene of these things; chance has the sizes, angles, shades and what is not said."""
    alone = len(things) == 1
    behind = _any(chance, Background) if background is None else background
    return Scene(
        things=tuple(_thing(chance, shape, colour, place, alone=alone) for shape, colour, place in things),
        background=behind,
        background_rgb=_shade(chance, BACKGROUND_RGB[behind]),
    )


def _thing(chance: random.Random, shape: Shape, colour: Colour, place: Place, *, alone: bool) -> Thing:
    x, y = _CENTRES[place]
    # Two things keep apart along the line they lie on, and may be shifted across it.
    across = 0.04 if alone else 0.10
    along_x = place in (Place.LEFT, Place.RIGHT)
    return Thing(
        shape=shape,
        colour=colour,
        place=place,
        x=x + chance.uniform(-1, 1) * (0.03 if along_x else across),
        y=y + chance.uniform(-1, 1) * (across if along_x else 0.03),
        radius=chance.uniform(0.17, 0.23) if alone else chance.uniform(0.15, 0.19),
        angle=chance.uniform(-_TURN, _TURN),
        rgb=_shade(chance, COLOUR_RGB[colour]),
    )


def _shade(chance: random.Random, rgb: RGB) -> RGB:
    red, green, blue = (min(255, max(0, value + chance.randint(-_SHADE, _SHADE))) for value in rgb)
    return red, green, blue


def _any(chance: random.Random, kind: type[Kind]) -> Kind:
    return chance.choice(list(kind))


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
