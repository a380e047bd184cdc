"""A recording cut into windows of speech, as it comes: each as long as the model takes, none cut inside of a word.

What is no speech is left out. The pieces that stay are put together until a window is full, so that ten short sentences
with minutes between them need one window; `Window.start_of` and `Window.end_of` say where in the recording a moment
of the window is. No more than one window and the pause after it is held, however long the recording is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from handlers.audio.voice import FRAME, RATE


@dataclass(frozen=True, slots=True)
class Cutting:
    """How it is cut; lengths in frames of 32 ms."""

    #: Longest window: 30 s, rounded down.
    most: int = 30 * RATE // FRAME
    #: Speech begins where the probability is at least `begins`, and ends where it falls below `ends`.
    begins: float = 0.5
    ends: float = 0.35
    #: Less speech than this (256 ms) between two pauses is a noise.
    least_speech: int = 8
    #: A pause as long as this (2 s) is left out.
    pause: int = 2 * RATE // FRAME
    #: Kept before and after speech (416 ms): soft beginnings and ends are below the threshold.
    margin: int = 13
    #: Where a full window is cut: at the longest pause within its last 10 s.
    tail: int = 10 * RATE // FRAME
    #: Whether nothing is left out: pauses then only decide where it is cut.
    keep_all: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """Samples `start` up to `end` of the recording."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Window:
    """Speech for the model: one or more pieces of the recording, one behind the other."""

    #: Counted from 0.
    number: int
    pieces: tuple[Piece, ...]
    #: float32 numpy, mono, 16 kHz.
    samples: Any
    #: Seconds of it in which somebody speaks.
    speech_s: float

    @property
    def duration_s(self) -> float:
        """Its length in seconds."""
        return sum(piece.end - piece.start for piece in self.pieces) / RATE

    @property
    def start_s(self) -> float:
        """Where in the recording it begins, in seconds."""
        return self.pieces[0].start / RATE

    def end_of(self, seconds: float) -> float:
        """Where in the recording something ends that ends at `seconds` of the window.

        Between two pieces it is the end of the first.
        """
        left = max(0.0, seconds) * RATE
        for piece in self.pieces:
            if left <= piece.end - piece.start:
                return (piece.start + left) / RATE
            left -= piece.end - piece.start
        return self.pieces[-1].end / RATE

    def start_of(self, seconds: float) -> float:
        """Where in the recording something begins that begins at `seconds` of the window.

        Between two pieces it is the beginning of the second.
        """
        left = max(0.0, seconds) * RATE
        for piece in self.pieces:
            if left < piece.end - piece.start:
                return (piece.start + left) / RATE
            left -= piece.end - piece.start
        return self.pieces[-1].end / RATE


@dataclass(frozen=True, slots=True)
class _Frame:
    number: int
    #: Shorter at the end of the recording alone.
    samples: Any
    probability: float
    speech: bool


@dataclass(slots=True)
class Cutter:
    """Takes a recording frame by frame and gives windows as they become full. Holds at most `most` + `pause` frames."""

    cutting: Cutting = field(default_factory=Cutting)
    #: The window that is being filled.
    _kept: list[_Frame] = field(default_factory=list)
    #: The last frames that were not kept, a margin of them: what there is before speech.
    _before: deque[_Frame] = field(init=False)
    #: Where in `_kept` the stretch of speech begins that has not ended yet.
    _stretch: int | None = None
    #: Frames of speech in that stretch, those that were given already among them.
    _spoken: int = 0
    #: Frames since the last of speech.
    _silent: int = 0
    _speaking: bool = False
    _frames: int = 0
    _windows: int = 0

    def __post_init__(self) -> None:
        self._before = deque(maxlen=self.cutting.margin)

    @property
    def held(self) -> int:
        """How many frames are held."""
        return len(self._kept) + len(self._before)

    @property
    def begun_s(self) -> float:
        """The second of the recording before which everything was given, or left out."""
        first = self._kept[0].number if self._kept else self._frames
        return first * FRAME / RATE

    def push(self, samples: Any, probabilities: Any) -> Iterator[Window]:
        """Takes the next frames: samples (n * FRAME, at the end of the recording fewer) and their n probabilities."""
        for i, probability in enumerate(probabilities):
            yield from self._take(samples[i * FRAME : (i + 1) * FRAME], float(probability))

    def finish(self) -> Iterator[Window]:
        """The rest, at the end of the recording."""
        self._end_stretch()
        if self._kept:
            yield from self._window(len(self._kept))

    def _take(self, samples: Any, probability: float) -> Iterator[Window]:
        cutting = self.cutting
        self._speaking = probability >= (cutting.ends if self._speaking else cutting.begins)
        frame = _Frame(self._frames, samples, probability, self._speaking)
        self._frames += 1
        self._silent = 0 if frame.speech else self._silent + 1
        self._spoken += frame.speech
        if self._stretch is None and (frame.speech or cutting.keep_all):
            self._stretch = len(self._kept)
            self._kept += self._before
            self._before.clear()
        if self._stretch is None:
            self._before.append(frame)
            return
        self._kept.append(frame)
        if self._silent >= cutting.pause and not cutting.keep_all:
            self._end_stretch()
        while len(self._kept) >= cutting.most:
            yield from self._window(self._best_cut())

    def _end_stretch(self) -> None:
        """Drops what follows the margin behind the last speech, and a stretch with too little speech as a whole."""
        if self._stretch is None or self.cutting.keep_all:
            return
        length, margin = len(self._kept) - self._stretch, self.cutting.margin
        noise = self._spoken < self.cutting.least_speech
        first = len(self._kept) - (length if noise else max(0, min(length, self._silent - margin)))
        dropped = self._kept[first:]
        del self._kept[first:]
        self._before = deque(dropped, maxlen=margin)
        self._stretch, self._spoken = None, 0

    def _best_cut(self) -> int:
        """How many frames of a full window are given: up to the middle of the longest pause near its end.

        Where nobody pauses it is the frame that sounds least like speech, and a word may be cut.
        """
        kept, cutting = self._kept, self.cutting
        first = max(1, cutting.most - cutting.tail)
        best, best_length, run = 0, 0, 0
        for i in range(first, cutting.most):
            run = 0 if kept[i].speech else run + 1
            if run and run >= best_length:
                best, best_length = i - run // 2, run
        if best:
            return best
        last = max(first, cutting.most - cutting.tail // 2)
        # Of several that are alike the last one.
        return min(range(last, cutting.most), key=lambda i: (kept[i].probability, -i))

    def _window(self, count: int) -> Iterator[Window]:
        import numpy

        frames = self._kept[:count]
        del self._kept[:count]
        if self._stretch is not None:
            self._stretch = max(0, self._stretch - count)
        speech = sum(frame.speech for frame in frames)
        if not speech and not self.cutting.keep_all:
            return
        pieces: list[Piece] = []
        for frame in frames:
            start = frame.number * FRAME
            end = start + len(frame.samples)
            if pieces and pieces[-1].end == start:
                pieces[-1] = Piece(pieces[-1].start, end)
            else:
                pieces.append(Piece(start, end))
        samples = numpy.concatenate([frame.samples for frame in frames])
        yield Window(self._windows, tuple(pieces), samples, speech * FRAME / RATE)
        self._windows += 1
