"""What is said in a recording: heard block by block, written down window by window, many of them at a time."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import TaskGroup

from handlers.audio.listening import Listening
from handlers.audio.transcript import Line, in_recording, read, timed
from handlers.audio.voice import RATE
from handlers.audio.windows import Window
from handlers.declaration import Context
from handlers.models.whisper import Task, spectrogram
from handlers.models.whisper_decode import Decoded, DecodeSample, decode
from handlers.models.whisper_words import AlignSample, TimedWord, align, words

#: Windows of one job that are being written down at a time: a few megabytes each.
_AT_WORK = 16
#: The language is that of the first windows together.
_WINDOWS_OF_LANGUAGE = 4
#: A window whose text is cut off is decoded again from there, and so on, at most so often.
_MOST_PARTS = 30

#: Thresholds of openai-whisper. A text that zlib makes shorter by more than this repeats itself,
_REPETITIVE = 2.4
#: one less probable than this is a guess,
_GUESS = -1.0
#: and such a guess is silence where this is likelier.
_SILENT = 0.6


@dataclass(frozen=True, slots=True)
class Request:
    """How a recording is written down."""

    checkpoint: str
    language: str | None
    """None: found out."""
    task: Task
    prompt: tuple[int, ...]
    """Tokens that stand before every window."""
    temperatures: tuple[float, ...]
    """Tried one after the other until a window's text is neither repetitive nor a guess."""
    beam_size: int | None
    words: bool
    seed: int


@dataclass(frozen=True, slots=True)
class Word:
    """A word and when it is said, in seconds of the recording."""

    text: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A line and when it is said, in seconds of the recording."""

    start: float
    end: float
    #: With the space before it, where the language has one.
    text: str
    words: tuple[Word, ...]
    decoded: Decoded


@dataclass(slots=True)
class Speech:
    """What was heard."""

    language: str | None = None
    """None: nothing was said, and none was named."""
    language_probability: float | None = None
    """None: it was named, or nobody spoke."""
    speech_s: float = 0.0
    duration_s: float = 0.0
    segments: list[Segment] = field(default_factory=list)


async def hear(
    ctx: Context, sound: AsyncIterable[Any], listening: Listening, request: Request, *, expected_s: float
) -> Speech:
    """Writes down a recording that comes in blocks (float32 numpy, mono, 16 kHz), and says how far it is.

    However long it is, no more than a few windows are held: `sound` waits while they are at work. Raises a group of
    what `sound` and `Context.infer` raise.
    """
    hearing = _Hearing(ctx, listening, request, expected_s)
    samples = 0
    async with anyio.create_task_group() as group:
        async for block in sound:
            samples += len(block)
            listening.add(block)
            if listening.ready:
                for window in await ctx.cpu(listening.windows):
                    await hearing.take(group, window)
                hearing.tell()
        for window in await ctx.cpu(listening.finish):
            await hearing.take(group, window)
        await hearing.begin(group)
    speech = hearing.speech
    speech.duration_s = samples / RATE
    speech.segments = [segment for _, found in sorted(hearing.found.items()) for segment in found]
    return speech


@dataclass(slots=True)
class _Hearing:
    ctx: Context
    listening: Listening
    request: Request
    expected_s: float
    speech: Speech = field(default_factory=Speech)
    #: Segments by the number of their window.
    found: dict[int, list[Segment]] = field(default_factory=dict)
    #: Where windows begin that are not written down yet, by their numbers.
    open: dict[int, float] = field(default_factory=dict)
    #: Windows that wait for the language to be known.
    first: list[Window] = field(default_factory=list)
    places: anyio.Semaphore = field(default_factory=lambda: anyio.Semaphore(_AT_WORK))
    told: float = 0.0

    def __post_init__(self) -> None:
        self.speech.language = self.request.language

    async def take(self, group: TaskGroup, window: Window) -> None:
        """Has a window written down, as soon as there is a place."""
        self.speech.speech_s += window.speech_s
        self.open[window.number] = window.start_s
        if self.speech.language is not None:
            await self._start(group, window, self.speech.language)
            return
        self.first.append(window)
        if len(self.first) >= _WINDOWS_OF_LANGUAGE:
            await self.begin(group)

    async def begin(self, group: TaskGroup) -> None:
        """Finds out the language, and lets the windows go that waited for it.

        Windows in which nobody speaks say nothing about it: where all are such, the next ones are asked.
        """
        waiting, self.first = self.first, []
        begun = await _first(self.ctx, waiting, self.request)
        said = []
        for window, each in zip(waiting, begun, strict=True):
            if _is_silence(each):
                del self.open[window.number]
            else:
                said.append((window, each))
        if not said:
            return
        language, self.speech.language_probability = _likeliest(said)
        self.speech.language = language
        for window, each in said:
            await self._start(group, window, language, each if each.language == language else None)

    async def _start(self, group: TaskGroup, window: Window, language: str, begun: Decoded | None = None) -> None:
        await self.places.acquire()
        group.start_soon(self._write, window, language, begun)

    async def _write(self, window: Window, language: str, begun: Decoded | None) -> None:
        try:
            self.found[window.number] = await write(self.ctx, window, self.request, language, begun)
        finally:
            self.places.release()
        del self.open[window.number]
        self.tell()

    def tell(self) -> None:
        """Says how far it is: up to the first window that is not written down."""
        done_s = min(self.open.values(), default=self.listening.begun_s)
        self.told = max(self.told, done_s)
        self.ctx.progress(min(1.0, self.told / self.expected_s), f"{self.told:.0f} of {self.expected_s:.0f} s")


async def _first(ctx: Context, windows: Sequence[Window], request: Request) -> list[Decoded]:
    """Decodes windows at the first temperature, each in its likeliest language."""
    if not windows:
        return []
    mels = [await ctx.prepare(spectrogram, request.checkpoint, window.samples) for window in windows]
    samples = [_sample(mel, request, None, _seed(window), 0) for mel, window in zip(mels, windows, strict=True)]
    return await ctx.infer(decode, request.checkpoint, samples, key=samples[0].batch_key)


def _likeliest(begun: Sequence[tuple[Window, Decoded]]) -> tuple[str, float]:
    """The language of windows together, and how likely it is. Each window counts with the seconds of its speech."""
    weights = [max(window.speech_s, 0.01) for window, _ in begun]
    likely: dict[str, float] = {}
    for (_, decoded), weight in zip(begun, weights, strict=True):
        for code, probability in (decoded.languages or {}).items():
            likely[code] = likely.get(code, 0.0) + probability * weight / sum(weights)
    language = max(likely, key=lambda code: likely[code])
    return language, likely[language]


async def write(
    ctx: Context, window: Window, request: Request, language: str, begun: Decoded | None = None
) -> list[Segment]:
    """Segments of a window; none where it is silent. `begun`: what it says at the first temperature, where known."""
    segments: list[Segment] = []
    begins = 0.0
    for part in range(_MOST_PARTS):
        duration_s = window.duration_s - begins
        mel = await ctx.prepare(spectrogram, request.checkpoint, window.samples[round(begins * RATE) :])
        decoded = await _decoded(ctx, mel, request, language, _seed(window, part), begun)
        if _is_silence(decoded):
            break
        found = await ctx.prepare(read, request.checkpoint, decoded, duration_s, language, request.task)
        of_lines = await _words(ctx, mel, found.lines, duration_s, request, language)
        for line, said in zip(found.lines, of_lines, strict=True):
            segments.append(_segment(window, begins, line, said, decoded))
        if found.again_from_s is None:
            break
        begins += found.again_from_s
        begun = None
    return segments


async def _decoded(
    ctx: Context, mel: Any, request: Request, language: str, seed: int, begun: Decoded | None
) -> Decoded:
    """The text at the first temperature whose text is good, or at the last one."""
    decoded = begun
    for attempt in range(0 if begun is None else 1, len(request.temperatures)):
        if decoded is not None and is_good(decoded):
            break
        sample = _sample(mel, request, language, seed, attempt)
        [decoded] = await ctx.infer(decode, request.checkpoint, [sample], key=sample.batch_key)
    assert decoded is not None
    return decoded


def _sample(mel: Any, request: Request, language: str | None, seed: int, attempt: int) -> DecodeSample:
    temperature = request.temperatures[attempt]
    return DecodeSample(
        mel=mel,
        language=language,
        task=request.task,
        prompt=request.prompt,
        temperature=temperature,
        beam_size=request.beam_size if temperature == 0 else None,
        seed=(request.seed, seed + attempt),
    )


def _seed(window: Window, part: int = 0) -> int:
    """A number of its own for each attempt at each part of each window."""
    return window.number << 16 | part << 8


def is_good(decoded: Decoded) -> bool:
    """Whether a text needs no other attempt: neither repetitive nor a guess, or silence."""
    if _is_silence(decoded):
        return True
    return decoded.compression_ratio <= _REPETITIVE and decoded.avg_logprob >= _GUESS


def _is_silence(decoded: Decoded) -> bool:
    return decoded.no_speech_prob > _SILENT and decoded.avg_logprob <= _GUESS


async def _words(
    ctx: Context, mel: Any, lines: Sequence[Line], duration_s: float, request: Request, language: str
) -> list[list[TimedWord]]:
    if not request.words or not lines:
        return [[] for _ in lines]
    tokens = tuple(token for line in lines for token in line.tokens)
    sample = AlignSample(mel, tokens, duration_s, language, request.task)
    [alignment] = await ctx.infer(align, request.checkpoint, [sample])
    return timed(lines, await ctx.prepare(words, request.checkpoint, sample, alignment))


def _segment(window: Window, begins: float, line: Line, timed_words: Sequence[TimedWord], decoded: Decoded) -> Segment:
    start, end = in_recording(window, begins + line.start_s, begins + line.end_s)
    said = []
    for word in timed_words:
        word_start, word_end = in_recording(window, begins + word.start_s, begins + word.end_s)
        word_start = min(max(word_start, start), end)
        said.append(Word(word.text, word_start, min(max(word_end, word_start), end), round(word.probability, 4)))
    return Segment(start, end, line.text, tuple(said), decoded)
