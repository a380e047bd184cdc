"""Sounds for tests: a voice that silero-vad takes for one, and what it must not take for one."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RATE = 16_000

#: First three formants of vowels, in Hz (Peterson and Barney, 1952, men).
_VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (570, 840, 2410), (530, 1840, 2480), (300, 870, 2240))


def speech(seconds: float, *, seed: int = 0) -> Any:
    """Syllables of a hiss and a vowel, four a second, sung through formants: float32, mono, 16 kHz."""
    import numpy

    random = numpy.random.default_rng(seed)
    parts: list[Any] = []
    total = round(seconds * RATE)
    while sum(map(len, parts)) < total:
        hiss = random.standard_normal(int(RATE * random.uniform(0.03, 0.08))) * 0.02
        length = int(RATE * random.uniform(0.14, 0.22))
        pitch = random.uniform(95, 140) * numpy.linspace(1.0, random.uniform(0.8, 1.2), length)
        phase = numpy.cumsum(pitch / RATE)
        source = numpy.diff(numpy.floor(phase), prepend=0.0) + random.standard_normal(length) * 0.004
        vowel = _VOWELS[random.integers(len(_VOWELS))]
        turned = numpy.exp(-2j * numpy.pi * numpy.fft.rfftfreq(length, 1 / RATE) / RATE)
        spectrum = numpy.fft.rfft(source)
        for formant, width in zip(vowel, (80, 100, 140), strict=True):
            pole = numpy.exp((-width + 2j * formant) * numpy.pi / RATE)
            spectrum = spectrum / ((1 - pole * turned) * (1 - pole.conjugate() * turned))
        sound = numpy.fft.irfft(spectrum, length)
        sound = sound / numpy.abs(sound).max() * numpy.hanning(length) ** 0.5 * random.uniform(0.25, 0.5)
        parts += [hiss, sound]
    return numpy.concatenate(parts)[:total].astype(numpy.float32)


def silence(seconds: float) -> Any:
    """Nothing."""
    import numpy

    return numpy.zeros(round(seconds * RATE), dtype=numpy.float32)


def music(seconds: float) -> Any:
    """A chord that swells."""
    import numpy

    t = numpy.arange(round(seconds * RATE)) / RATE
    chord = sum(numpy.sin(2 * numpy.pi * pitch * t) for pitch in (220.0, 277.2, 329.6, 440.0))
    return (chord * 0.1 * (0.6 + 0.4 * numpy.sin(2 * numpy.pi * 0.5 * t))).astype(numpy.float32)


def noise(seconds: float, *, seed: int = 0) -> Any:
    """White noise."""
    import numpy

    return (numpy.random.default_rng(seed).standard_normal(round(seconds * RATE)) * 0.1).astype(numpy.float32)


def encoded(path: Path, samples: Any, *options: str) -> Path:
    """The samples as a file, by ffmpeg; `options` stand before its name."""
    arguments: Sequence[str] = ["-f", "f32le", "-ar", str(RATE), "-ac", "1", "-i", "pipe:0", *options, str(path)]
    subprocess.run(
        ["ffmpeg", "-y", "-loglevel", "error", *arguments], input=samples.astype("<f4").tobytes(), check=True
    )
    return path
