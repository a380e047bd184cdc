"""What Whisper is taught from: many spoken sentences as spectrograms, made once, with the frames of each word.

Some went through a codec or a telephone's band before. Windows are put together of them (`whisper_windows`).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toyworld.world.speech import RATE, WORDS, Spoken, draw_manner, draw_sentence, speak
from toyworld.world.speech_codecs import Codec, coded

#: Bands of a spectrogram, samples between two frames of it, samples under a frame's window.
MELS, HOP, _SPAN = 80, 160, 400
#: Phonemes that are told apart, none among them.
SOUNDS = 96
#: log10 of the least power that Whisper tells from none.
SILENCE = -10.0
#: Samples of silence around a sentence.
_AROUND = 640
#: Sentences that go through a codec together, and the share of such groups.
_GROUP, _LOSSY = 100, 0.35


@dataclass(frozen=True, slots=True)
class Bank:
    """Sentences one behind the other."""

    #: float16 numpy (frames of all, MELS): log10 of the power, not yet scaled as Whisper wants it.
    frames: Any
    #: Where each sentence begins, and the end: int64 numpy (sentences + 1,).
    offsets: Any
    #: For each sentence indices into WORDS: int64 numpy (words,).
    words: tuple[Any, ...]
    #: For each sentence start and end of each word in seconds from its first frame: float32 numpy (words, 2).
    times: tuple[Any, ...]
    #: The phoneme that is said in each frame, counted from 1; 0 for none: int8 numpy (frames of all,).
    sounds: Any


def bank(path: Path, sentences: int, seed: str) -> Bank:
    """The bank in a file, or a new one, which is then kept there."""
    import numpy

    if path.exists():
        with numpy.load(path) as kept:
            if str(kept["seed"]) == seed and len(kept["offsets"]) == sentences + 1:
                ends = numpy.cumsum(kept["counts"])[:-1]
                return Bank(
                    kept["frames"],
                    kept["offsets"],
                    tuple(numpy.split(kept["words"], ends)),
                    tuple(numpy.split(kept["times"], ends)),
                    kept["sounds"],
                )
    made = spoken_bank(sentences, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"new.{path.name}")
    numpy.savez(
        beside,
        seed=seed,
        frames=made.frames,
        offsets=made.offsets,
        counts=[len(words) for words in made.words],
        words=numpy.concatenate(made.words),
        times=numpy.concatenate(made.times),
        sounds=made.sounds,
    )
    beside.replace(path)
    return made


def spoken_bank(sentences: int, seed: str) -> Bank:
    """A new one: sentences and manners that training may hear."""
    import numpy

    chance = random.Random(seed)
    frames, words, times, sounds = [], [], [], []
    names: dict[str, int] = {}
    for first in range(0, sentences, _GROUP):
        group = [speak(draw_sentence(chance), draw_manner(chance)) for _ in range(min(_GROUP, sentences - first))]
        starts, sound = _laid_out(group, chance)
        if chance.random() < _LOSSY:
            sound = coded(sound, chance.choice(tuple(Codec)))
        for spoken, start in zip(group, starts, strict=True):
            begin = start - _AROUND
            frames.append(powers(sound[begin : start + len(spoken.samples) + _AROUND]).astype(numpy.float16))
            words.append(numpy.array([WORDS.index(word.text) for word in spoken.words]))
            bounds = numpy.array([(word.start_s, word.end_s) for word in spoken.words], dtype=numpy.float32)
            times.append(bounds + numpy.float32(_AROUND / RATE))
            sounds.append(_phonemes(spoken, len(frames[-1]), names))
        if first // _GROUP % 10 == 9:
            sys.stderr.write(f"bank: {first + len(group)} of {sentences} sentences\n")
    offsets = numpy.cumsum([0, *map(len, frames)])
    return Bank(numpy.concatenate(frames), offsets, tuple(words), tuple(times), numpy.concatenate(sounds))


def _phonemes(spoken: Spoken, frames: int, names: dict[str, int]) -> Any:
    """The number of the phoneme in each frame: int8 numpy (frames,). New ones are added to `names`."""
    import numpy

    heard = numpy.zeros(frames, dtype=numpy.int8)
    for phoneme in spoken.sounds:
        start, end = (round((at * RATE + _AROUND) / HOP) for at in (phoneme.start_s, phoneme.end_s))
        heard[start:end] = names.setdefault(phoneme.text, len(names) % (SOUNDS - 1) + 1)
    return heard


def _laid_out(group: Sequence[Spoken], chance: random.Random) -> tuple[list[int], Any]:
    """First samples of the sentences in one sound, and the sound: silence between them, of odd lengths."""
    import numpy

    starts, parts, at = [], [], 0
    for spoken in group:
        gap = 2 * _AROUND + chance.randrange(HOP)
        starts.append(at + gap)
        parts += [numpy.zeros(gap, dtype=numpy.float32), spoken.samples]
        at += gap + len(spoken.samples)
    return starts, numpy.concatenate([*parts, numpy.zeros(2 * _AROUND, dtype=numpy.float32)])


def powers(samples: Any) -> Any:
    """log10 of the power in each band and frame, as `whisper.log_mel_spectrogram` has it before it is scaled.

    float32 numpy (samples,) to (samples // HOP, MELS).
    """
    import torch
    from whisper.audio import mel_filters

    sound = torch.from_numpy(samples)
    window = torch.hann_window(_SPAN)
    spectrum = torch.stft(sound, _SPAN, HOP, window=window, return_complex=True)[..., :-1].abs() ** 2
    bands = mel_filters("cpu", MELS) @ spectrum
    return bands.clamp(min=10.0**SILENCE).log10().T.contiguous().numpy()
