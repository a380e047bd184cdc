"""How well captions say what is in pictures of the judging renderer."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

from handlers import models
from handlers.models import blip_caption
from handlers.models.blip import Phrase
from handlers.models.blip_caption import CaptionRequest
from handlers.models.sampling import Sampling
from handlers.protocol import CheckpointSpec
from toyworld.card import HELD_OUT, Score
from toyworld.world.paint import draw
from toyworld.world.scenes import Colour, Scene, Shape, draw_scene

NAMED = "colour and shape both right, of every thing"
WHOLE = "whole caption right"
PROMPTED = "whole caption right after `a picture of`"
#: As a job has it that says nothing.
_SAMPLING = Sampling(max_tokens=30)
_BATCH = 50


def score(folder: Path, samples: int, seed: int = HELD_OUT) -> list[Score]:
    """Of so many scenes, of one and of two things, drawn with the seeds from `seed` on."""
    named = whole = prompted = 0
    for scene, caption, after in captions(folder, samples, seed):
        named += names_all(scene, caption)
        whole += caption == scene.caption
        prompted += after == scene.caption
    return [
        Score(NAMED, named / samples, samples, 0.95),
        Score(WHOLE, whole / samples, samples, 0.90),
        Score(PROMPTED, prompted / samples, samples, 0.90),
    ]


def captions(folder: Path, samples: int, seed: int = HELD_OUT) -> list[tuple[Scene, str, str]]:
    """Scenes, their captions, and their captions after a prompt."""
    spec = CheckpointSpec(name=folder.name, family="blip_caption", path=str(folder), dtype="float32", digest="0" * 64)
    model = models.load(spec, "cpu")
    found = []
    for first in range(0, samples, _BATCH):
        chances = [random.Random(seed + i) for i in range(first, min(first + _BATCH, samples))]
        scenes = [draw_scene(chance) for chance in chances]
        images = [draw(scene, chance) for scene, chance in zip(scenes, chances, strict=True)]
        texts = []
        for prompt in ("", "a picture of"):
            request = CaptionRequest(prompt=prompt, count=1, seed=0, sampling=_SAMPLING)
            results = blip_caption.generate(
                model, [blip_caption.prepare(model.processor, image, request) for image in images]
            )
            texts.append([_text(result) for result in results])
        found += list(zip(scenes, *texts, strict=True))
    return found


def names_all(scene: Scene, caption: str) -> bool:
    """Whether a caption names the colour and shape of each thing, as often as they are there, and of nothing else."""
    said = sorted(" ".join(pair) for pair in _pairs(caption.split()))
    return said == sorted(thing.name for thing in scene.things)


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    """Neighbours that are a colour and a shape."""
    return [pair for pair in pairwise(words) if pair[0] in set(Colour) and pair[1] in set(Shape)]


def _text(result: list[Phrase] | Exception) -> str:
    """The one caption of a sample."""
    if isinstance(result, Exception):
        raise result
    [caption] = result
    return caption.text
