"""What every training script asks and says: its folders, its device, the size of what it trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from toyworld.shelf import CHECKPOINTS


def arguments(model: str, what: str) -> tuple[Path, Path]:
    """Of a model's script: the folder for checkpoints, and the one that its training works in."""
    parser = argparse.ArgumentParser(description=f"Trains {what}; goes on where it was interrupted.")
    parser.add_argument("--out", type=Path, default=CHECKPOINTS, help="the folder that gets the checkpoint's folder")
    parser.add_argument("--work", type=Path, default=Path(".toyworld"), help="the folder for what to go on from")
    given = parser.parse_args()
    return given.out, given.work / model


def device() -> str:
    """Where to train."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def parameters(network: Any) -> int:
    """How many numbers are learnt."""
    return sum(weight.numel() for weight in network.parameters())
