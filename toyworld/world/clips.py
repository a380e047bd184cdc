"""Moving pictures of the toy world: one thing that rests at a place, goes to another, and rests there."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from toyworld.world.paint import draw
from toyworld.world.scenes import Place, Scene, draw_scene, scene_of


@dataclass(frozen=True, slots=True)
class Clip:
    """A thing's way. Times are in seconds from the first frame."""

    before: Scene
    after: Scene
    """The same thing and background, at the other place."""
    leaves: float
    arrives: float
    seconds: float

    def at(self, time: float) -> Scene:
        """What is to be seen at that time; on its way the thing still has the name of the place it comes from."""
        gone = min(1.0, max(0.0, (time - self.leaves) / (self.arrives - self.leaves)))
        if gone >= 1:
            return self.after
        [here], [there] = self.before.things, self.after.things
        moved = replace(here, x=here.x + gone * (there.x - here.x), y=here.y + gone * (there.y - here.y))
        return replace(self.before, things=(moved,))

    def frames(self, fps: int, side: int = 256) -> Iterator[Any]:
        """RGB PIL images by the judging renderer, a frame for each 1 / `fps` s."""
        for number in range(round(self.seconds * fps)):
            # The same noise for all, as a still camera has none that codecs would have to carry.
            yield draw(self.at(number / fps), random.Random(0), side)


def draw_clip(chance: random.Random, *, rest: float = 1.0, way: float = 1.0) -> Clip:
    """A clip of any thing between any two places: `rest` seconds at each, `way` seconds between them."""
    before = draw_scene(chance, things=1)
    [thing] = before.things
    place = chance.choice([place for place in Place if place is not thing.place])
    there = scene_of(chance, [(thing.shape, thing.colour, place)]).things[0]
    moved = replace(thing, place=place, x=there.x, y=there.y)
    return Clip(before, replace(before, things=(moved,)), rest, rest + way, 2 * rest + way)
