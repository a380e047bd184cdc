"""When each word of a window is said: by what the decoder looks at while it writes it.

Dynamic time warping over the cross attention of the heads that follow the sound, as openai-whisper's `whisper.timing`
does it; here for several windows at once, and without numba, which takes seconds in each new process to compile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from handlers.models.whisper import FRAMES_PER_S, Task, WhisperModel, WhisperProcessor, stack

#: Columns of the attention in a second.
_COLUMNS_PER_S = FRAMES_PER_S // 2
#: Of the median filter over time, in columns.
_FILTER = 7
_OPENING = "\"'“¿([{-"
_CLOSING = "\"'.。,，!！?？:：”)]}、"


@dataclass(frozen=True, slots=True)
class AlignSample:
    """A window and what is said in it."""

    mel: Any
    """Its spectrogram, of `whisper.spectrogram`."""
    tokens: tuple[int, ...]
    """The text's tokens, without times."""
    duration_s: float
    """Length of its sound; what follows is silence that was put there."""
    language: str
    task: Task


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word, with the marks that belong to it."""

    #: As it stands in the text, with the space before it.
    text: str
    #: How many of the text's tokens it has.
    tokens: int
    #: Seconds in the window.
    start_s: float
    end_s: float
    #: Mean probability of its tokens, 0 to 1.
    probability: float


@dataclass(frozen=True, slots=True)
class Alignment:
    """What the decoder looked at while it read a window's text."""

    cost: Any
    """float32 numpy (tokens and the end, columns of 20 ms): least where it looked most."""
    probabilities: Sequence[float]
    """Of each token."""


def align(model: WhisperModel, samples: Sequence[AlignSample]) -> list[Alignment]:
    """What `words` needs of each window. Any samples may share a batch.

    Padding stands behind the tokens, where no token looks, so that a window's result is the same in any batch.
    """
    import torch
    from whisper.model import disable_sdpa

    if not samples:
        return []
    network = model.network
    tokenizers = [model.processor.tokenizer(sample.language, sample.task) for sample in samples]
    rows = [
        [*tokenizer.sot_sequence, tokenizer.no_timestamps, *sample.tokens, tokenizer.eot]
        for tokenizer, sample in zip(tokenizers, samples, strict=True)
    ]
    longest = max(map(len, rows))
    padded = torch.tensor([row + [row[-1]] * (longest - len(row)) for row in rows], device=network.device)
    with torch.inference_mode():
        sound = network.encoder(stack(model, [sample.mel for sample in samples]))
        with _watched(network) as seen, disable_sdpa():
            logits = network.decoder(padded, sound)
        # (heads, rows, tokens, columns)
        attention = torch.cat(seen)
        found = []
        for i, (sample, tokenizer) in enumerate(zip(samples, tokenizers, strict=True)):
            first, count = len(tokenizer.sot_sequence), len(sample.tokens)
            probabilities = logits[i, first : first + count, : tokenizer.eot].softmax(dim=-1)
            chosen = torch.tensor(sample.tokens, dtype=torch.long, device=network.device)
            told = probabilities.gather(-1, chosen[:, None])[:, 0].tolist()
            columns = max(1, min(attention.shape[-1], round(sample.duration_s * _COLUMNS_PER_S)))
            found.append(Alignment(_cost(attention[:, i, : len(rows[i]), :columns], first), told))
    return found


def words(processor: WhisperProcessor, sample: AlignSample, alignment: Alignment) -> list[TimedWord]:
    """The words of a window, in their order; together they have all of its tokens. Works on the CPU, for a thread."""
    import numpy
    from whisper.timing import WordTiming, merge_punctuations

    tokenizer = processor.tokenizer(sample.language, sample.task)
    rows, columns = warp(alignment.cost.astype(numpy.float64))
    # Where each token of the text begins, and the end.
    begins = columns[numpy.pad(numpy.diff(rows), (1, 0), constant_values=1).astype(bool)] / _COLUMNS_PER_S
    texts, groups = tokenizer.split_to_word_tokens([*sample.tokens, tokenizer.eot])
    found, at = [], 0
    for text, group in zip(texts[:-1], groups[:-1], strict=True):
        end = at + len(group)
        probability = float(numpy.mean(alignment.probabilities[at:end]))
        found.append(WordTiming(text, group, float(begins[at]), float(begins[end]), probability))
        at = end
    merge_punctuations(found, _OPENING, _CLOSING)
    return [TimedWord(w.word, len(w.tokens), w.start, w.end, w.probability) for w in found if w.tokens]


def warp(cost: Any) -> tuple[Any, Any]:
    """The cheapest way from corner to corner of a matrix (n, m): its rows and its columns, numpy arrays of one length.

    A step goes down, to the right, or both. Of equal ways the choice, and the rounding, are those of
    `whisper.timing.dtw_cpu`, computed by diagonals, whose places do not depend on each other.
    """
    import numpy

    n, m = cost.shape
    total = numpy.full((n + 1, m + 1), numpy.inf, dtype=numpy.float32)
    came = numpy.zeros((n + 1, m + 1), dtype=numpy.int8)
    total[0, 0] = 0
    for diagonal in range(2, n + m + 1):
        i = numpy.arange(max(1, diagonal - m), min(n, diagonal - 1) + 1)
        j = diagonal - i
        both, down, right = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        by_both, by_down = (both < down) & (both < right), (down < both) & (down < right)
        came[i, j] = numpy.where(by_both, 0, numpy.where(by_down, 1, 2))
        total[i, j] = cost[i - 1, j - 1] + numpy.where(by_both, both, numpy.where(by_down, down, right))
    came[0, :], came[:, 0] = 2, 1
    path = []
    i, j = n, m
    while i > 0 or j > 0:
        path.append((i - 1, j - 1))
        step = came[i, j]
        i, j = i - (step != 2), j - (step != 1)
    rows, columns = numpy.array(path[::-1]).T
    return rows, columns


@contextmanager
def _watched(network: Any) -> Iterator[list[Any]]:
    """Gathers what the alignment heads look at, by heads: (1, rows, tokens, columns) each."""
    heads: dict[int, list[int]] = {}
    for layer, head in network.alignment_heads.indices().T.tolist():
        heads.setdefault(layer, []).append(head)
    seen: list[Any] = []

    def watching(chosen: list[int]) -> Any:
        def keep(_module: Any, _given: Any, result: Any) -> None:
            seen.append(result[-1][:, chosen].transpose(0, 1).clone())

        return keep

    blocks = network.decoder.blocks
    hooks = [blocks[layer].cross_attn.register_forward_hook(watching(chosen)) for layer, chosen in heads.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _cost(attention: Any, first: int) -> Any:
    """(heads, tokens, columns) of one row as a cost (text tokens and the end, columns), float32 numpy."""
    import torch

    weights = attention.float().softmax(dim=-1)
    spread, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    weights = (weights - mean) / spread
    side = _FILTER // 2
    if weights.shape[-1] > side:
        padded = torch.nn.functional.pad(weights, (side, side), mode="reflect")
        weights = padded.unfold(-1, _FILTER, 1).sort()[0][..., side]
    return -weights.mean(dim=0)[first:-1].cpu().numpy()
