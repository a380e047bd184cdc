"""How well pictures of the judging renderer are told apart, and found, by texts and by other pictures."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from handlers import models
from handlers.models import clip
from handlers.protocol import CheckpointSpec
from toyworld.card import HELD_OUT, Score
from toyworld.world.descriptions import Description, caption, named
from toyworld.world.paint import draw
from toyworld.world.scenes import Colour, Scene, Shape, draw_scene

ZERO_SHOT = "zero-shot over 48 classes, `a picture of a red circle`"
ZERO_SHOT_BARE = "zero-shot over 48 classes, `red circle`"
FOUND = "text to picture, first hit of a caption is true"
SEARCHED = "search: all pictures with `red circle` before all others of 200"
SEARCHED_PRECISION = "search: mean average precision of `red circle` among 200"
SWAPPED = "caption of two things before the one with swapped colours"
SIMILAR = "the picture nearest to one shows the same thing"
MEASURES = (ZERO_SHOT, ZERO_SHOT_BARE, FOUND, SEARCHED, SEARCHED_PRECISION, SWAPPED, SIMILAR)
#: The scenes among which short texts are searched.
MIXED = 200
_BATCH = 50

#: What changes a picture before the checkpoint's processor sees it: a fault, in tests.
Change = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """Scenes and the vectors of their pictures."""

    scenes: list[Scene]
    vectors: Any
    """float32 numpy (n, dimension)."""

    def part(self, first: int, count: int) -> Seen:
        """Some of them."""
        return Seen(self.scenes[first : first + count], self.vectors[first : first + count])


def load(folder: Path) -> Any:
    """The checkpoint, as handlers load it: on the CPU, float32."""
    spec = CheckpointSpec(name=folder.name, family="clip", path=str(folder), dtype="float32", digest="0" * 64)
    return models.load(spec, "cpu")


def see(model: Any, samples: int, seed: int, *, things: int | None = None, change: Change | None = None) -> Seen:
    """The vectors of so many scenes, drawn with the seeds from `seed` on."""
    import numpy

    chances = [random.Random(seed + i) for i in range(samples)]
    scenes, vectors = [], []
    for first in range(0, samples, _BATCH):
        images = []
        for chance in chances[first : first + _BATCH]:
            scenes.append(draw_scene(chance, things=things))
            image = draw(scenes[-1], chance)
            images.append(clip.prepare_image(model.processor, image if change is None else change(image)))
        vectors += clip.embed_images(model, images)
    return Seen(scenes, numpy.stack(vectors))


def read(model: Any, texts: Sequence[str]) -> Any:
    """Vectors of texts: float32 numpy (n, dimension)."""
    import numpy

    batches = (texts[first : first + _BATCH] for first in range(0, len(texts), _BATCH))
    return numpy.concatenate([numpy.stack(clip.embed_texts(model, batch)) for batch in batches])


def score(folder: Path, samples: int, seed: int = HELD_OUT, change: Change | None = None) -> list[Score]:
    """Of so many scenes for each measure (for the search: 48 queries among each `MIXED` of them)."""
    model = load(folder)
    alone = see(model, samples, seed, things=1, change=change)
    many = see(model, max(samples, MIXED), seed, change=change)
    mixed = many.part(0, samples)
    rounds = [searched(model, many.part(first, MIXED)) for first in range(0, len(many.scenes) - MIXED + 1, MIXED)]
    swapped = sum(map(_can_be_swapped, many.scenes))
    queries = sum(count for count, _, _ in rounds)
    return [
        Score(ZERO_SHOT, classified(model, alone, "a picture of {}"), samples, 0.97),
        Score(ZERO_SHOT_BARE, classified(model, alone, "{}"), samples, 0.97),
        Score(FOUND, found(model, mixed), samples, 0.95),
        Score(SEARCHED, sum(whole for _, whole, _ in rounds) / queries, queries, 0.95),
        Score(SEARCHED_PRECISION, sum(precise for _, _, precise in rounds) / queries, queries, 0.98),
        Score(SWAPPED, told_apart(model, many), swapped, 0.95),
        Score(SIMILAR, similar(alone), samples, 0.95),
    ]


def classes(form: str) -> list[Description]:
    """A text for each colour of each shape."""
    return [named(shape, colour, form) for shape, colour in product(Shape, Colour)]


def classified(model: Any, seen: Seen, form: str) -> float:
    """Share of one-thing scenes to which the right one of 48 texts is the nearest."""
    asked = classes(form)
    best = (seen.vectors @ read(model, [text.text for text in asked]).T).argmax(axis=1)
    return sum(asked[at].true_of(scene) for at, scene in zip(best, seen.scenes, strict=True)) / len(seen.scenes)


def found(model: Any, seen: Seen) -> float:
    """Share of the scenes' captions whose nearest picture is one that they are true of."""
    asked = [caption(scene) for scene in seen.scenes]
    best = (read(model, [text.text for text in asked]) @ seen.vectors.T).argmax(axis=1)
    return sum(text.true_of(seen.scenes[at]) for at, text in zip(best, asked, strict=True)) / len(asked)


def searched(model: Any, seen: Seen) -> tuple[int, int, float]:
    """Queries with a true picture, how many of them have all of those first, and the sum of average precisions."""
    import numpy

    asked = classes("{}")
    products = read(model, [text.text for text in asked]) @ seen.vectors.T
    queries, whole, precise = 0, 0, 0.0
    for text, row in zip(asked, products, strict=True):
        true = numpy.array([text.true_of(scene) for scene in seen.scenes])[numpy.argsort(-row, kind="stable")]
        if not true.any():
            continue
        queries += 1
        whole += bool(true[: true.sum()].all())
        precise += float((true.cumsum() / numpy.arange(1, len(true) + 1))[true].mean())
    return queries, whole, precise


def _can_be_swapped(scene: Scene) -> bool:
    """Whether swapping colours makes another picture of it."""
    colours, shapes = {thing.colour for thing in scene.things}, {thing.shape for thing in scene.things}
    return len(colours) == len(shapes) == 2


def told_apart(model: Any, seen: Seen) -> float:
    """Share of captions that are nearer to their picture than the same with the colours of the things swapped."""
    import numpy

    at = [i for i, scene in enumerate(seen.scenes) if _can_be_swapped(scene)]
    texts = [seen.scenes[i].caption for i in at]
    right = read(model, texts)
    wrong = read(model, [_swapped(seen.scenes[i]) for i in at])
    pictures = seen.vectors[at]
    return float(numpy.mean((right * pictures).sum(axis=1) > (wrong * pictures).sum(axis=1)))


def _swapped(scene: Scene) -> str:
    first, second = scene.things
    things = (replace(first, colour=second.colour), replace(second, colour=first.colour))
    return replace(scene, things=things).caption


def similar(seen: Seen) -> float:
    """Share of one-thing pictures, of those with an equal among them, whose nearest picture is one."""
    import numpy

    products = seen.vectors @ seen.vectors.T
    numpy.fill_diagonal(products, -2)
    names = [scene.things[0].name for scene in seen.scenes]
    known = [i for i, name in enumerate(names) if names.count(name) > 1]
    return sum(names[products[i].argmax()] == names[i] for i in known) / len(known)
