"""Recordings cut into windows of speech: nothing that is said is lost, every moment is found again, little is held."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.audio.listening import Listening
from handlers.audio.voice import FRAME, RATE
from handlers.audio.windows import Cutter, Cutting, Piece, Window

pytestmark = pytest.mark.handlers

CUTTING = Cutting()
MARGIN_S = CUTTING.margin * FRAME / RATE
PAUSE_S = CUTTING.pause * FRAME / RATE


def frames(seconds: float) -> int:
    return round(seconds * RATE / FRAME)


def cut(probabilities: Sequence[float], cutting: Cutting = CUTTING) -> list[Window]:
    """Windows of a recording whose every sample is its own number."""
    cutter = Cutter(cutting)
    samples = numpy.arange(len(probabilities) * FRAME, dtype=numpy.float64)
    return [*cutter.push(samples, probabilities), *cutter.finish()]


def stretches(*parts: tuple[float, float]) -> list[float]:
    """Probabilities for (seconds, probability) one after the other."""
    return [probability for seconds, probability in parts for _ in range(frames(seconds))]


def covered(windows: Sequence[Window]) -> list[Piece]:
    return [piece for window in windows for piece in window.pieces]


def test_silence_gives_no_window() -> None:
    assert cut(stretches((300, 0.01))) == []


def test_a_sound_shorter_than_a_word_is_left_out() -> None:
    assert cut(stretches((3, 0.0), (0.16, 0.9), (5, 0.0))) == []


def test_speech_keeps_a_margin_before_and_behind() -> None:
    [window] = cut(stretches((5, 0.0), (3, 0.9), (10, 0.0)))
    [piece] = window.pieces
    assert piece.start / RATE == pytest.approx(5 - MARGIN_S, abs=0.04)
    assert piece.end / RATE == pytest.approx(8 + MARGIN_S, abs=0.04)
    assert window.speech_s == pytest.approx(3, abs=0.04)


def test_speech_at_the_very_beginning_and_end_has_what_margin_there_is() -> None:
    [window] = cut(stretches((3, 0.9)))
    assert covered([window]) == [Piece(0, frames(3) * FRAME)]


def test_a_short_pause_stays_and_a_long_one_is_left_out() -> None:
    [window] = cut(stretches((2, 0.9), (1.5, 0.0), (2, 0.9), (60, 0.0), (2, 0.9)))
    assert len(window.pieces) == 2
    assert window.duration_s == pytest.approx(7.5 + 2 * MARGIN_S, abs=0.1)


def test_between_the_thresholds_speech_goes_on_and_does_not_begin() -> None:
    assert cut(stretches((10, 0.4))) == []
    [window] = cut(stretches((1, 0.9), (9, 0.4), (3, 0.0)))
    assert window.speech_s == pytest.approx(10, abs=0.04)


def test_a_full_window_is_cut_in_the_middle_of_the_longest_pause_near_its_end() -> None:
    first, second = cut(stretches((21, 0.9), (0.2, 0.0), (4, 0.9), (0.6, 0.0), (2, 0.9), (0.3, 0.0), (8, 0.9)))
    assert first.pieces[-1].end / RATE == pytest.approx(25.5, abs=0.05)
    assert second.pieces[0].start == first.pieces[-1].end


def test_where_nobody_pauses_it_is_cut_where_it_sounds_least_like_speech() -> None:
    probabilities = stretches((40, 0.99))
    probabilities[frames(27)] = 0.8
    first, _ = cut(probabilities)
    assert first.pieces[-1].end == frames(27) * FRAME


def test_the_last_syllable_behind_a_cut_is_kept_however_short() -> None:
    first, second = cut(stretches((29, 0.9), (0.9, 0.0), (0.16, 0.9), (5, 0.0)))
    assert second.pieces[0].start == first.pieces[-1].end
    assert second.speech_s == pytest.approx(0.16, abs=0.04)


def test_everything_is_kept_where_nothing_may_be_left_out() -> None:
    probabilities = stretches((10, 0.0), (4, 0.9), (50, 0.0))
    windows = cut(probabilities, Cutting(keep_all=True))
    together = numpy.concatenate([window.samples for window in windows])
    assert numpy.array_equal(together, numpy.arange(len(probabilities) * FRAME))


@settings(max_examples=30, deadline=None)
@given(
    parts=st.lists(
        st.tuples(st.floats(0.05, 45), st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.95])), min_size=1, max_size=12
    ),
    keep_all=st.booleans(),
)
def test_windows_are_in_order_short_enough_and_hold_all_speech(
    parts: list[tuple[float, float]], keep_all: bool
) -> None:
    probabilities = stretches(*parts)
    windows = cut(probabilities, Cutting(keep_all=keep_all))
    assert [window.number for window in windows] == list(range(len(windows)))
    pieces = covered(windows)
    assert all(a.end <= b.start for a, b in itertools.pairwise(pieces))
    for window in windows:
        assert 0 < len(window.samples) <= 30 * RATE
        expected = numpy.concatenate([numpy.arange(piece.start, piece.end) for piece in window.pieces])
        assert numpy.array_equal(window.samples, expected)
        assert keep_all or window.speech_s > 0
    kept = {number for piece in pieces for number in range(piece.start // FRAME, piece.end // FRAME)}
    loud = [n for n, probability in enumerate(probabilities) if probability >= CUTTING.begins]
    runs = numpy.split(loud, numpy.flatnonzero(numpy.diff(loud) > 1) + 1) if loud else []
    for run in runs:
        if len(run) >= CUTTING.least_speech:
            assert kept.issuperset(int(n) for n in run)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 200_000), st.integers(1, 100_000)), min_size=1, max_size=5),
    at=st.floats(0, 1),
)
def test_every_moment_of_a_window_is_found_again_in_the_recording(sizes: list[tuple[int, int]], at: float) -> None:
    pieces, start = [], 0
    for gap, length in sizes:
        pieces.append(Piece(start + gap, start + gap + length))
        start += gap + length
    window = Window(0, tuple(pieces), None, 1.0)
    numbers = numpy.concatenate([numpy.arange(piece.start, piece.end) for piece in pieces])
    sample = min(int(at * len(numbers)), len(numbers) - 1)
    assert window.start_of(sample / RATE) * RATE == pytest.approx(numbers[sample], abs=1e-3)
    assert window.end_of((sample + 1) / RATE) * RATE == pytest.approx(numbers[sample] + 1, abs=1e-3)


def test_between_two_pieces_an_end_is_in_the_first_and_a_beginning_in_the_second() -> None:
    window = Window(0, (Piece(RATE, 3 * RATE), Piece(10 * RATE, 11 * RATE)), None, 3.0)
    assert window.end_of(2.0) == 3.0
    assert window.start_of(2.0) == 10.0
    assert (window.start_of(9.0), window.end_of(9.0)) == (11.0, 11.0)
    assert (window.start_of(-1.0), window.end_of(-1.0)) == (1.0, 1.0)


@pytest.mark.parametrize("probability", [0.0, 0.99], ids=["silence", "speech without a pause"])
def test_an_hour_of_sound_is_never_held(probability: float) -> None:
    listening = Listening(CUTTING, lambda samples: numpy.full(len(samples) // FRAME, probability))
    block = numpy.zeros(RATE, dtype=numpy.float32)
    most, seconds = 0, 0.0
    for _ in range(3600):
        listening.add(block)
        if listening.ready:
            seconds += sum(window.duration_s for window in listening.windows())
        most = max(most, listening.held)
    seconds += sum(window.duration_s for window in listening.finish())
    assert most <= (30 + 10) * RATE
    assert seconds == pytest.approx(3600 if probability else 0, abs=1)


@pytest.mark.parametrize("size", [1, 511, 512, 16_000, 100_000])
def test_windows_do_not_depend_on_the_size_of_the_blocks(size: int) -> None:
    samples = numpy.random.default_rng(1).standard_normal(RATE * 20 + 77).astype(numpy.float32) * 0.1
    if size == 1:
        samples = samples[:6000]

    def loud(given: Any) -> Any:
        return (numpy.abs(given.reshape(-1, FRAME)).mean(axis=1) > 0).astype(float) * 0.9

    listening = Listening(CUTTING, loud)
    found: list[Window] = []
    for begin in range(0, len(samples), size):
        listening.add(samples[begin : begin + size])
        if listening.ready:
            found += listening.windows()
    found += listening.finish()
    assert numpy.array_equal(numpy.concatenate([window.samples for window in found]), samples)


def test_a_recording_without_a_sample_gives_nothing() -> None:
    listening = Listening(CUTTING)
    assert listening.finish() == []
    assert listening.begun_s == 0
