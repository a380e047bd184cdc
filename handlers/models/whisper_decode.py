"""Whisper's answer about windows of sound: what is said, and in which language where it is not known.

Windows of several jobs share a batch: each row has its own language, task, prompt and seed.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handlers.models.whisper import Task, WhisperModel, stack


@dataclass(frozen=True, slots=True)
class DecodeSample:
    """One window to be written down."""

    mel: Any
    """Its spectrogram, of `whisper.spectrogram`."""
    language: str | None
    """What is spoken: one of the processor's `languages`; None: the likeliest, which is found out first."""
    task: Task
    prompt: tuple[int, ...]
    """What was said before, in tokens; `max_prompt` at most."""
    temperature: float
    """0: the likeliest token each time, or the likeliest text of `beam_size`; else sampled."""
    beam_size: int | None
    """Of no effect where it samples."""
    seed: tuple[int, int]
    """Two numbers of 0 .. 2^64 - 1 that name the window; of no effect at temperature 0."""

    @property
    def batch_key(self) -> Hashable:
        """What samples of one batch must have in common."""
        return (len(self.prompt), self.temperature, self.beam_size)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What was heard in a window."""

    tokens: tuple[int, ...]
    """Texts and timestamps, without the end token."""
    avg_logprob: float
    """Mean natural logarithm of the probability of the tokens, the end included."""
    no_speech_prob: float
    """How likely nobody speaks, 0 to 1."""
    temperature: float
    compression_ratio: float
    """How much shorter zlib makes the text: above 2.4 it repeats itself."""
    languages: Mapping[str, float] | None = None
    """How likely each language is, where the sample named none."""
    cut_off: bool = False
    """Whether there was no room for the rest of the text: its end was not reached."""

    @property
    def language(self) -> str | None:
        """The likeliest, in which the text is; None where the sample named it."""
        return None if self.languages is None else _likeliest(self.languages)


def decode(model: WhisperModel, samples: Sequence[DecodeSample]) -> list[Decoded | Exception]:
    """What is said in each window. All samples must have the same `batch_key`.

    A window's result is the same in any batch (up to the rounding of the device's matrix products), also where it is
    sampled: openai-whisper samples all rows from one generator, here a row has its own stream of uniform numbers
    (Philox, keyed by its seed) and takes one a token through the inverse of the cumulative distribution.
    A result that is not finite (float16 can overflow) is a FloatingPointError in its place.
    Raises ValueError where the keys differ.
    """
    import torch

    if not samples:
        return []
    if len({sample.batch_key for sample in samples}) > 1:
        raise ValueError("samples of one batch must have the same batch_key")
    task = _task(model, samples)
    with torch.inference_mode():
        found = task.run(stack(model, [sample.mel for sample in samples]))
    return [
        Decoded(
            tokens=tuple(each.tokens),
            avg_logprob=each.avg_logprob,
            no_speech_prob=each.no_speech_prob,
            temperature=each.temperature,
            compression_ratio=each.compression_ratio,
            languages=task.likely.get(row),
            cut_off=len(each.tokens) >= task.room,
        )
        if math.isfinite(each.avg_logprob) and math.isfinite(each.no_speech_prob)
        else FloatingPointError("the model gave a probability that is not finite")
        for row, each in enumerate(found)
    ]


def _task(model: WhisperModel, samples: Sequence[DecodeSample]) -> Any:
    """openai-whisper's `DecodingTask`, with a beginning and a seed for each row."""
    import torch
    from whisper.decoding import DecodingOptions, DecodingTask, GreedyDecoder, detect_language

    first = samples[0]
    sampled = first.temperature > 0

    class Sampler(GreedyDecoder):
        """Draws each row's token from that row's own numbers."""

        def __init__(self, eot: int, begin: int, draws: Any) -> None:
            super().__init__(first.temperature, eot)
            self._begin = begin
            self._draws = draws

        def update(self, tokens: Any, logits: Any, sum_logprobs: Any) -> tuple[Any, bool]:
            # In float64: a float32 sum over the vocabulary is off by more than a rare token's probability.
            cumulative = (logits / self.temperature).double().softmax(dim=-1).cumsum(dim=-1)
            draws = self._draws[:, tokens.shape[-1] - self._begin, None].to(logits.device)
            chosen = torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)[:, 0]
            chosen = chosen.clamp(max=logits.shape[-1] - 1)
            ended = tokens[:, -1] == self.eot
            logs = logits.float().log_softmax(dim=-1).gather(-1, chosen[:, None])[:, 0]
            sum_logprobs += logs.where(~ended, 0.0)
            chosen = chosen.where(~ended, self.eot)
            tokens = torch.cat([tokens, chosen[:, None]], dim=-1)
            return tokens, bool((tokens[:, -1] == self.eot).all())

    class Rows(DecodingTask):
        def __init__(self) -> None:
            options = DecodingOptions(
                language=model.processor.languages[0],
                temperature=first.temperature,
                beam_size=None if sampled else first.beam_size,
                prompt=list(first.prompt),
            )
            super().__init__(model.network, options)
            #: Tokens that a text has at most: behind a long prompt the model's places end before `sample_len` does.
            self.room = min(self.sample_len, self.n_ctx + 1 - self.sample_begin)
            #: Of each row whose language was not named: how likely each is.
            self.likely: dict[int, dict[str, float]] = {}
            if sampled:
                draws = _draws([sample.seed for sample in samples], self.sample_len)
                self.decoder = Sampler(self.tokenizer.eot, self.sample_begin, draws)

        def _get_audio_features(self, mel: Any) -> Any:
            """For each row the sound as often as it has beams: the library leaves that out, and then takes one row."""
            return self.model.encoder(mel).repeat_interleave(self.n_group, dim=0)

        def _detect_language(self, audio_features: Any, tokens: Any) -> tuple[list[str], None]:
            """Where the rows' beginnings are written: (rows, tokens) on the CPU, in place."""
            unknown = [row for row, sample in enumerate(samples) if sample.language is None]
            if unknown:
                sound = audio_features[:: self.n_group][unknown]
                _, found = detect_language(self.model, sound, self.tokenizer)
                self.likely = dict(zip(unknown, found, strict=True))
            languages = []
            for row, sample in enumerate(samples):
                language = sample.language or _likeliest(self.likely[row])
                tokenizer = model.processor.tokenizer(language, sample.task)
                before = [tokenizer.sot_prev, *sample.prompt] if sample.prompt else []
                tokens[row] = torch.tensor([*before, *tokenizer.sot_sequence])
                languages.append(language)
            return languages, None

    return Rows()


def _likeliest(languages: Mapping[str, float]) -> str:
    return max(languages, key=lambda code: languages[code])


def _draws(seeds: Sequence[tuple[int, int]], count: int) -> Any:
    """`count` uniform numbers for each seed: a float64 tensor (seeds, count)."""
    import numpy
    import torch

    streams = (numpy.random.Generator(numpy.random.Philox(key=numpy.array(s, dtype=numpy.uint64))) for s in seeds)
    return torch.from_numpy(numpy.stack([stream.random(count) for stream in streams]))
