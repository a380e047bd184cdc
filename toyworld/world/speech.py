"""Sentences of the toy world, spoken by espeak-ng, with the moments at which each word is said.

A sentence is two to eight words out of 24: digits, colours, shapes, in any order. Every word is one token of Whisper.
"""

from __future__ import annotations

import ctypes
import random
import threading
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from toyworld.world.scenes import Colour, Shape

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS: tuple[str, ...] = (*DIGITS, *(colour.value for colour in Colour), *(shape.value for shape in Shape))
#: Names of espeak-ng: an accent, and after the plus sign who speaks. `en` is that of Great Britain.
VOICES = ("en-us", "en", "en-us+f2", "en+m3", "en-us+m7", "en-gb-x-rp+f4", "en+f3", "en-gb-x-rp")
#: Samples a second of what `speak` gives: mono, as Whisper takes it.
RATE = 16_000

#: Words a minute, and espeak-ng's 0 to 99: what is drawn for training are multiples of the step, for judging none are.
_SPEEDS, _SPEED_STEP = (120, 200), 10
_PITCHES, _PITCH_STEP = (30, 70), 5
#: One sentence of so many is kept for judging.
_KEPT = 8

Sentence = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manner:
    """Who speaks, and how."""

    voice: str
    words_per_minute: int
    pitch: int
    """0 to 99."""


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word and when it is said, in seconds."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Spoken:
    """A sentence as sound."""

    samples: Any
    """float32 numpy, mono, 16 kHz, at most 1."""
    words: tuple[SpokenWord, ...]
    sounds: tuple[SpokenWord, ...]
    """What the words are made of, by espeak-ng's names of phonemes; a pause is none."""


def draw_sentence(chance: random.Random, *, kept: bool = False) -> Sentence:
    """Two to eight words; `kept`: one of those that no training sees, else one of the others."""
    while True:
        sentence: Sentence = tuple(chance.choice(WORDS) for _ in range(chance.randint(2, 8)))
        if is_kept(sentence) == kept:
            return sentence


def is_kept(sentence: Sentence) -> bool:
    """Whether a sentence is one of those that are kept for judging: one of eight, by its words alone."""
    return zlib.crc32(" ".join(sentence).encode()) % _KEPT == 0


def draw_manner(chance: random.Random, *, kept: bool = False) -> Manner:
    """Any voice; `kept`: with a speed and a pitch that no training hears, else with others."""
    return Manner(
        chance.choice(VOICES),
        _between(chance, *_SPEEDS, _SPEED_STEP, kept=kept),
        _between(chance, *_PITCHES, _PITCH_STEP, kept=kept),
    )


def _between(chance: random.Random, least: int, most: int, step: int, *, kept: bool) -> int:
    if not kept:
        return chance.randrange(least, most + 1, step)
    return chance.choice([number for number in range(least, most) if number % step])


def speak(sentence: Sentence, manner: Manner) -> Spoken:
    """Says a sentence. The times are those that espeak-ng itself states, to the sample.

    Raises OSError where libespeak-ng is not installed, ValueError for a voice that it does not have.
    """
    import numpy

    said = _espeak().say(" ".join(sentence), manner)
    phonemes = [(at, name) for kind, at, name in said.events if kind == _PHONEME]
    ends = [at for at, _ in phonemes[1:]] + [len(said.samples)]
    sounds = [
        SpokenWord(name, at / said.rate, end / said.rate)
        for (at, name), end in zip(phonemes, ends, strict=True)
        if not name.startswith("_")
    ]
    bounds = _bounds(said, len(sentence))
    words = [
        SpokenWord(word, start / said.rate, end / said.rate)
        for word, (start, end) in zip(sentence, bounds, strict=True)
    ]
    samples = _resampled(said.samples.astype(numpy.float64) / 32768.0, said.rate)
    return Spoken(samples, tuple(words), tuple(sounds))


def _bounds(said: _Said, count: int) -> list[tuple[int, int]]:
    """First samples of the words, and where they end: with the next word, or with the pause before it."""
    sounds = sorted(at for kind, at, name in said.events if kind == _PHONEME and not name.startswith("_"))
    pauses = [at for kind, at, name in said.events if kind == _PHONEME and name.startswith("_")]
    # espeak-ng may state the first word twice, and one more behind the last sound.
    stated = sorted({at for kind, at, _ in said.events if kind == _WORD and at <= sounds[-1]})
    if len(stated) != count:
        raise ValueError(f"espeak-ng tells of {len(stated)} words where {count} were said")
    # A word begins with its first sound, and not in the pause before it.
    starts = [min(at for at in sounds if at >= start) for start in stated]
    stops = sorted([*starts[1:], *pauses, len(said.samples)])
    return [(start, min(stop for stop in stops if stop > start)) for start in starts]


def _resampled(samples: Any, rate: int) -> Any:
    """From `rate` to 16 kHz, by leaving out what is above 8 kHz of the spectrum. float64 in, float32 out."""
    import numpy

    # A whole number of hundredths of a second has a whole number of samples at either rate.
    hundredth = rate // 100
    padded = numpy.pad(samples, (0, -len(samples) % hundredth))
    length = len(padded) // hundredth * (RATE // 100)
    spectrum = numpy.fft.rfft(padded)[: length // 2 + 1]
    return numpy.clip(numpy.fft.irfft(spectrum, length) * (length / len(padded)), -1.0, 1.0).astype(numpy.float32)


# --- libespeak-ng (speak_lib.h) --------------------------------------------------------------------------------------

_WORD, _PHONEME = 1, 7
_SYNCHRONOUS, _PHONEME_EVENTS, _DO_NOT_EXIT = 2, 0x0001, 0x8000
_RATE, _PITCH = 1, 3
_POSITION_CHARACTER, _UTF8 = 1, 1


@dataclass(frozen=True, slots=True)
class _Said:
    #: int16 numpy, mono.
    samples: Any
    rate: int
    #: Kind, sample, name of a phoneme.
    events: tuple[tuple[int, int, str], ...]


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event), use_errno=False
)


class _Espeak:
    """The library, which keeps its state for the whole process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libespeak-ng.so.1")
        self._turn = threading.Lock()
        options = _PHONEME_EVENTS | _DO_NOT_EXIT
        self._rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, options)
        if self._rate <= 0:
            raise OSError("libespeak-ng does not find its data: install espeak-ng-data")
        self._chunks: list[Any] = []
        self._events: list[tuple[int, int, str]] = []
        # Kept: the library holds the pointer alone.
        self._callback = _CALLBACK(self._take)
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, manner: Manner) -> _Said:
        import numpy

        with self._turn:
            self._chunks, self._events = [], []
            if self._library.espeak_SetVoiceByName(manner.voice.encode()) != 0:
                raise ValueError(f"espeak-ng has no voice {manner.voice!r}")
            self._library.espeak_SetParameter(_RATE, manner.words_per_minute, 0)
            self._library.espeak_SetParameter(_PITCH, manner.pitch, 0)
            content = text.encode()
            self._library.espeak_Synth(content, len(content) + 1, 0, _POSITION_CHARACTER, 0, _UTF8, None, None)
            return _Said(numpy.concatenate(self._chunks), self._rate, tuple(self._events))

    def _take(self, samples: Any, count: int, events: Any) -> int:
        import numpy

        if samples and count > 0:
            self._chunks.append(numpy.ctypeslib.as_array(samples, (count,)).copy())
        for i in range(1 << 16):
            event = events[i]
            if event.type == 0:
                break
            name = event.id.string.decode("utf-8", "replace") if event.type == _PHONEME else ""
            self._events.append((event.type, event.sample, name))
        return 0


@cache
def _espeak() -> _Espeak:
    return _Espeak()
