"""Scores the toy checkpoints on held-out material: `make toyworld-eval`, or

    python -m toyworld.evaluate [--model NAME]... [--samples 500]

Prints what each reaches now beside what its card states and what it is meant to reach; ends with 1 where one falls
below what is stated by more than the noise of that many samples (three standard errors).
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys

from toyworld import card
from toyworld.card import Score
from toyworld.shelf import CHECKPOINTS

#: Model -> its folder.
FOLDERS = {
    "clip": "toy-clip",
    "judge": "judge",
    "blip_caption": "toy-blip-caption",
    "blip_vqa": "toy-blip-vqa",
    "stable_diffusion": "toy-stable-diffusion",
    "whisper": "toy-whisper",
}


def falls_short(score: Score, stated: Score) -> bool:
    """Whether a score is worse than the stated one by more than three standard errors of both."""
    likely = min(max(stated.value, 0.01), 0.99)
    error = math.sqrt(likely * (1 - likely) * (1 / score.samples + 1 / stated.samples))
    return score.value < stated.value - 3 * error


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="toyworld.evaluate", description="Scores the toy checkpoints.")
    parser.add_argument("--model", choices=list(FOLDERS), action="append", help="this one alone; may be repeated")
    parser.add_argument("--samples", type=int, default=500, help="scenes or sentences for each measure")
    given = parser.parse_args()
    worse = False
    sys.stdout.write(f"{'checkpoint':22} {'measure':60} {'now':>7} {'stated':>7} {'aim':>6} {'samples':>8}\n")
    for model in given.model or FOLDERS:
        folder = CHECKPOINTS / FOLDERS[model]
        stated = card.stated(folder)
        for score in importlib.import_module(f"toyworld.scores.{model}").score(folder, given.samples):
            known = stated[score.measure]
            short = falls_short(score, known)
            worse = worse or short
            sys.stdout.write(
                f"{folder.name:22} {score.measure:60} {score.value:7.3f} {known.value:7.3f} {score.at_least:6.2f}"
                f" {score.samples:8}{'  falls short' if short else ''}\n"
            )
            sys.stdout.flush()
    raise SystemExit(1 if worse else 0)


if __name__ == "__main__":
    main()
