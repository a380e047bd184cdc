"""How the next token of a text is chosen, such that a row's text is the same in a batch and alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sampling:
    """Greedy where `temperature` is None; else sampled from the smallest set of tokens that holds `top_p`."""

    max_tokens: int
    temperature: float | None = None
    top_p: float = 1.0


def row_seeds(seed: int, count: int) -> list[tuple[int, int]]:
    """Seeds of the `count` rows of a sample; `seed` in 0 .. 2^64 - 1."""
    return [(seed, row) for row in range(count)]


def choosing(sampling: Sampling, seeds: Sequence[tuple[int, int]]) -> Any:
    """A `LogitsProcessor` that chooses the next token of each row by itself, for `generate(do_sample=False)`.

    transformers samples all rows from one generator, so that a row's text depends on its neighbours. Here a row has its
    own stream of uniform numbers (Philox, keyed by its seed) and each step takes one of them through the inverse of the
    cumulative distribution (inverse transform sampling; top-p after Holtzman et al., The Curious Case of Neural Text
    Degeneration, 2020): one number per row and step, instead of one per token of the vocabulary.

    The result has `log_probabilities()`: per row, for each step, the logarithm of the probability that the model gave
    to the token chosen, before temperature and top-p.
    """
    import numpy
    import torch
    from transformers import LogitsProcessor

    uniform = None
    if sampling.temperature is not None:
        streams = [numpy.random.Generator(numpy.random.Philox(key=numpy.array(s, dtype=numpy.uint64))) for s in seeds]
        uniform = torch.from_numpy(numpy.stack([stream.random(sampling.max_tokens) for stream in streams]))

    class Choose(LogitsProcessor):
        def __init__(self) -> None:
            self._chosen: list[torch.Tensor] = []

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            logs = scores.float().log_softmax(dim=-1)
            if uniform is None or sampling.temperature is None:
                chosen = logs.argmax(dim=-1, keepdim=True)
            else:
                draws = uniform[:, len(self._chosen), None].to(scores.device)
                chosen = _inverse_transform(logs / sampling.temperature, sampling.top_p, draws)
            self._chosen.append(logs.gather(-1, chosen).squeeze(-1))
            return torch.full_like(scores, float("-inf")).scatter(-1, chosen, 0.0)

        def log_probabilities(self) -> list[list[float]]:
            return torch.stack(self._chosen, dim=-1).tolist()

    return Choose()


def _inverse_transform(logits: Any, top_p: float, draws: Any) -> Any:
    """Indices (rows, 1) of the tokens at `draws` (rows, 1, in 0 .. 1) of the distribution's most probable part.

    Accumulated in the order of the vocabulary, not of probability: among unlikely tokens that order turns with the last
    bit of a matrix product, and so with the size of the batch. In float64, since a float32 sum over a vocabulary is off
    by more than a rare token's probability.
    """
    import torch

    probabilities = logits.double().softmax(dim=-1)
    if top_p < 1:
        ordered = probabilities.sort(dim=-1, descending=True).values
        # A token is in the set where those before it do not yet hold top_p; the first always is.
        size = (ordered.cumsum(dim=-1) - ordered < top_p).sum(dim=-1, keepdim=True)
        least = ordered.gather(-1, size - 1)
        probabilities = probabilities.where(probabilities >= least, 0.0)
    cumulative = probabilities.cumsum(dim=-1)
    place = torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)
    return place.clamp(max=cumulative.shape[-1] - 1)
