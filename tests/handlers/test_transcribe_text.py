"""From tokens to lines and words with times, and back into the recording."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.audio.speech import is_good
from handlers.audio.transcript import Line, Lines, in_recording, read, split, timed
from handlers.audio.voice import RATE
from handlers.audio.windows import Piece, Window
from handlers.models.whisper import WhisperProcessor, load_processor
from handlers.models.whisper_decode import Decoded
from handlers.models.whisper_words import TimedWord
from handlers.protocol import CheckpointSpec

pytestmark = pytest.mark.handlers

END, FIRST = 50257, 50364


@pytest.fixture(scope="module")
def processor(specs: dict[str, CheckpointSpec]) -> WhisperProcessor:
    """Of the tiny Whisper."""
    return load_processor(specs["whisper"])


def at(seconds: float) -> int:
    return FIRST + round(seconds / 0.02)


def heard(*tokens: int, avg_logprob: float = -0.3, no_speech_prob: float = 0.01, ratio: float = 1.2) -> Decoded:
    return Decoded(tokens, avg_logprob, no_speech_prob, 0.0, ratio)


def lines(
    processor: WhisperProcessor,
    parts: Sequence[float | str],
    duration_s: float = 20.0,
    language: str = "en",
    cut_off: bool = False,
) -> Lines:
    """Lines of a text with times in it."""
    tokenizer = processor.tokenizer(language, "transcribe")
    tokens: list[int] = []
    for part in parts:
        tokens += tokenizer.encode(part) if isinstance(part, str) else [at(part)]
    decoded = replace(heard(*tokens), cut_off=cut_off)
    return read(processor, decoded, duration_s, language, "transcribe")


def told(found: Lines) -> list[tuple[float, float, str]]:
    return [(round(line.start_s, 3), round(line.end_s, 3), line.text) for line in found.lines]


def test_two_times_end_a_line_and_begin_the_next(processor: WhisperProcessor) -> None:
    found = lines(processor, [0.0, " one two", 2.5, 2.5, " three", 4.0, 6.0, " four", 7.5])
    assert told(found) == [(0, 2.5, " one two"), (2.5, 4, " three"), (6, 7.5, " four")]
    assert found.again_from_s is None


def test_a_line_without_an_end_goes_to_the_end_of_the_sound(processor: WhisperProcessor) -> None:
    assert told(lines(processor, [1.0, " one", 2.0, 2.0, " two"], 9.5)) == [(1, 2, " one"), (2, 9.5, " two")]
    assert told(lines(processor, [" no times"], 9.5)) == [(0, 9.5, " no times")]


def test_what_is_placed_behind_the_sound_is_cut_off_or_left_out(processor: WhisperProcessor) -> None:
    found = lines(processor, [0.5, " said", 1.5, 2.0, " ends", 8.0, 9.0, " invented", 12.0], 4.0)
    assert told(found) == [(0.5, 1.5, " said"), (2, 4, " ends")]


def test_lines_without_text_or_length_are_left_out(processor: WhisperProcessor) -> None:
    assert told(lines(processor, [1.0, " ", 2.0, 3.0, " word", 3.0, 4.0, 5.0])) == []
    assert told(lines(processor, [])) == []


def test_what_is_neither_text_nor_time_is_no_text() -> None:
    assert split([at(1), 11, END + 2, END + 106, 12, at(2)], END, FIRST, 9.0) == [(1.0, 2.0, (11, 12))]


def test_control_characters_become_spaces(processor: WhisperProcessor) -> None:
    [line] = lines(processor, [0.0, " a\x00b\u2028c\n", 1.0]).lines
    assert line.text == " a b c "


def test_a_text_that_was_cut_off_goes_on_after_its_last_whole_line(processor: WhisperProcessor) -> None:
    found = lines(processor, [0.0, " one", 8.0, 8.0, " and so"], cut_off=True)
    assert len(found.lines) == 1
    assert found.again_from_s == 8.0
    ended = lines(processor, [0.0, " one", 8.0, 8.0, " x", 9.0], cut_off=True)
    assert (len(ended.lines), ended.again_from_s) == (2, 9.0)


def test_a_text_that_was_cut_off_within_its_first_line_is_taken_as_it_is(processor: WhisperProcessor) -> None:
    found = lines(processor, [0.0, " one two"], cut_off=True)
    assert len(found.lines) == 1
    assert found.again_from_s is None


def words(*given: tuple[str, float, float]) -> list[TimedWord]:
    return [TimedWord(text, 1, start, end, 0.5) for text, start, end in given]


def test_words_belong_to_the_line_that_has_their_tokens() -> None:
    two = [Line(0, 2, " a b", (1, 2)), Line(3, 5, " c", (3,))]
    found = timed(two, words((" a", 0.1, 0.5), (" b", 0.5, 1.9), (" c", 3.2, 3.4)))
    assert [[word.text for word in line] for line in found] == [["a", "b"], ["c"]]


def test_a_word_that_stretches_over_a_pause_is_shortened() -> None:
    line = [Line(0, 20, " a b c d", (1, 2, 3, 4))]
    [found] = timed(line, words((" a", 0.0, 9.0), (" b", 9.0, 9.3), (" c", 9.3, 9.6), (" d", 9.6, 20.0)))
    assert [(word.start_s, word.end_s) for word in found] == [
        (pytest.approx(7.6), 9.0), (9.0, 9.3), (9.3, 9.6), (9.6, pytest.approx(11.0)),
    ]  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    times=st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30)), max_size=12),
    bounds=st.lists(st.floats(0, 30), min_size=2, max_size=6),
)
def test_words_rise_inside_of_their_lines(times: list[tuple[float, float]], bounds: list[float]) -> None:
    bounds = sorted(bounds)
    given_words = words(*[(f" w{n}", start, end) for n, (start, end) in enumerate(times)])
    share = max(1, len(times) // (len(bounds) - 1))
    given_lines = [
        Line(a, b, " x", tuple(range(share)))
        for a, b in itertools.pairwise(bounds)
    ]  # fmt: skip
    for line, found in zip(given_lines, timed(given_lines, given_words), strict=True):
        edges = [line.start_s, *(edge for word in found for edge in (word.start_s, word.end_s)), line.end_s]
        assert edges == sorted(edges)


def test_times_are_those_of_the_recording() -> None:
    window = Window(3, (Piece(10 * RATE, 14 * RATE), Piece(100 * RATE, 105 * RATE)), None, 9.0)
    assert in_recording(window, 1.0, 4.0) == (11.0, 14.0)
    assert in_recording(window, 4.0, 5.5) == (100.0, 101.5)
    assert in_recording(window, 3.0, 6.0) == (13.0, 102.0)
    assert in_recording(window, 4.0, 4.0) == (100.0, 100.0)


@pytest.mark.parametrize(
    ("decoded", "good"),
    [
        (heard(avg_logprob=-0.5), True),
        (heard(avg_logprob=-1.5), False),
        (heard(ratio=2.5), False),
        (heard(avg_logprob=-1.5, no_speech_prob=0.7), True),
        (heard(ratio=2.5, no_speech_prob=0.7), False),
        (heard(avg_logprob=-0.5, no_speech_prob=0.9), True),
    ],
    ids=["sure", "a guess", "repetitive", "silence", "repetitive, and sure", "sure against the odds of silence"],
)
def test_only_a_guess_or_a_repetition_is_tried_again(decoded: Decoded, good: bool) -> None:
    assert is_good(decoded) is good
