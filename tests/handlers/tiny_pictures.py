"""Tiny checkpoints that make pictures, for the tests of what makes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handlers.models import stable_diffusion, stable_diffusion_xl
from handlers.models.diffusion import Diffusion
from handlers.protocol import CheckpointSpec

#: diffusers makes numpy arrays of tensors in a way that numpy 2 wants changed.
IGNORED = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"

FAMILIES = {"stable_diffusion": stable_diffusion, "stable_diffusion_xl": stable_diffusion_xl}


def make(home: Path) -> None:
    """Makes one checkpoint of each family in `home`, in a folder of the family's name."""
    import torch

    from toyworld.tiny_diffusion import make_stable_diffusion, make_stable_diffusion_xl

    torch.set_num_threads(1)
    make_stable_diffusion(home / "stable_diffusion")
    make_stable_diffusion_xl(home / "stable_diffusion_xl")


def spec(path: Path, family: str = "stable_diffusion", **more: Any) -> CheckpointSpec:
    """The spec of a folder."""
    settings = {"name": "tiny", "dtype": "float32", "digest": "0" * 64} | more
    return CheckpointSpec(family=family, path=str(path), **settings)


def load(path: Path, family: str = "stable_diffusion", **more: Any) -> Diffusion:
    """The model of a folder, on the CPU."""
    model = FAMILIES[family].load(spec(path, family, **more), "cpu")
    assert isinstance(model, Diffusion)
    return model


@dataclass
class Told:
    """`handlers.declaration.Steps` that remembers, and ends after so many words."""

    ends_after: int | None = None
    fractions: list[float] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.ends_after is not None and len(self.fractions) >= self.ends_after

    def done(self, fraction: float, note: str = "") -> None:
        self.fractions.append(fraction)
