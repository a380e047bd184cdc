"""What a vision tower must say of each of its patches while it learns: heads that are thrown away afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toyworld.world.scenes import Background, Colour, Place, Scene, Shape, Thing

#: How much a patch of the background counts in comparison with one of a thing.
_EMPTY = 0.25
#: Classes of what is said of a thing: shape, colour, place, and shape and colour together. 0 is for none.
_CLASSES = (1 + len(Shape), 1 + len(Colour), 1 + len(Place), 1 + len(Shape) * len(Colour))


class Truths:
    """What is true of each patch of each of a pool's scenes. Pictures are of `cells` x `cells` patches."""

    def __init__(self, scenes: Sequence[Scene], cells: int) -> None:
        import numpy as np
        import torch

        at = (np.arange(cells) + 0.5) / cells
        found = np.zeros((len(_CLASSES), len(scenes), cells, cells), np.int64)
        for i, scene in enumerate(scenes):
            for thing in scene.things:
                near = np.hypot(at[None, :] - thing.x, at[:, None] - thing.y) < thing.radius + 0.25 / cells
                for k, value in enumerate(_classes(thing)):
                    found[k, i][near] = value
        #: int64 torch (4, scenes, patches).
        self.patches = torch.from_numpy(found).flatten(2)
        #: int64 torch (scenes,).
        self.backgrounds = torch.tensor([list(Background).index(scene.background) for scene in scenes])


def heads(width: int) -> Any:
    """A torch module, for patches of that width."""
    import torch

    return torch.nn.Linear(width, sum(_CLASSES) + len(Background))


def wrong(made: Any, patches: Any, truths: Truths, indices: Sequence[int]) -> Any:
    """How wrong the heads are of patches, (n, patches, width), of these of the truths' scenes: 0-d tensor."""
    import torch

    *said, behind = made(patches).flatten(0, 1).split([*_CLASSES, len(Background)], dim=1)
    backgrounds = truths.backgrounds[indices].to(patches.device)[:, None].expand(-1, patches.shape[1])
    total = torch.nn.functional.cross_entropy(behind, backgrounds.flatten())
    for scores, right in zip(said, truths.patches[:, indices].to(patches.device), strict=True):
        weights = torch.ones(scores.shape[1], device=patches.device)
        weights[0] = _EMPTY
        total = total + torch.nn.functional.cross_entropy(scores, right.flatten(), weights)
    return total


def _classes(thing: Thing) -> tuple[int, int, int, int]:
    shape, colour, place = (
        list(Shape).index(thing.shape), list(Colour).index(thing.colour), list(Place).index(thing.place)
    )  # fmt: skip
    return 1 + shape, 1 + colour, 1 + place, 1 + shape * len(Colour) + colour
