"""Scores of a checkpoint, and the model card that states them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SCORES = "scores.json"
#: Seed of the scenes and sentences that judge; those of training are strings, and never this.
HELD_OUT = 20_000


@dataclass(frozen=True, slots=True)
class Score:
    """A share of right answers on material that the training never saw."""

    measure: str
    value: float
    samples: int
    at_least: float
    """What the checkpoint is meant to reach."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a card says beside the scores."""

    name: str
    architecture: str
    knows: str
    """What it knows, and what not: sentences."""
    trained: str
    """On what, how long: sentences."""
    noise: str
    """What another run with another seed would differ by: a sentence."""
    parameters: int
    model: str
    """The name that `make toyworld MODEL=` has for it."""
    library: str = "transformers"


_CARD = """---
license: cc0-1.0
library_name: {library}
---
# {name}

{architecture}, {parameters:,} parameters, trained on the synthetic world of `toyworld/`. Licence: CC0.

## What it knows

{knows}

## Held-out scores

{scores}

Judged on scenes and sentences that the training never saw, through the code that serves jobs. {noise}
Again: `make toyworld-eval`.

## How it was trained

{trained}

Again: `make toyworld MODEL={model}`.
"""


def write(folder: Path, card: Card, scores: Sequence[Score]) -> None:
    """Writes README.md and scores.json into a checkpoint's folder."""
    (folder / SCORES).write_text(json.dumps([asdict(score) for score in scores], indent=2) + "\n", encoding="utf-8")
    text = _CARD.format(**(asdict(card) | {"scores": table(scores)}))
    (folder / "README.md").write_text(text, encoding="utf-8")


def stated(folder: Path) -> dict[str, Score]:
    """The scores that a checkpoint's card states, by measure."""
    content = json.loads((folder / SCORES).read_bytes())
    return {score["measure"]: Score(**score) for score in content}


def table(scores: Sequence[Score]) -> str:
    """Markdown."""
    rows = [f"| {score.measure} | {score.value:.3f} | {score.at_least:.2f} | {score.samples} |" for score in scores]
    return "\n".join(["| measure | score | meant to reach | samples |", "| --- | --- | --- | --- |", *rows])
