"""Whisper's decoding: openai-whisper's own results, and the same in any batch, seed by seed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from handlers.models.whisper import WhisperModel, spectrogram, stack
from handlers.models.whisper_decode import Decoded, DecodeSample, decode
from tests.handlers.voices import music, noise, silence, speech

pytestmark = pytest.mark.handlers


@pytest.fixture(scope="module")
def mels(whisper: WhisperModel) -> list[Any]:
    """Spectrograms of several sounds."""
    sounds = [speech(3), speech(12, seed=1), speech(29, seed=2), music(8), noise(5), silence(2)]
    return [spectrogram(whisper.processor, sound) for sound in sounds]


def sample(mel: Any, **changed: Any) -> DecodeSample:
    plain = DecodeSample(
        mel=mel, language="en", task="transcribe", prompt=(), temperature=0.0, beam_size=None, seed=(7, 0)
    )
    return replace(plain, **changed)


def decoded(model: WhisperModel, samples: Sequence[DecodeSample]) -> list[Decoded]:
    results = decode(model, samples)
    for result in results:
        assert isinstance(result, Decoded)
    return results  # type: ignore[return-value]


def same(a: Decoded, b: Decoded) -> bool:
    return (
        a.tokens == b.tokens
        and abs(a.avg_logprob - b.avg_logprob) < 1e-4
        and abs(a.no_speech_prob - b.no_speech_prob) < 1e-4
        and a.compression_ratio == b.compression_ratio
    )


@pytest.mark.parametrize("beam_size", [None, 3])
@pytest.mark.parametrize("prompt", [(), (1770, 2232)])
@pytest.mark.parametrize(("language", "task"), [("en", "transcribe"), ("de", "translate")])
def test_without_sampling_it_is_openai_whispers_own_decode(
    whisper: WhisperModel, mels: list[Any], beam_size: int | None, prompt: tuple[int, ...], language: str, task: Any
) -> None:
    from whisper.decoding import DecodingOptions
    from whisper.decoding import decode as own_decode

    options = DecodingOptions(
        language=language, task=task, prompt=list(prompt), beam_size=beam_size, temperature=0.0, fp16=False
    )
    for mel in mels[:3]:
        expected = own_decode(whisper.network, stack(whisper, [mel])[0], options)
        asked = sample(mel, language=language, task=task, prompt=prompt, beam_size=beam_size)
        [found] = decoded(whisper, [asked])
        assert list(found.tokens) == expected.tokens
        assert found.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-5)
        assert found.no_speech_prob == pytest.approx(expected.no_speech_prob, abs=1e-6)
        assert found.compression_ratio == expected.compression_ratio


@example(picks=[(n, "en", False, 0) for n in range(4)], how=(0.0, 3), prompts=((),))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    picks=st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["en", "de", None]), st.booleans(), st.integers(0, 2**64 - 1)),
        min_size=2,
        max_size=4,
    ),
    how=st.sampled_from([(0.0, None), (0.0, 2), (0.2, None), (1.0, None)]),
    prompts=st.sampled_from([((),), ((1770,), (2232,)), ((1, 2, 3), (4, 5, 6))]),
)
def test_a_windows_text_is_the_same_in_any_batch(
    picks: list[tuple[int, str | None, bool, int]],
    how: tuple[float, int | None],
    prompts: tuple[tuple[int, ...], ...],
    whisper: WhisperModel,
    mels: list[Any],
) -> None:
    samples = [
        sample(
            mels[pick],
            language=language,
            task="translate" if translate else "transcribe",
            prompt=prompts[i % len(prompts)],
            temperature=how[0],
            beam_size=how[1],
            seed=(seed, i),
        )
        for i, (pick, language, translate, seed) in enumerate(picks)
    ]
    for one, found in zip(samples, decoded(whisper, samples), strict=True):
        assert same(found, decoded(whisper, [one])[0])


def test_language_task_and_prompt_of_each_row_count(whisper: WhisperModel, mels: list[Any]) -> None:
    base = sample(mels[1])
    others = [replace(base, language="ja"), replace(base, task="translate")]
    found = decoded(whisper, [base, *others])
    assert len({each.avg_logprob for each in found}) == 3
    [one, other] = decoded(whisper, [replace(base, prompt=(1770,)), replace(base, prompt=(2232,))])
    assert one.avg_logprob != other.avg_logprob


def test_the_same_seed_gives_the_same_text_and_another_seed_another(whisper: WhisperModel, mels: list[Any]) -> None:
    def text(*seed: int) -> tuple[int, ...]:
        return decoded(whisper, [sample(mels[0], temperature=1.0, seed=seed)])[0].tokens

    assert text(1, 0) == text(1, 0)
    assert len({text(1, 0), text(1, 1), text(2, 0)}) == 3


def test_near_zero_temperature_is_greedy(whisper: WhisperModel, mels: list[Any]) -> None:
    greedy = decoded(whisper, [sample(mel) for mel in mels])
    found = decoded(whisper, [sample(mel, temperature=1e-4) for mel in mels])
    assert [each.tokens for each in found] == [each.tokens for each in greedy]


def test_what_is_sampled_follows_the_rules_of_times(whisper: WhisperModel, mels: list[Any]) -> None:
    tokenizer = whisper.processor.tokenizer("en", "transcribe")
    for result in decoded(whisper, [sample(mel, temperature=1.0, seed=(n, 3)) for n, mel in enumerate(mels)]):
        times = [token for token in result.tokens if token >= tokenizer.timestamp_begin]
        assert times == sorted(times)
        assert result.tokens[0] >= tokenizer.timestamp_begin
        assert not any(tokenizer.eot <= token < tokenizer.timestamp_begin for token in result.tokens)


def test_sampling_follows_the_distribution_of_the_model() -> None:
    import torch

    from handlers.models.whisper_decode import _draws

    draws = _draws([(3, row) for row in range(20_000)], 1)[:, 0]
    cumulative = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).cumsum(-1)
    counts = torch.searchsorted(cumulative, draws, right=True).bincount(minlength=4) / len(draws)
    assert torch.allclose(counts, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.015)


@pytest.mark.parametrize(("prompt", "room"), [(0, 224), (223, 222)])
def test_a_text_that_finds_no_end_is_cut_off_however_long_the_prompt_is(
    prompt: int, room: int, whisper: WhisperModel, mels: list[Any]
) -> None:
    import torch

    network = copy.deepcopy(whisper.network)
    tokenizer = whisper.processor.tokenizer("en", "transcribe")
    with torch.no_grad():
        # The place that makes a token unlikely in this checkpoint.
        network.decoder.token_embedding.weight[tokenizer.eot, 0] = -1.0
    assert prompt <= whisper.processor.max_prompt
    asked = sample(mels[0], prompt=(1770,) * prompt)
    [endless] = decoded(replace(whisper, network=network), [asked])
    assert (len(endless.tokens), endless.cut_off) == (room, True)
    [whole] = decoded(whisper, [sample(mels[0])])
    assert not whole.cut_off


def test_samples_that_must_not_share_a_batch_are_refused(whisper: WhisperModel, mels: list[Any]) -> None:
    for other in ({"temperature": 0.2}, {"prompt": (5,)}, {"beam_size": 2}):
        with pytest.raises(ValueError, match="batch_key"):
            decode(whisper, [sample(mels[0]), sample(mels[0], **other)])


def test_a_probability_that_is_not_finite_fails_its_window(whisper: WhisperModel, mels: list[Any]) -> None:
    broken = numpy.full_like(mels[0], numpy.nan)
    [error, fine] = decode(whisper, [sample(broken), sample(mels[0])])
    assert isinstance(error, FloatingPointError)
    assert same(decoded(whisper, [sample(mels[0])])[0], fine)  # type: ignore[arg-type]
    assert isinstance(decode(whisper, [sample(broken, language=None)])[0], FloatingPointError)


def test_a_language_that_is_not_named_is_what_openai_whisper_says_in_any_batch(
    whisper: WhisperModel, mels: list[Any]
) -> None:
    from whisper.decoding import detect_language

    found = decoded(whisper, [sample(mel, language="ja" if n == 2 else None) for n, mel in enumerate(mels)])
    for n, (mel, each) in enumerate(zip(mels, found, strict=True)):
        if n == 2:
            assert each.languages is None
            assert same(each, decoded(whisper, [sample(mel, language="ja")])[0])
            continue
        _, expected = detect_language(whisper.network, stack(whisper, [mel])[0])
        assert each.languages == pytest.approx(expected, abs=1e-5)
        assert same(each, decoded(whisper, [sample(mel, language=max(expected, key=expected.get))])[0])


def test_no_samples_give_no_results(whisper: WhisperModel) -> None:
    assert decode(whisper, []) == []
