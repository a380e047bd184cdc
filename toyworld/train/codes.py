"""What the vectors of toy-clip should be: facts as directions; a product counts what a text and a picture share.

Contrastive learning has to find out by itself which thing has which colour, and needs far more pictures than there is
time for. The toy world's facts are known, so that vectors can be written down which are near exactly where a text is
true: those of texts and pictures are drawn towards them (distillation, with a teacher that needs no training).
"""

from __future__ import annotations

from itertools import product
from typing import Any

from toyworld.world.descriptions import Fact
from toyworld.world.scenes import Background, Colour, Place, Scene, Shape

_OPPOSITE = {Place.LEFT: Place.RIGHT, Place.TOP: Place.BOTTOM}
#: Directions: each colour of each shape, wherever; each colour and each shape at each place; backgrounds; one or two.
_THINGS = {pair: i for i, pair in enumerate(product(Colour, Shape))}
_AT: dict[tuple[Place, str], int] = {
    (place, str(said)): len(_THINGS) + i for i, (place, said) in enumerate(product(Place, [*Colour, *Shape]))
}
_BEHIND = {background: len(_THINGS) + len(_AT) + i for i, background in enumerate(Background)}
_COUNTS = {str(count): len(_THINGS) + len(_AT) + len(_BEHIND) + count - 1 for count in (1, 2)}
USED = len(_THINGS) + len(_AT) + len(_BEHIND) + len(_COUNTS)
#: How much a fact counts beside a thing's colour and shape together.
_PLACED, _BACKGROUND, _COUNT = 0.4, 0.45, 0.3


def of_scene(scene: Scene, width: int) -> Any:
    """Of a picture: float32 numpy (width,), of length 1."""
    import numpy

    vector = numpy.zeros(width, numpy.float32)
    for thing in scene.things:
        _add_thing(vector, thing.colour, thing.shape, thing.place)
    vector[_BEHIND[scene.background]] = _BACKGROUND
    vector[_COUNTS[str(len(scene.things))]] = _COUNT
    return vector / numpy.linalg.norm(vector)


def of_text(asked: frozenset[Fact], width: int) -> Any:
    """Of a text that asks for these facts: float32 numpy (width,), of length 1."""
    import numpy

    vector = numpy.zeros(width, numpy.float32)
    for kind, *words in asked:
        match kind:
            case "background":
                vector[_BEHIND[Background(words[0])]] += _BACKGROUND
            case "count":
                vector[_COUNTS[words[0]]] += _COUNT
            case "thing":
                colour, shape, place = words
                _add_thing(vector, colour, shape, place)
            case _:
                place, colour, shape, other_colour, other_shape = words
                _add_thing(vector, colour, shape, place)
                _add_thing(vector, other_colour, other_shape, _OPPOSITE[Place(place)] if place else "")
    return vector / numpy.linalg.norm(vector)


def _add_thing(vector: Any, colour: str, shape: str, place: str) -> None:
    """What is not said (empty) is shared among all that it may be."""
    may_be = [pair for pair in _THINGS if colour in ("", pair[0]) and shape in ("", pair[1])]
    for pair in may_be:
        vector[_THINGS[pair]] += len(may_be) ** -0.5
    for said in (word for word in (colour, shape) if word and place):
        vector[_AT[Place(place), said]] += _PLACED
