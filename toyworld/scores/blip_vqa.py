"""How often questions about pictures of the judging renderer are answered right."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from handlers import models
from handlers.models import blip_vqa
from handlers.protocol import CheckpointSpec
from toyworld.card import HELD_OUT, Score
from toyworld.world.paint import draw
from toyworld.world.scenes import Question, draw_scene

KINDS = ("colour", "shape", "count", "background", "place")
ALL = f"answers right over {', '.join(KINDS)}"
_MAX_TOKENS = 20
_BATCH = 50


def score(folder: Path, samples: int, seed: int = HELD_OUT) -> list[Score]:
    """Of all questions about so many scenes, of one and of two things, drawn with the seeds from `seed` on."""
    asked, right = Counter[str](), Counter[str]()
    for question, answer in answers(folder, samples, seed):
        for measure in (ALL, _measure(question.kind)):
            asked[measure] += 1
            right[measure] += answer == question.answer
    return [Score(name, right[name] / asked[name], asked[name], 0.90) for name in (ALL, *map(_measure, KINDS))]


def answers(folder: Path, samples: int, seed: int = HELD_OUT) -> Iterator[tuple[Question, str]]:
    """The questions about so many scenes, and what is answered to them."""
    spec = CheckpointSpec(name=folder.name, family="blip_vqa", path=str(folder), dtype="float32", digest="0" * 64)
    model = models.load(spec, "cpu")
    for first in range(0, samples, _BATCH):
        asked, prepared = [], []
        for i in range(first, min(first + _BATCH, samples)):
            chance = random.Random(seed + i)
            scene = draw_scene(chance)
            texts = [question.text for question in scene.questions]
            asked.append(scene.questions)
            prepared.append(blip_vqa.prepare(model.processor, draw(scene, chance), texts, _MAX_TOKENS))
        for questions, phrases in zip(asked, blip_vqa.answer(model, prepared), strict=True):
            if isinstance(phrases, Exception):
                raise phrases
            yield from zip(questions, (phrase.text for phrase in phrases), strict=True)


def _measure(kind: str) -> str:
    return f"answers right: {kind}"
