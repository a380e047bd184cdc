"""Says what is in a picture with one thing: a classifier that judges generated pictures, and knows nothing of CLIP."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from toyworld.world.scenes import Background, Colour, Place, Shape

SIDE = 64
_WEIGHTS = "model.safetensors"
_WIDTHS = (24, 48, 96, 96, 128)
_STRIDES = (2, 2, 2, 1, 2)
_BATCH = 200
#: What is named, in the order of `Named`.
KINDS: tuple[type[StrEnum], ...] = (Shape, Colour, Background, Place)


class Named(NamedTuple):
    """What a picture shows."""

    shape: Shape
    colour: Colour
    background: Background
    place: Place


@dataclass(frozen=True, slots=True)
class Judge:
    """A loaded judge."""

    network: Any

    def see(self, pictures: Any) -> list[Named]:
        """What each of some pictures shows; `pictures`: uint8 numpy (n, 64, 64, 3), red first."""
        import torch

        named: list[Named] = []
        with torch.inference_mode():
            for first in range(0, len(pictures), _BATCH):
                pixels = torch.from_numpy(pictures[first : first + _BATCH]).permute(0, 3, 1, 2).float()
                best = self.network(pixels / 127.5 - 1).split([len(kind) for kind in KINDS], dim=1)
                for row in torch.stack([scores.argmax(dim=1) for scores in best], dim=1).tolist():
                    shape, colour, background, place = (list(kind)[at] for kind, at in zip(KINDS, row, strict=True))
                    named.append(Named(Shape(shape), Colour(colour), Background(background), Place(place)))
        return named


def network() -> Any:
    """A small convolutional network: (n, 3, 64, 64) from -1 to 1 in, a score for each word of `KINDS` out."""
    import torch

    layers: list[Any] = []
    before, side = 3, SIDE
    for width, stride in zip(_WIDTHS, _STRIDES, strict=True):
        layers += [torch.nn.Conv2d(before, width, 3, stride, 1), torch.nn.GroupNorm(8, width), torch.nn.ReLU()]
        before, side = width, side // stride
    words = sum(len(kind) for kind in KINDS)
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(before * side * side, words))


def save(trained: Any, folder: Path) -> None:
    """Writes a network's weights in half precision. Changes `trained`."""
    import torch
    from safetensors.torch import save_file

    save_file(trained.to("cpu", torch.float16).state_dict(), folder / _WEIGHTS)


def load(folder: Path) -> Judge:
    """The judge that lies in a folder, on the CPU."""
    from safetensors.torch import load_file

    made = network()
    made.load_state_dict(load_file(folder / _WEIGHTS))
    return Judge(made.eval().requires_grad_(False))


def main() -> None:
    """`python -m toyworld.judge FILE...`: what pictures show, a JSON line for each."""
    import numpy
    from PIL import Image

    from toyworld.shelf import CHECKPOINTS

    pictures = [numpy.asarray(Image.open(file).convert("RGB").resize((SIDE, SIDE))) for file in sys.argv[1:]]
    for named in load(CHECKPOINTS / "judge").see(numpy.stack(pictures)):
        sys.stdout.write(json.dumps(named._asdict()) + "\n")


if __name__ == "__main__":
    main()
