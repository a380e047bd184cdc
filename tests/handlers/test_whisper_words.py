"""When words are said: openai-whisper's own alignment, the same in any batch, without numba."""

from __future__ import annotations

import itertools
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from handlers.models.whisper import WhisperModel, spectrogram, stack
from handlers.models.whisper_words import AlignSample, TimedWord, align, warp, words
from tests.handlers.voices import music, speech

pytestmark = pytest.mark.handlers

TEXTS = (" the red boat, and a child", " it's 3 o'clock", " 紅い月と海", " a", ' ("hill") ... ¿house?')


@pytest.fixture(scope="module")
def samples(whisper: WhisperModel) -> list[AlignSample]:
    """Texts on sounds."""
    tokenizer = whisper.processor.tokenizer("en", "transcribe")
    found = []
    for n, text in enumerate(TEXTS):
        seconds = 2.5 + 6 * n
        mel = spectrogram(whisper.processor, speech(seconds, seed=n) if n % 2 == 0 else music(seconds))
        language = "ja" if n == 2 else "en"
        found.append(AlignSample(mel, tuple(tokenizer.encode(text)), seconds, language, "transcribe"))
    return found


def timed(model: WhisperModel, asked: list[AlignSample]) -> list[list[TimedWord]]:
    found = align(model, asked)
    return [words(model.processor, sample, each) for sample, each in zip(asked, found, strict=True)]


def near(a: list[TimedWord], b: list[TimedWord]) -> bool:
    return [(w.text, w.tokens, w.start_s, w.end_s) for w in a] == [
        (w.text, w.tokens, w.start_s, w.end_s) for w in b
    ] and all(abs(x.probability - y.probability) < 1e-5 for x, y in zip(a, b, strict=True))


def test_words_are_those_of_whisper_timing(
    whisper: WhisperModel, samples: list[AlignSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    from whisper import timing
    from whisper.timing import find_alignment

    # As it is written: compiling it takes longer than all else here.
    monkeypatch.setattr(timing, "dtw_cpu", timing.dtw_cpu.py_func)
    for sample, found in zip(samples, timed(whisper, samples), strict=True):
        tokenizer = whisper.processor.tokenizer(sample.language, sample.task)
        expected = find_alignment(
            whisper.network,
            tokenizer,
            list(sample.tokens),
            stack(whisper, [sample.mel])[0],
            round(sample.duration_s * 100),
        )
        starts = {word.start for word in expected} | {word.end for word in expected}
        assert "".join(word.text for word in found) == "".join(word.word for word in expected)
        assert {word.start_s for word in found} <= starts
        assert {word.end_s for word in found} <= starts
        assert found[0].probability == pytest.approx(expected[0].probability, abs=1e-5)


def test_words_are_the_same_in_any_batch(whisper: WhisperModel, samples: list[AlignSample]) -> None:
    together = timed(whisper, samples)
    backwards = timed(whisper, samples[::-1])[::-1]
    for sample, one, other in zip(samples, together, backwards, strict=True):
        assert near(one, timed(whisper, [sample])[0])
        assert near(one, other)


def test_marks_belong_to_the_word_beside_them_and_no_token_is_lost(
    whisper: WhisperModel, samples: list[AlignSample]
) -> None:
    found = timed(whisper, samples)
    assert [word.text for word in found[0]] == [" the", " red", " boat,", " and", " a", " child"]
    assert found[4][0].text.endswith('hill")')
    for sample, said in zip(samples, found, strict=True):
        assert sum(word.tokens for word in said) == len(sample.tokens)
        assert all(0 <= word.start_s <= word.end_s <= sample.duration_s + 0.02 for word in said)
        assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(said))


def test_nothing_of_it_stays_in_the_network(whisper: WhisperModel, samples: list[AlignSample]) -> None:
    from whisper.model import MultiHeadAttention

    with pytest.raises(IndexError):
        align(whisper, [AlignSample(samples[0].mel, (10**6,), 3.0, "en", "transcribe")])
    assert all(not block.cross_attn._forward_hooks for block in whisper.network.decoder.blocks)
    assert MultiHeadAttention.use_sdpa


@settings(max_examples=60, deadline=None)
@given(
    cost=st.tuples(st.integers(1, 12), st.integers(1, 40)).flatmap(
        lambda shape: arrays(numpy.float64, shape, elements=st.sampled_from([-1.5, -1.0, 0.0, 0.1, 0.25, 1.0, 7.3]))
    )
)
def test_the_cheapest_way_is_that_of_whisper_timing_among_equals_too(cost: Any) -> None:
    from whisper.timing import dtw_cpu

    expected = dtw_cpu.py_func(cost)
    assert numpy.array_equal(numpy.stack(warp(cost)), expected)


def test_no_samples_give_no_results(whisper: WhisperModel) -> None:
    assert align(whisper, []) == []
