"""The loop that every script shares: AdamW with a warm-up and a cosine, stopped and gone on with at will.

What a step sees depends on seed and step alone: a run that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import copy
import csv
import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SAVE_EVERY_S = 60.0
_SAY_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Course:
    """What is trained and for how long."""

    name: str
    """Of this part, in file names: `clip`, `stable-diffusion.unet`."""
    steps: int
    rate: float
    """The highest learning rate."""
    seed: int = 0
    warm_up: int = 50
    """Steps until it is reached."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Longest gradient."""
    average: float | None = None
    """Decay of the exponential moving average of the weights, which is then the result; None: the last weights are."""


@dataclass(slots=True)
class _Progress:
    step: int = 0
    #: Of this part alone, over all runs.
    seconds: float = 0.0
    losses: list[dict[str, float]] = field(default_factory=list)


def train(course: Course, network: Any, loss: Callable[[int, random.Random], dict[str, Any]], folder: Path) -> float:
    """Trains `network` (a torch module) in place, and returns the seconds that it took, over all runs.

    `loss` is called with the step and its own chances, and returns losses by name: 0-d tensors; their sum is made
    smaller. `folder` gets `<name>.state.pt` to go on from, `<name>.losses.csv` and `<name>.losses.png`.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=course.rate, weight_decay=course.weight_decay, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(course, step))
    averaged = copy.deepcopy(network).requires_grad_(False) if course.average is not None else None
    parts = {"network": network, "optimiser": optimiser, "schedule": schedule}
    parts |= {"averaged": averaged} if averaged is not None else {}
    state, progress = folder / f"{course.name}.state.pt", _Progress()
    if state.exists():
        _restore(state, parts, progress)

    saved = said = began = time.monotonic()
    before = progress.seconds
    network.train()
    while progress.step < course.steps:
        chance = random.Random(f"{course.name}/{course.seed}/{progress.step}")
        torch.manual_seed(chance.getrandbits(62))
        losses = loss(progress.step, chance)
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(weights, course.clip)
        optimiser.step()
        schedule.step()
        progress.step += 1
        if averaged is not None and course.average is not None:
            _follow(averaged, network, min(course.average, (1 + progress.step) / (10 + progress.step)))
        progress.losses.append({name: float(value.detach()) for name, value in losses.items()})
        now = time.monotonic()
        progress.seconds = before + now - began
        if now - said >= _SAY_EVERY_S or progress.step == course.steps:
            said = now
            _say(course, progress)
        if now - saved >= _SAVE_EVERY_S or progress.step == course.steps:
            saved = now
            _save(state, parts, progress)
    if averaged is not None:
        network.load_state_dict(averaged.state_dict())
    network.eval()
    _draw(course, progress, folder)
    return progress.seconds


def _rate(course: Course, step: int) -> float:
    """A share of the highest rate: up in a line, down along a cosine to a fiftieth."""
    if step < course.warm_up:
        return (step + 1) / course.warm_up
    done = min(1.0, (step - course.warm_up) / max(1, course.steps - course.warm_up))
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def _follow(averaged: Any, network: Any, decay: float) -> None:
    import torch

    with torch.no_grad():
        for old, new in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
            if old.dtype.is_floating_point:
                old.lerp_(new, 1 - decay)
            else:
                old.copy_(new)


def _restore(state: Path, parts: dict[str, Any], progress: _Progress) -> None:
    import torch

    saved = torch.load(state, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    progress.step, progress.seconds, progress.losses = saved["step"], saved["seconds"], saved["losses"]


def _save(state: Path, parts: dict[str, Any], progress: _Progress) -> None:
    import torch

    content = {name: part.state_dict() for name, part in parts.items()}
    content |= {"step": progress.step, "seconds": progress.seconds, "losses": progress.losses}
    beside = state.with_suffix(".new")
    torch.save(content, beside)
    beside.replace(state)


def _say(course: Course, progress: _Progress) -> None:
    lately = progress.losses[-50:]
    means = ", ".join(f"{name} {sum(loss[name] for loss in lately) / len(lately):.4f}" for name in lately[-1])
    left = progress.seconds / progress.step * (course.steps - progress.step)
    sys.stderr.write(f"{course.name}: step {progress.step}/{course.steps}, {means}, {left:.0f} s left\n")


def _draw(course: Course, progress: _Progress, folder: Path) -> None:
    """The losses as a table, and as a plot of their means over a hundredth of the steps."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    names = list(progress.losses[-1])
    with (folder / f"{course.name}.losses.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["step", *names])
        table.writerows([step, *(loss[name] for name in names)] for step, loss in enumerate(progress.losses, 1))
    every = max(1, len(progress.losses) // 100)
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name in names:
        means = [
            sum(loss[name] for loss in progress.losses[at : at + every]) / len(progress.losses[at : at + every])
            for at in range(0, len(progress.losses), every)
        ]
        axes.plot([every * at for at in range(len(means))], means, label=name)
    axes.set(xlabel="step", ylabel="loss", yscale="log", title=course.name)
    axes.legend()
    figure.savefig(folder / f"{course.name}.losses.png", dpi=80)
    pyplot.close(figure)
