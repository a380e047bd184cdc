"""Whether generated pictures show what was asked for: judged by the classifier, not by the CLIP that steers them."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from handlers import models
from handlers.models import diffusion
from handlers.models.diffusion import PictureRequest, PictureSample
from handlers.protocol import CheckpointSpec, GenerationDefaults
from toyworld import judge
from toyworld.card import HELD_OUT, Score
from toyworld.shelf import CHECKPOINTS
from toyworld.world.descriptions import a
from toyworld.world.scenes import Background, Colour, Shape

#: What the catalogue says is right for the checkpoint.
DEFAULTS = GenerationDefaults(width=64, height=64, steps=20, guidance=3.0)

COLOUR, SHAPE, BOTH, BEHIND = "colour", "shape", "colour and shape", "background"
_BATCH = 48


class _Unheard:
    """Nobody waits, and nobody is told."""

    ended = False

    def done(self, fraction: float, note: str = "") -> None:
        """Does nothing."""


def asked(sample: int) -> tuple[Colour, Shape, Background]:
    """What the prompt of a sample asks for: of 48 samples in a row each colour of each shape, on every background."""
    things, behind = list(product(Colour, Shape)), list(Background)
    turn, at = divmod(sample, len(things))
    return *things[at], behind[(turn + at) % len(behind)]


def prompt(sample: int) -> str:
    """Such as `a red circle on a black background`."""
    colour, shape, background = asked(sample)
    return f"{a(f'{colour} {shape}')} on {a(f'{background} background')}"


def load(folder: Path) -> Any:
    """The checkpoint, as handlers load it: on the CPU, float32."""
    spec = CheckpointSpec(
        name=folder.name,
        family="stable_diffusion",
        path=str(folder),
        dtype="float32",
        digest="0" * 64,
        generation=DEFAULTS,
    )
    return models.load(spec, "cpu")


def make(model: Any, prompts: list[str], seed: int) -> Any:
    """A picture for each prompt, with the seeds from `seed` on: uint8 numpy (n, 64, 64, 3)."""
    import numpy

    made: list[Any] = []
    for first in range(0, len(prompts), _BATCH):
        samples = [
            PictureSample(diffusion.prepare(model.processor, PictureRequest(text)), seed + first + i, _Unheard())
            for i, text in enumerate(prompts[first : first + _BATCH])
        ]
        for picture in diffusion.generate(model, samples):
            if isinstance(picture, Exception):
                raise picture
            made.append(picture.pixels)
    return numpy.stack(made)


def score(folder: Path, samples: int, seed: int = HELD_OUT) -> list[Score]:
    """Of so many pictures, made as a job makes them that says nothing but its prompt."""
    pictures = make(load(folder), [prompt(i) for i in range(samples)], seed)
    right = [
        (shown.colour == colour, shown.shape == shape, shown.background == background)
        for shown, (colour, shape, background) in zip(
            judge.load(CHECKPOINTS / "judge").see(pictures), map(asked, range(samples)), strict=True
        )
    ]
    return [
        Score(COLOUR, sum(colour for colour, _, _ in right) / samples, samples, 0.95),
        Score(SHAPE, sum(shape for _, shape, _ in right) / samples, samples, 0.85),
        Score(BOTH, sum(colour and shape for colour, shape, _ in right) / samples, samples, 0.80),
        Score(BEHIND, sum(behind for _, _, behind in right) / samples, samples, 0.95),
    ]
