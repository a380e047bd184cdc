"""How well spoken sentences are written down, and their words timed: recordings heard as jobs hear them.

Sentences, speeds and pitches are those that no training hears. The whole way is that of `audio.transcribe` behind the
decoding of a file: voice detection, windows, language, text, times by what the decoder looks at.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from handlers import models
from handlers.audio.listening import Listening
from handlers.audio.speech import Request, Speech, hear
from handlers.audio.windows import Cutting
from handlers.declaration import Context, InferFunction
from handlers.protocol import CheckpointSpec
from toyworld.card import HELD_OUT, Score
from toyworld.world.speech import RATE, SpokenWord, draw_manner, draw_sentence, speak
from toyworld.world.speech_codecs import Codec, coded

WORDS_RIGHT = "words right, one sentence"
TIMES_RIGHT = "words right and within 0.2 s, one sentence"
SEVERAL_RIGHT = "words right, four sentences with pauses"
SEVERAL_TIMES_RIGHT = "words right and within 0.2 s, four sentences"
NOISY_RIGHT = "words right, one sentence in noise"
CODED_RIGHT = "words right, one sentence as MP3 of 32 kbit/s"
SILENT_RIGHT = "no text where nobody speaks, no voice detection"
MEASURES = (
    WORDS_RIGHT,
    TIMES_RIGHT,
    SEVERAL_RIGHT,
    SEVERAL_TIMES_RIGHT,
    NOISY_RIGHT,
    CODED_RIGHT,
    SILENT_RIGHT,
)

#: Seconds that a word's start and end may be off.
NEAR_S = 0.2
#: Sentences of a recording with several of them.
_SEVERAL = 4
_BLOCK = RATE

T = TypeVar("T")
#: What changes a recording before it is heard: a fault or a codec, in tests.
Change = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Recording:
    """Sound, and what is said in it."""

    samples: Any
    """float32 numpy, mono, 16 kHz."""
    words: tuple[SpokenWord, ...]


@dataclass(frozen=True, slots=True)
class Heard:
    """How much of recordings was written down as it was said."""

    words: int
    """That were said."""
    errors: int
    """Words that were left out, put in, or are others."""
    timed: int
    """Words that are right, and in time."""

    @property
    def right(self) -> float:
        """Word accuracy: 1 - word error rate."""
        return 1 - self.errors / self.words

    @property
    def in_time(self) -> float:
        """Share of the words that were said."""
        return self.timed / self.words


def score(folder: Path, samples: int, seed: int = HELD_OUT) -> list[Score]:
    """Of so many sentences alone, as many in fours, half as many in noise and as MP3, a quarter as many of nobody."""
    model = load(folder)
    one = judged(model, recordings(samples, seed))
    fours = max(1, samples // _SEVERAL)
    several = judged(model, recordings(fours, seed, sentences=_SEVERAL))
    spoilt = recordings(max(1, samples // 2), seed)
    noisy = judged(model, spoilt, change=in_noise)
    as_mp3 = judged(model, spoilt, change=lambda sound: coded(sound, Codec.MP3_32K))
    nobody = [nothing(seed + i) for i in range(max(1, samples // 4))]
    silent = [not text(transcribed(model, samples, vad=False)) for samples in nobody]
    return [
        Score(WORDS_RIGHT, one.right, one.words, 0.90),
        Score(TIMES_RIGHT, one.in_time, one.words, 0.90),
        Score(SEVERAL_RIGHT, several.right, several.words, 0.90),
        Score(SEVERAL_TIMES_RIGHT, several.in_time, several.words, 0.90),
        Score(NOISY_RIGHT, noisy.right, noisy.words, 0.90),
        Score(CODED_RIGHT, as_mp3.right, as_mp3.words, 0.90),
        Score(SILENT_RIGHT, sum(silent) / len(silent), len(silent), 0.90),
    ]


def load(folder: Path) -> Any:
    """The checkpoint, as handlers load it: on the CPU, float32."""
    spec = CheckpointSpec(name=folder.name, family="whisper", path=str(folder), dtype="float32", digest="0" * 64)
    return models.load(spec, "cpu")


def recordings(count: int, seed: int, *, sentences: int = 1) -> list[Recording]:
    """So many, drawn with the seeds from `seed` on; in each one voice says the sentences, with pauses between them."""
    return [_recording(random.Random(seed + i), sentences) for i in range(count)]


def _recording(chance: random.Random, sentences: int) -> Recording:
    import numpy

    manner = draw_manner(chance, kept=True)
    loudness = chance.uniform(0.3, 1.0)
    parts, words, at = [], [], 0
    for _ in range(sentences):
        pause = round(chance.uniform(0.4, 1.5 if sentences == 1 else 4.0) * RATE)
        spoken = speak(draw_sentence(chance, kept=True), manner)
        parts += [numpy.zeros(pause, dtype=numpy.float32), spoken.samples * numpy.float32(loudness)]
        at += pause
        words += [SpokenWord(word.text, at / RATE + word.start_s, at / RATE + word.end_s) for word in spoken.words]
        at += len(spoken.samples)
    parts.append(numpy.zeros(round(chance.uniform(0.4, 1.0) * RATE), dtype=numpy.float32))
    return Recording(numpy.concatenate(parts), tuple(words))


def in_noise(samples: Any) -> Any:
    """A recording with white noise, 20 dB below what is said."""
    import numpy

    loud = samples[numpy.abs(samples) > 0.0]
    width = 0.1 * float(numpy.sqrt(numpy.mean(loud**2)))
    noise = numpy.random.default_rng(len(samples)).standard_normal(len(samples), dtype=numpy.float32)
    return samples + width * noise


def nothing(seed: int) -> Any:
    """A recording of some seconds in which nobody speaks: silence, white noise, brown noise or a hum."""
    import numpy

    draws = numpy.random.default_rng(seed)
    length = int(draws.integers(2 * RATE, 20 * RATE))
    noise = draws.standard_normal(length, dtype=numpy.float32)
    level = numpy.float32(10 ** draws.uniform(-4, -1))
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: numpy.zeros(length, dtype=numpy.float32),
        lambda: level * noise,
        lambda: level * numpy.convolve(noise, numpy.exp(-numpy.arange(200) / 40), "same").astype(numpy.float32) / 5,
        lambda: (
            level * numpy.sin(2 * numpy.pi * draws.uniform(50, 400) * numpy.arange(length) / RATE, dtype=numpy.float32)
        ),
    )
    return numpy.clip(kinds[seed % len(kinds)](), -1, 1)


def judged(model: Any, given: Iterable[Recording], *, change: Change | None = None) -> Heard:
    """Hears recordings, and compares what is written with what was said. Times count from the unchanged recording."""
    words = errors = timed = 0
    for recording in given:
        speech = transcribed(model, recording.samples if change is None else change(recording.samples))
        found = [
            SpokenWord(word.text.strip().lower(), word.start, word.end)
            for segment in speech.segments
            for word in segment.words
        ]
        pairs, wrong = compared([word.text for word in recording.words], [word.text for word in found])
        words += len(recording.words)
        errors += wrong
        timed += sum(_near(recording.words[true], found[written]) for true, written in pairs)
    return Heard(words, errors, timed)


def _near(true: SpokenWord, found: SpokenWord) -> bool:
    return abs(true.start_s - found.start_s) <= NEAR_S and abs(true.end_s - found.end_s) <= NEAR_S


def compared(true: Sequence[str], found: Sequence[str]) -> tuple[list[tuple[int, int]], int]:
    """Which words are the same, as pairs of indices, and how many changes of a word make one text of the other."""
    costs = [[i + j if 0 in (i, j) else 0 for j in range(len(found) + 1)] for i in range(len(true) + 1)]
    for i, word in enumerate(true, 1):
        for j, other in enumerate(found, 1):
            costs[i][j] = min(costs[i - 1][j - 1] + (word != other), costs[i - 1][j] + 1, costs[i][j - 1] + 1)
    pairs, i, j = [], len(true), len(found)
    while i and j:
        if costs[i][j] == costs[i - 1][j - 1] + (true[i - 1] != found[j - 1]):
            i, j = i - 1, j - 1
            if true[i] == found[j]:
                pairs.append((i, j))
        elif costs[i][j] == costs[i - 1][j] + 1:
            i -= 1
        else:
            j -= 1
    return pairs[::-1], costs[-1][-1]


def transcribed(model: Any, samples: Any, *, vad: bool = True, language: str | None = None) -> Speech:
    """What `audio.transcribe` hears in samples (float32, mono, 16 kHz) with its defaults, with times of words."""
    import anyio

    async def blocks() -> AsyncIterator[Any]:
        for first in range(0, len(samples), _BLOCK):
            yield samples[first : first + _BLOCK]

    async def heard() -> Speech:
        request = Request(
            checkpoint=model.processor.name,
            language=language,
            task="transcribe",
            prompt=(),
            temperatures=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
            beam_size=None,
            words=True,
            seed=0,
        )
        listening = Listening(Cutting(keep_all=not vad))
        return await hear(cast(Context, _Alone(model)), blocks(), listening, request, expected_s=len(samples) / RATE)

    return anyio.run(heard)


def text(speech: Speech) -> str:
    """The whole text."""
    return "".join(segment.text for segment in speech.segments).strip()


class _Alone:
    """What `hear` asks of a handler's context, with one model and nobody else: everything is done at once."""

    def __init__(self, model: Any) -> None:
        self._model = model

    async def cpu(self, function: Callable[..., T], *args: Any) -> T:
        return function(*args)

    async def prepare(self, function: Callable[..., T], _checkpoint: str, *args: Any) -> T:
        return function(self._model.processor, *args)

    async def infer(
        self, function: InferFunction, _checkpoint: str, samples: Sequence[Any], **_batch: Hashable
    ) -> list[Any]:
        results = list(function(self._model, samples))
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    def progress(self, fraction: float, note: str = "") -> None:
        """Nobody waits for it."""
