"""How well the judge names what pictures of the judging renderer show: as they are, and spoilt."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from toyworld import judge
from toyworld.card import HELD_OUT, Score
from toyworld.judge import KINDS, Named
from toyworld.world.paint import draw
from toyworld.world.scenes import draw_scene

ALL = "shape, colour, background and place all right"
SPOILT = "shape and colour right, blurred and noisy pictures"


def score(folder: Path, samples: int, seed: int = HELD_OUT) -> list[Score]:
    """Of so many one-thing scenes, drawn with the seeds from `seed` on."""
    import numpy
    from PIL import Image, ImageFilter

    loaded = judge.load(folder)
    truths: list[Named] = []
    pictures: list[Any] = []
    blurred: list[Any] = []
    for i in range(samples):
        chance = random.Random(seed + i)
        scene = draw_scene(chance, things=1)
        thing = scene.things[0]
        truths.append(Named(thing.shape, thing.colour, scene.background, thing.place))
        image = draw(scene, chance)
        pictures.append(numpy.asarray(image.resize((judge.SIDE, judge.SIDE), Image.Resampling.BICUBIC)))
        # Of 64 pixels a side, about 1: what a small decoder of latents leaves of an edge.
        soft = image.filter(ImageFilter.GaussianBlur(4)).resize((judge.SIDE, judge.SIDE), Image.Resampling.BICUBIC)
        noise = numpy.random.default_rng(seed + i).normal(0, 8, (judge.SIDE, judge.SIDE, 3))
        blurred.append(numpy.clip(numpy.asarray(soft) + noise, 0, 255).astype(numpy.uint8))
    seen, seen_blurred = loaded.see(numpy.stack(pictures)), loaded.see(numpy.stack(blurred))
    scores = [Score(ALL, _share([a == b for a, b in zip(seen, truths, strict=True)]), samples, 0.99)]
    for at, kind in enumerate(KINDS):
        right = [a[at] == b[at] for a, b in zip(seen, truths, strict=True)]
        scores.append(Score(f"right: {kind.__name__.lower()}", _share(right), samples, 0.99))
    right = [a[:2] == b[:2] for a, b in zip(seen_blurred, truths, strict=True)]
    return [*scores, Score(SPOILT, _share(right), samples, 0.97)]


def _share(right: list[bool]) -> float:
    return sum(right) / len(right)
