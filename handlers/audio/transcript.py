"""From a window's tokens to lines with times, in the window and then in the recording."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from handlers.audio.windows import Window
from handlers.models.whisper import Task, WhisperProcessor
from handlers.models.whisper_decode import Decoded
from handlers.models.whisper_words import TimedWord

#: Seconds between two tokens of time.
_STEP_S = 0.02
#: Longest word beside a pause, as a multiple of the median, and the median's bound in seconds: the way of
#: openai-whisper, whose words otherwise stretch over the pause.
_LONG, _MEDIAN_S = 2.0, 0.7
#: A text that was cut off goes on where at least so many seconds are left, and were said.
_LEAST_S = 1.0
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]+")

#: Start and end in seconds, tokens of the text.
Part = tuple[float, float, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Line:
    """What is said from `start_s` to `end_s` of a window."""

    start_s: float
    end_s: float
    #: With the space before it, where the language has one.
    text: str
    #: Of the text, without times.
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Lines:
    """A window's lines, and whether the model came to the end of what is said."""

    lines: tuple[Line, ...]
    #: Seconds of the window from which on it has to be decoded again: its text was too long to be written at once.
    again_from_s: float | None = None


def read(processor: WhisperProcessor, decoded: Decoded, duration_s: float, language: str, task: Task) -> Lines:
    """Lines of a decoded window whose sound is `duration_s` long.

    Two tokens of time end a line and begin the next, as in `whisper.transcribe`. What the model places behind the end
    of the sound is not said there: such a line is left out, one that goes on beyond it ends there.
    """
    tokenizer = processor.tokenizer(language, task)
    parts = split(decoded.tokens, tokenizer.eot, tokenizer.timestamp_begin, duration_s)
    again_from_s = None
    if decoded.cut_off and decoded.tokens:
        again_from_s = _unfinished(parts, ended=decoded.tokens[-1] >= tokenizer.timestamp_begin)
        if again_from_s is not None and not _LEAST_S <= again_from_s <= duration_s - _LEAST_S:
            again_from_s = None
    lines = []
    for start_s, end_s, tokens in parts:
        if again_from_s is not None and start_s >= again_from_s:
            break
        text = _CONTROL.sub(" ", tokenizer.decode(list(tokens)))
        start_s, end_s = min(start_s, duration_s), min(end_s, duration_s)
        if start_s < end_s and text.strip():
            lines.append(Line(start_s, end_s, text, tokens))
    return Lines(tuple(lines), again_from_s)


def split(tokens: Sequence[int], end: int, first_time: int, duration_s: float) -> list[Part]:
    """Start, end and text tokens of each line; one without a time at its side has that of its neighbour, or of all.

    Tokens below `end` are text, those from `first_time` on are times; what is between has no place in a text.
    """
    parts: list[Part] = []
    start_s, text = 0.0, list[int]()
    for token in tokens:
        if token < end:
            text.append(token)
        elif token >= first_time:
            seconds = (token - first_time) * _STEP_S
            if text:
                parts.append((start_s, seconds, tuple(text)))
            start_s, text = seconds, []
    if text:
        parts.append((start_s, duration_s, tuple(text)))
    return parts


def _unfinished(parts: Sequence[Part], *, ended: bool) -> float | None:
    """Where a text that was cut off has to go on: after its last whole line."""
    if not parts:
        return None
    start_s, end_s, _ = parts[-1]
    return end_s if ended else start_s


def timed(lines: Sequence[Line], words: Sequence[TimedWord]) -> list[list[TimedWord]]:
    """The words of each line, rising and inside of it; `words` are those of all lines' tokens, one behind the other."""
    durations = sorted(word.end_s - word.start_s for word in words if word.end_s > word.start_s)
    median = min(_MEDIAN_S, durations[len(durations) // 2]) if durations else 0.0
    rest = list(words)
    found = []
    for line in lines:
        mine: list[TimedWord] = []
        taken = 0
        while rest and taken < len(line.tokens):
            taken += rest[0].tokens
            mine.append(rest.pop(0))
        found.append(_inside(line, mine, _LONG * median))
    return found


def _inside(line: Line, words: Sequence[TimedWord], longest: float) -> list[TimedWord]:
    inside: list[TimedWord] = []
    at = line.start_s
    for i, word in enumerate(words):
        start, end = word.start_s, word.end_s
        if longest and end - start > longest:
            if i == 0:
                start = end - longest
            elif i == len(words) - 1:
                end = start + longest
        start = min(max(start, at), line.end_s)
        at = min(max(end, start), line.end_s)
        inside.append(TimedWord(_CONTROL.sub(" ", word.text).strip(), word.tokens, start, at, word.probability))
    return [word for word in inside if word.text]


def in_recording(window: Window, start_s: float, end_s: float) -> tuple[float, float]:
    """Where in the recording something is that is at `start_s` to `end_s` of a window: to the millisecond."""
    start = window.start_of(start_s)
    return round(start, 3), round(max(start, window.end_of(end_s)), 3)
