"""Windows to teach Whisper with: sentences at known places of a spectrogram, and the tokens that it has to write.

A window may be shorter than 30 s, and begin later than at 0: the rest is silence that is left out, so that a step costs
a tenth. Positions are those of the encoder, 20 ms each.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

from toyworld.train.whisper_bank import MELS, SILENCE, Bank
from toyworld.world.speech import WORDS

#: Positions of 30 s and of one second; frames of a spectrogram in a position.
POSITIONS, PER_S, _FRAMES = 1500, 50, 2
#: No target.
IGNORED = -100

#: Whisper puts the first time of a window no later than this second.
_LATEST_FIRST_S = 1.0
#: Windows in which nobody speaks, those without times, those to be translated (which is the same).
_SILENT, _WITHOUT_TIMES, _TRANSLATED = 0.06, 0.4, 0.05
_LONGEST_PROMPT = 60


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens that are used, counted from 0: words, special tokens, one for all others, then the times."""

    #: Whisper's own ids, of all but the others and the times.
    ids: tuple[int, ...]
    end: int
    start: int
    english: int
    transcribe: int
    translate: int
    no_times: int
    no_speech: int
    before: int
    other: int
    first_time: int
    #: How many of Whisper's tokens are others, and Whisper's id of the first time.
    others: int
    first_time_id: int

    @property
    def rows(self) -> int:
        """Tokens that are no times."""
        return self.first_time


@cache
def vocabulary() -> Vocabulary:
    """Of openai-whisper's tokenizer for 99 languages."""
    from whisper.tokenizer import get_tokenizer

    from handlers.models.whisper_files import MULTILINGUAL_VOCABULARY

    tokenizer = get_tokenizer(True, num_languages=99, language="en", task="transcribe")
    words = [tokenizer.encode(f" {word}") for word in WORDS]
    special = {
        "end": tokenizer.eot,
        "start": tokenizer.sot,
        "english": tokenizer.to_language_token("en"),
        "transcribe": tokenizer.transcribe,
        "translate": tokenizer.translate,
        "no_times": tokenizer.no_timestamps,
        "no_speech": tokenizer.no_speech,
        "before": tokenizer.sot_prev,
    }
    ids = (*(word for [word] in words), *special.values())
    places = {name: len(WORDS) + i for i, name in enumerate(special)}
    places |= {"other": len(ids), "first_time": len(ids) + 1}
    others = MULTILINGUAL_VOCABULARY - len(ids) - (POSITIONS + 1)
    return Vocabulary(ids=ids, others=others, first_time_id=tokenizer.timestamp_begin, **places)


@dataclass(slots=True)
class Window:
    """One window."""

    #: float32 numpy (positions * 2, MELS): log10 of the power.
    frames: Any
    #: Where in the 30 s it begins, in positions.
    begin: int
    #: What is read and what is to be written at each place of a text; the latter IGNORED where it does not matter.
    tokens: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    #: Positions of the window where what is read, and what is to be written, is said: empty where it is nowhere.
    read_at: list[tuple[int, int]] = field(default_factory=list)
    written_at: list[tuple[int, int]] = field(default_factory=list)
    #: int64 numpy (4, positions): the word that is said, the one before it, the one after it, and the phoneme, all
    #: counted from 1; 0 for none.
    heard: Any = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows of one length, as tensors; texts are filled up at their ends."""

    #: float32 (windows, MELS, positions * 2), scaled as Whisper wants it.
    mels: Any
    #: int64 (windows,).
    begins: Any
    #: int64 (windows, places).
    tokens: Any
    targets: Any
    #: int64 (windows, places, 2).
    read_at: Any
    written_at: Any
    #: int64 (windows, 4, positions).
    heard: Any

    def to(self, device: str) -> Batch:
        """The same on another device."""
        return Batch(*(getattr(self, part.name).to(device) for part in fields(self)))


def batch(bank: Bank, chance: random.Random, windows: int, positions: int, *, prompted: bool = False) -> Batch:
    """So many windows of so many positions; `prompted`: with a text before their own."""
    import numpy
    import torch

    drawn = [_window(bank, chance, positions, prompted=prompted) for _ in range(windows)]
    places = max(len(window.tokens) for window in drawn)

    def filled(rows: list[list[Any]], filler: Any) -> Any:
        return torch.tensor([[*row, *[filler] * (places - len(row))] for row in rows])

    return Batch(
        scaled(torch.from_numpy(numpy.stack([window.frames for window in drawn]))).transpose(1, 2).contiguous(),
        torch.tensor([window.begin for window in drawn]),
        filled([window.tokens for window in drawn], vocabulary().end),
        filled([window.targets for window in drawn], IGNORED),
        filled([window.read_at for window in drawn], (0, 0)),
        filled([window.written_at for window in drawn], (0, 0)),
        torch.from_numpy(numpy.stack([window.heard for window in drawn])),
    )


def scaled(powers: Any) -> Any:
    """log10 of powers (windows, frames, bands) as `whisper.log_mel_spectrogram` gives them."""
    import torch

    loudest = powers.amax(dim=(1, 2), keepdim=True)
    return (torch.maximum(powers, loudest - 8.0) + 4.0) / 4.0


def _window(bank: Bank, chance: random.Random, positions: int, *, prompted: bool) -> Window:
    import numpy

    frames = numpy.full((positions * _FRAMES, MELS), SILENCE, dtype=numpy.float32)
    begin = 0 if chance.random() < 0.6 else chance.randint(0, POSITIONS - positions)
    window = Window(frames, begin, heard=numpy.zeros((4, positions), dtype=numpy.int64))
    silent = chance.random() < _SILENT
    said = [] if silent else _put(bank, chance, window, positions)
    _disturb(chance, frames, silent=silent)
    _write(chance, window, said, positions, prompted=prompted)
    for sentence in said:
        for i, (word, start, end) in enumerate(sentence):
            window.heard[0, start:end] = word + 1
            window.heard[1, start:end] = sentence[i - 1][0] + 1 if i else 0
            window.heard[2, start:end] = sentence[i + 1][0] + 1 if i + 1 < len(sentence) else 0
    return window


#: A sentence in a window: of each word its index, the position where it begins and that where it ends.
_Said = list[tuple[int, int, int]]


def _put(bank: Bank, chance: random.Random, window: Window, positions: int) -> list[_Said]:
    """Puts sentences into the window, with pauses between them."""
    most = chance.choice((1, 1, 2, 3, 4, 6, 9, 14))
    at = round(100 * chance.choice((chance.uniform(0, 0.6), chance.uniform(0.3, 0.6), chance.uniform(0, 2.0))))
    said: list[_Said] = []
    for _ in range(20):
        if len(said) == most:
            break
        number = chance.randrange(len(bank.words))
        first, last = int(bank.offsets[number]), int(bank.offsets[number + 1])
        if at + last - first > len(window.frames):
            continue
        window.frames[at : at + last - first] = bank.frames[first:last]
        # A position is about its first frame.
        sounds = bank.sounds[first + at % _FRAMES : last : _FRAMES]
        begin = -(-at // _FRAMES)
        window.heard[3, begin : begin + len(sounds)] = sounds
        window.frames[at : at + last - first] += chance.uniform(-0.6, 0.3)
        bounds = (bank.times[number] * PER_S + at / _FRAMES).round().astype(int)
        said.append(
            [
                (int(word), int(start), min(positions, max(int(end), int(start) + 1)))
                for word, (start, end) in zip(bank.words[number], bounds, strict=True)
            ]
        )
        at += last - first + round(100 * min(2.2, 0.15 + chance.expovariate(2.0)))
    return said


def _disturb(chance: random.Random, frames: Any, *, silent: bool) -> None:
    """Takes bands away and adds noise, in place."""
    import numpy

    draws = numpy.random.default_rng(chance.getrandbits(62))
    kind = chance.random()
    if kind < 0.15:
        frames[:, chance.randint(48, MELS - 1) :] -= chance.uniform(1.0, 6.0)
    elif kind < 0.25:
        frames[:, : chance.randint(1, 10)] -= chance.uniform(0.5, 3.0)
    elif kind < 0.4:
        frames += numpy.linspace(0, chance.uniform(-1.2, 0.6), MELS, dtype=numpy.float32)
    if chance.random() < 0.55:
        level = chance.uniform(-7.0, -1.2) if not silent else chance.uniform(-9.0, 1.0)
        colour = numpy.linspace(0, chance.uniform(-3.0, 0.5), MELS, dtype=numpy.float32)
        noise = draws.standard_normal(frames.shape, dtype=numpy.float32)
        noise *= numpy.float32(chance.uniform(0.1, 0.35))
        noise += level + colour
        if silent and chance.random() < 0.4:
            # Something hums, or plays: bands that stay.
            noise[:, draws.integers(0, MELS, size=draws.integers(1, 12))] += numpy.float32(chance.uniform(1.0, 4.0))
        numpy.maximum(frames, SILENCE, out=frames)
        # The powers are added: log10(10^a + 10^b).
        larger, smaller = numpy.maximum(frames, noise), numpy.minimum(frames, noise)
        frames[:] = larger + numpy.log1p(numpy.exp((smaller - larger) * numpy.float32(2.302585))) / 2.302585
    numpy.maximum(frames, SILENCE, out=frames)


def _write(chance: random.Random, window: Window, said: list[_Said], positions: int, *, prompted: bool) -> None:
    """The text of a window: what stands before, then the beginning, then lines with or without times."""
    names = vocabulary()
    nowhere = (0, 0)
    tokens: list[int] = []
    at: list[tuple[int, int]] = []
    if prompted:
        length = chance.randint(1, _LONGEST_PROMPT)
        tokens = [names.before] + [
            chance.randrange(len(WORDS)) if chance.random() < 0.5 else names.other for _ in range(length)
        ]
    task = names.translate if chance.random() < _TRANSLATED else names.transcribe
    tokens += [names.start, names.english, task]
    begins = len(tokens)
    at += [nowhere] * begins
    timed = not said or chance.random() >= _WITHOUT_TIMES
    if not timed:
        tokens.append(names.no_times)
        at.append(nowhere)
        begins += 1
    last = 0
    for number, sentence in enumerate(said):
        if timed:
            last = _time(window, tokens, at, sentence[0][1], positions, first=number == 0)
        for word, start, end in sentence:
            tokens.append(word)
            at.append((start, end))
        if timed:
            last = _time(window, tokens, at, max(last, sentence[-1][2]), positions)
    if not said:
        # A guess, by whose improbability silence is known too.
        tokens.append(names.first_time + chance.randint(0, round(_LATEST_FIRST_S * PER_S)))
        at.append(nowhere)
    tokens.append(names.end)
    end = said[-1][-1][2] if said else 0
    at.append((end, min(positions, end + PER_S // 2)) if said else nowhere)
    window.tokens, window.read_at = tokens[:-1], at[:-1]
    window.targets, window.written_at = tokens[1:], at[1:]
    start = tokens.index(names.start)
    window.targets[: begins - 1] = [IGNORED] * (begins - 1)
    window.targets[start] = names.english if said else names.no_speech


def _time(
    window: Window, tokens: list[int], at: list[tuple[int, int]], position: int, positions: int, *, first: bool = False
) -> int:
    """Writes a moment, and returns it."""
    moment = window.begin + position
    if first and moment > _LATEST_FIRST_S * PER_S:
        moment = round(_LATEST_FIRST_S * PER_S)
        at.append((0, 0))
    else:
        at.append((max(0, position - 2), min(positions, position + 3)))
    tokens.append(vocabulary().first_time + min(moment, POSITIONS))
    return position
