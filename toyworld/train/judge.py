"""Trains the judge: it sees one-thing scenes blurred, noisy, coarse and off in colour, as generated pictures are.

python -m toyworld.train.judge [--out toyworld/checkpoints] [--work .toyworld]
"""

from __future__ import annotations

import random
import shutil
from typing import Any

from toyworld import judge
from toyworld.card import Card, write
from toyworld.scores import judge as scores
from toyworld.shelf import replacing
from toyworld.train import command
from toyworld.train.loop import Course, train
from toyworld.train.pictures import Pool
from toyworld.world.scenes import Scene

NAME = "judge"
COURSE = Course(name="judge", steps=1200, rate=2e-3, warm_up=50, weight_decay=0.02)
_PICTURES, _POOL = 64, 12_000
#: Scenes of each score on the card.
_JUDGED = 1000
#: Of 255: how far off a channel is at most, and the widest noise.
_OFF, _NOISE = 14.0, 24.0
#: Pixels: how far all pictures of a batch are shifted at most.
_SHIFT = 3
#: Pixels: the widest blur, as a standard deviation.
_BLUR = 1.6


class Lesson:
    """The losses of a batch."""

    def __init__(self, pool: Pool, device: str, pictures: int = _PICTURES) -> None:
        import torch

        self.pool, self.device, self.pictures = pool, device, pictures
        self.network = judge.network().to(device)
        self.truth = torch.tensor([_classes(scene) for scene in pool.scenes])

    def losses(self, _step: int, chance: random.Random) -> dict[str, Any]:
        """One for each kind of word."""
        import torch

        batch = self.pool.batch(chance, self.pictures)
        pixels = spoilt((batch.pixels + 1) * 127.5, chance).to(self.device) / 127.5 - 1
        told = self.network(pixels).split([len(kind) for kind in judge.KINDS], dim=1)
        truth = self.truth[batch.indices].to(self.device)
        return {
            kind.__name__.lower(): torch.nn.functional.cross_entropy(scores, right, label_smoothing=0.02)
            for kind, scores, right in zip(judge.KINDS, told, truth.T, strict=True)
        }


def spoilt(pixels: Any, chance: random.Random) -> Any:
    """Pictures (float32 torch (n, 3, side, side), 0 to 255) as a generator may make them: soft, coarse, off, noisy."""
    import torch

    draws = torch.Generator().manual_seed(chance.getrandbits(62))
    count, _, side, _ = pixels.shape
    edges = torch.nn.functional.pad(pixels, (_SHIFT,) * 4, mode="replicate")
    down, right = chance.randint(0, 2 * _SHIFT), chance.randint(0, 2 * _SHIFT)
    pixels = edges[:, :, down : down + side, right : right + side]
    # Half of the batch is soft; of that, half went through a smaller picture.
    soft, coarse = count // 2, count // 4
    pixels = torch.cat([_blurred(pixels[:soft], chance.uniform(0.3, _BLUR)), pixels[soft:]])
    small = torch.nn.functional.interpolate(
        pixels[:coarse], scale_factor=chance.choice((0.5, 0.625, 0.75)), mode="area"
    )
    large = torch.nn.functional.interpolate(small, size=(side, side), mode="bilinear")
    pixels = torch.cat([large, pixels[coarse:]])
    contrast = torch.empty(count, 1, 1, 1).uniform_(0.88, 1.1, generator=draws)
    off = torch.empty(count, 3, 1, 1).uniform_(-_OFF, _OFF, generator=draws)
    width = torch.empty(count, 1, 1, 1).uniform_(0, _NOISE, generator=draws)
    # Some noise is fine, some is of patches: what a decoder of latents leaves.
    fine = torch.empty(pixels.shape).normal_(generator=draws)
    rough = torch.empty(count, 3, side // 4, side // 4).normal_(generator=draws)
    rough = torch.nn.functional.interpolate(rough, scale_factor=4, mode="bilinear")
    noise = width * (0.5 * fine + 0.5 * rough)
    return ((pixels - 128) * contrast + 128 + off + noise).clamp(0, 255)


def _classes(scene: Scene) -> list[int]:
    """Of the words of `judge.KINDS`, which are right."""
    thing = scene.things[0]
    words = (thing.shape, thing.colour, scene.background, thing.place)
    return [list(kind).index(word) for kind, word in zip(judge.KINDS, words, strict=True)]


def _blurred(pixels: Any, width: float) -> Any:
    import torch

    away = torch.arange(-3, 4, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (away / width) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 7)
    padded = torch.nn.functional.pad(pixels, (3, 3, 3, 3), mode="replicate")
    across = torch.nn.functional.conv2d(padded, kernel[:, :, None, :], groups=3)
    return torch.nn.functional.conv2d(across, kernel[:, :, :, None], groups=3)


def main() -> None:
    """The command line."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    out, folder = command.arguments("judge", "the judge of generated pictures")
    device = command.device()
    lesson = Lesson(Pool(_POOL, NAME, things=1), device)
    seconds = train(COURSE, lesson.network, lesson.losses, folder)
    card = Card(
        name=NAME,
        architecture="Five convolutions and a linear layer (`toyworld/judge.py`): pictures of 64 x 64",
        knows=(
            "The shape, the colour, the background and the place in a picture with one thing. It says one of the"
            " world's words for each, whatever the picture shows."
        ),
        trained=(
            f"{COURSE.steps:,} steps of {_PICTURES} pictures out of {_POOL:,}, in {seconds / 60:.0f} minutes on"
            f" {'one core' if device == 'cpu' else 'a GPU'}. They were blurred, made coarse and noisy, shifted, and off"
            " in colour and contrast, since it is generated pictures that it has to judge. It shares nothing with the"
            " CLIP by which those are made."
        ),
        noise=(
            "By their number alone the scores are uncertain by 0.003. Trained twice with the same seed on one machine,"
            " the weights were the same byte for byte; another seed was not tried."
        ),
        parameters=command.parameters(lesson.network),
        model=NAME,
        library="safetensors",
    )
    with replacing(out / NAME) as made:
        judge.save(lesson.network, made)
        shutil.copy(folder / f"{COURSE.name}.losses.png", made / "losses.png")
        write(made, card, scores.score(made, _JUDGED))


if __name__ == "__main__":
    main()
