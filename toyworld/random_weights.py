"""What checkpoints of random weights need, to be of use for wiring: weights that tell inputs apart, and a card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SEED = 16
"""Chosen among the first eighty: with it no caption of a plain picture is empty, and hardly two are alike."""

_CARD = """---
license: apache-2.0
library_name: transformers
---
# {name}

{architecture} with random weights, made by `python -m toyworld.tiny`. **It knows nothing**: it has never seen a picture
or a text. It exists so that loading, batching, storing and searching can be tried within seconds and without a
download. What it says of a picture depends on the picture, and means nothing.
"""


def spread(model: Any) -> None:
    """Weights wide enough that what comes out depends on what went in.

    With the usual initial 0.02 the residual stream carries the position alone, and all pictures look the same. Wide
    positions keep the decoder from saying one word again and again, wide cross attention makes it look at the picture.
    """
    import torch

    for name, weight in sorted(model.named_parameters()):
        if weight.dim() < 2:
            continue
        if "position" in name:
            std = 4.0 if "text_decoder" in name else 0.3
        elif "embedding" in name:
            std = 1.0
        else:
            std = 1.2 * weight[0].numel() ** -0.5
        torch.nn.init.normal_(weight, std=std * (3.5 if "crossattention" in name else 1.0))


def write_card(folder: Path, name: str, architecture: str) -> None:
    """The README.md of a checkpoint, which says that it knows nothing."""
    (folder / "README.md").write_text(_CARD.format(name=name, architecture=architecture), encoding="utf-8")
