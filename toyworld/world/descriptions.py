"""Texts that are true of scenes, in many forms and levels of detail, as people who search write them.

A description asks for facts, such as that there is something red, or a red star left of a blue circle; it is true of
the scenes that have them all, whatever else is there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import product
from typing import TypeVar

from toyworld.world.scenes import Background, Colour, Place, Scene, Shape

_Kind = TypeVar("_Kind", bound=StrEnum)

#: Something true, as a tuple of words: `("thing", "red", "circle", "")` of some thing (empty: whatever),
#: `("pair", "left", "red", "star", "", "circle")`, `("background", "grey")`, `("count", "2")`.
Fact = tuple[str, ...]

_BEFORE = ("", "", "a picture of ", "a photo of ", "an image of ", "there is ")
_BEHIND = ("on a {} background", "on a {} background", "with a {} background", "on {}")
_PLACED = {
    Place.LEFT: ("on the left", "on the left of the picture", "at the left"),
    Place.RIGHT: ("on the right", "on the right of the picture", "at the right"),
    Place.TOP: ("at the top", "at the top of the picture", "at the top"),
    Place.BOTTOM: ("at the bottom", "at the bottom of the picture", "at the bottom"),
    Place.MIDDLE: ("in the middle", "in the middle of the picture", "in the centre"),
}
#: What the first of two things is to the second, and the other way round.
_FROM_FIRST = {Place.LEFT: ("left of", "to the left of"), Place.TOP: ("above", "over")}
_FROM_SECOND = {Place.LEFT: ("right of", "to the right of"), Place.TOP: ("below", "under")}
_TOGETHER = ("and", "beside", "next to", "with")
_COUNTED = {1: ("one shape", "one thing", "a single shape"), 2: ("two shapes", "two things", "a pair of shapes")}


class Level(StrEnum):
    """How much a description says."""

    COLOUR = "colour"
    SHAPE = "shape"
    THING = "thing"
    """Colour and shape."""
    BACKGROUND = "background"
    COUNT = "count"
    THING_BEFORE = "thing before a background"
    PLACED = "thing at a place"
    PAIR = "two things"
    """In any order, or in theirs; one or both may lack its colour or shape."""
    CAPTION = "caption"
    """The whole of it, word for word as `Scene.caption` has it."""


@dataclass(frozen=True, slots=True)
class Description:
    """A text, and the facts that make it true."""

    text: str
    asked: frozenset[Fact]

    def true_of(self, scene: Scene) -> bool:
        """Whether the text says nothing that is not so."""
        return self.asked <= facts(scene)


def facts(scene: Scene) -> frozenset[Fact]:
    """All that a description can ask for and that is so."""
    return frozenset(_facts(scene))


def describe(scene: Scene, chance: random.Random, level: Level) -> Description:
    """A text of a level that is true of a scene, in one of its forms.

    What needs two things says of a scene that has but one its whole caption.
    """
    thing = chance.choice(scene.things)
    match level:
        case Level.COLOUR:
            form = chance.choice((thing.colour, f"something {thing.colour}", a(f"{thing.colour} shape")))
            return _said(chance, form, _thing(thing.colour, ""))
        case Level.SHAPE:
            return _said(chance, chance.choice((thing.shape.value, f"a {thing.shape}")), _thing("", thing.shape))
        case Level.THING:
            return _said(chance, chance.choice((thing.name, a(thing.name))), _thing(thing.colour, thing.shape))
        case Level.BACKGROUND:
            form = chance.choice(("{} background", "a {} background", "something on a {} background"))
            return _said(chance, form.format(scene.background), _background(scene))
        case Level.COUNT:
            return _said(chance, chance.choice(_COUNTED[len(scene.things)]), _count(scene))
        case Level.THING_BEFORE:
            text = f"{chance.choice((thing.name, a(thing.name)))} {chance.choice(_BEHIND).format(scene.background)}"
            return _said(chance, text, _thing(thing.colour, thing.shape), _background(scene))
        case Level.PLACED:
            text = f"{chance.choice((thing.name, a(thing.name)))} {chance.choice(_PLACED[thing.place])}"
            return _said(chance, text, _thing(thing.colour, thing.shape, thing.place))
        case Level.PAIR if len(scene.things) == 2:
            return _pair(scene, chance)
        case _:
            return caption(scene)


def caption(scene: Scene) -> Description:
    """The scene's own caption. Of a thing that is alone it does not say so: it is true of a picture with two, too."""
    first = scene.things[0]
    if len(scene.things) == 1:
        return Description(
            scene.caption, frozenset((_thing(first.colour, first.shape, first.place), _background(scene)))
        )
    second = scene.things[1]
    pair = ("pair", str(first.place), first.colour, first.shape, second.colour, second.shape)
    return Description(scene.caption, frozenset((pair, _background(scene))))


def nearly(scene: Scene, chance: random.Random) -> Scene:
    """Another scene that is almost the same: in one thing, or in which of two things has which colour, shape or place.

    Descriptions of it are what is easily taken for true. The places' coordinates stay: it is not to be painted.
    """
    if len(scene.things) == 2 and chance.random() < 0.7:
        first, second = scene.things
        swapped = chance.choice(("colours", "shapes", "places"))
        if swapped == "colours":
            one, two = replace(first, colour=second.colour), replace(second, colour=first.colour)
        elif swapped == "shapes":
            one, two = replace(first, shape=second.shape), replace(second, shape=first.shape)
        else:
            one, two = replace(second, place=first.place), replace(first, place=second.place)
        return replace(scene, things=(one, two))
    at = chance.randrange(len(scene.things))
    thing, kinds = scene.things[at], ["shape", "colour", "background"] + ["place"] * (len(scene.things) == 1)
    match chance.choice(kinds):
        case "shape":
            thing = replace(thing, shape=_other(chance, list(Shape), thing.shape))
        case "colour":
            thing = replace(thing, colour=_other(chance, list(Colour), thing.colour))
        case "place":
            thing = replace(thing, place=_other(chance, list(Place), thing.place))
        case _:
            return replace(scene, background=_other(chance, list(Background), scene.background))
    return replace(scene, things=(*scene.things[:at], thing, *scene.things[at + 1 :]))


def named(shape: Shape, colour: Colour, form: str = "{}") -> Description:
    """`red circle`, or what a form makes of `a red circle`: `{}` has no article, other forms are given one."""
    name = f"{colour} {shape}"
    text = name if form == "{}" else form.format(a(name))
    return Description(text, frozenset((_thing(colour, shape),)))


def words() -> list[str]:
    """Every word that captions, questions, answers and descriptions are made of, sorted."""
    texts = ["a an photo picture image of there is shape shapes thing things something background how many are what"]
    texts += ["where the colour one two single pair"]
    texts += [str(word) for kind in (Shape, Colour, Background, Place) for word in kind]
    for table in (_PLACED, _FROM_FIRST, _FROM_SECOND, _COUNTED):
        texts += [form for forms in table.values() for form in forms]
    texts += [*_TOGETHER, *_BEFORE, *(form.replace("{}", "") for form in _BEHIND)]
    return sorted({word for text in texts for word in text.split()})


def a(name: str) -> str:
    """With its article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _pair(scene: Scene, chance: random.Random) -> Description:
    place = scene.things[0].place
    asked = [(thing.colour.value, thing.shape.value) for thing in scene.things]
    if chance.random() < 0.3:
        at = chance.randrange(2)
        colour, shape = asked[at]
        asked[at] = (colour, "") if chance.random() < 0.5 else ("", shape)
    one, two = (a(f"{colour} {shape or 'shape'}".strip()) for colour, shape in asked)
    fact: Fact = ("pair", str(place), *asked[0], *asked[1])
    match chance.choice(("first", "second", "together")):
        case "first":
            text = f"{one} {chance.choice(_FROM_FIRST[place])} {two}"
        case "second":
            text = f"{two} {chance.choice(_FROM_SECOND[place])} {one}"
        case _:
            fact = ("pair", "", *asked[0], *asked[1])
            parts = [one, two]
            chance.shuffle(parts)
            text = f" {chance.choice(_TOGETHER)} ".join(parts)
    if chance.random() < 0.4:
        return _said(chance, f"{text} {chance.choice(_BEHIND).format(scene.background)}", fact, _background(scene))
    return _said(chance, text, fact)


def _said(chance: random.Random, text: str, *asked: Fact) -> Description:
    before = chance.choice(_BEFORE) if text.startswith(("a ", "an ", "something ")) else ""
    return Description(before + text, frozenset(asked))


def _facts(scene: Scene) -> Iterator[Fact]:
    yield _background(scene)
    yield _count(scene)
    for thing in scene.things:
        for colour, shape, place in product((thing.colour, ""), (thing.shape, ""), (thing.place, "")):
            yield _thing(colour, shape, place)
    if len(scene.things) == 2:
        first, second = ([*product((thing.colour, ""), (thing.shape, ""))] for thing in scene.things)
        place = str(scene.things[0].place)
        for one, two in product(first, second):
            yield ("pair", place, *one, *two)
            yield ("pair", "", *one, *two)
            yield ("pair", "", *two, *one)


def _thing(colour: str, shape: str, place: str = "") -> Fact:
    return ("thing", colour, shape, place)


def _background(scene: Scene) -> Fact:
    return ("background", scene.background)


def _count(scene: Scene) -> Fact:
    return ("count", str(len(scene.things)))


def _other(chance: random.Random, kinds: list[_Kind], this: _Kind) -> _Kind:
    return chance.choice([kind for kind in kinds if kind != this])
