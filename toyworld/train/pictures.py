"""Painted scenes to train on: made once at the start, mildly changed each time that they are seen."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toyworld.world.paint import paint
from toyworld.world.scenes import Scene, draw_scene

#: Pictures are painted so many times as large and then reduced, so that no one rule of edges is learnt.
_SIZES = (1.0, 1.0, 1.0, 1.25, 1.5, 2.0)
#: Share of them that went through JPEG.
_COMPRESSED = 0.2
#: Of 255: how much lighter or darker a channel is at most, and the widest noise.
_LIGHTER, _NOISE = 5.0, 5.0
#: Pixels that all pictures of a batch are shifted by at most.
_SHIFT = 1


@dataclass(frozen=True, slots=True)
class Batch:
    """Some scenes of a pool, and their pictures."""

    indices: list[int]
    """Where they are in the pool."""
    scenes: list[Scene]
    pixels: Any
    """float32 torch (n, 3, side, side), from -1 to 1: what an image processor with mean and deviation 0.5 gives."""


class Pool:
    """Scenes and their pictures.

    `clean` pictures are painted at their own size and never changed: for what must learn to make pictures.
    The same count and seed make the same pool; one of another count begins with the same scenes.
    """

    def __init__(
        self,
        count: int,
        seed: str,
        side: int = 64,
        *,
        things: int | None = None,
        clean: bool = False,
        scenes: Sequence[Scene] | None = None,
    ) -> None:
        """Of drawn scenes, or of these `scenes`."""
        import numpy as np

        self.side, self.clean = side, clean
        self.scenes: list[Scene] = []
        #: uint8 numpy (count, side, side, 3).
        self.pictures = np.empty((count, side, side, 3), np.uint8)
        for i in range(count):
            chance = random.Random(f"{seed}/{i}")
            scene = draw_scene(chance, things=things) if scenes is None else scenes[i]
            self.scenes.append(scene)
            self.pictures[i] = paint(scene, side) if clean else _seen(scene, side, chance)

    def batch(self, chance: random.Random, n: int) -> Batch:
        """`n` of the pool, as chance has it; each at most once."""
        return self.take(chance, chance.sample(range(len(self.scenes)), n))

    def take(self, chance: random.Random, indices: list[int]) -> Batch:
        """These of the pool, with chances of their own."""
        import torch

        pixels = torch.from_numpy(self.pictures[indices]).permute(0, 3, 1, 2).to(torch.float32, copy=True)
        if not self.clean:
            pixels = change(pixels, chance)
        return Batch(
            indices=indices,
            scenes=[self.scenes[i] for i in indices],
            pixels=pixels.div_(127.5).sub_(1).contiguous(),
        )


def change(pixels: Any, chance: random.Random) -> Any:
    """Pictures (float32 torch (n, 3, side, side), 0 to 255), a little shifted, noisy, and lighter or darker."""
    import torch

    draws = torch.Generator().manual_seed(chance.getrandbits(62))
    count, _, side, _ = pixels.shape
    edges = torch.nn.functional.pad(pixels, (_SHIFT,) * 4, mode="replicate")
    down, right = chance.randint(0, 2 * _SHIFT), chance.randint(0, 2 * _SHIFT)
    pixels = edges[:, :, down : down + side, right : right + side]
    lighter = torch.empty(count, 3, 1, 1).uniform_(-_LIGHTER, _LIGHTER, generator=draws)
    width = torch.empty(count, 1, 1, 1).uniform_(0, _NOISE, generator=draws)
    noise = torch.empty(pixels.shape).normal_(generator=draws)
    return noise.mul_(width).add_(lighter).add_(pixels).clamp_(0, 255)


def sine_positions(count: int, width: int) -> Any:
    """Places on a line as sines and cosines: float32 torch (count, width). Vaswani et al., 2017; `width` is even."""
    import torch

    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000.0) / width))
    angles = torch.arange(count, dtype=torch.float32)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sine_grid(rows: int, columns: int, width: int) -> Any:
    """Places on a grid, row by row: float32 torch (rows * columns, width), half of it for each direction."""
    import torch

    down, right = sine_positions(rows, width // 2), sine_positions(columns, width // 2)
    return torch.cat([down.repeat_interleave(columns, dim=0), right.repeat(rows, 1)], dim=1)


def _seen(scene: Scene, side: int, chance: random.Random) -> Any:
    """A picture as it may come: of another size, or out of a JPEG. uint8 numpy (side, side, 3)."""
    import numpy as np
    from PIL import Image

    size, compressed = round(side * chance.choice(_SIZES)), chance.random() < _COMPRESSED
    picture = paint(scene, size)
    if compressed:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=chance.randint(60, 95))
        picture = np.asarray(Image.open(file))
    if size != side:
        picture = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))
    return picture
