"""The toy Whisper writes down sentences that it has never heard, and when each word is said."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy
import pytest

from handlers.models import whisper as product
from handlers.models import whisper_files
from tests.handlers.conftest import DirectContext
from tests.handlers.transcribing import transcribe
from tests.handlers.voices import encoded
from toyworld import card
from toyworld.evaluate import falls_short
from toyworld.scores import whisper as scores
from toyworld.shelf import CHECKPOINTS
from toyworld.train import loop, whisper_bank, whisper_network, whisper_windows
from toyworld.train import whisper as training
from toyworld.train.loop import Course, train
from toyworld.world import speech
from toyworld.world.speech import RATE, Manner, speak
from toyworld.world.speech_codecs import Codec, coded

pytestmark = pytest.mark.handlers

WHISPER = CHECKPOINTS / training.NAME
#: Not those that the card's scores were measured with.
SEED = card.HELD_OUT + 1_000_000


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> Any:
    return scores.load(WHISPER)


@pytest.fixture(scope="module")
def small_bank() -> whisper_bank.Bank:
    return whisper_bank.spoken_bank(12, "test")


def test_words_are_said_one_after_the_other_within_the_sound() -> None:
    for i in range(20):
        chance = random.Random(i)
        sentence = speech.draw_sentence(chance)
        spoken = speak(sentence, speech.draw_manner(chance))
        bounds = [moment for word in spoken.words for moment in (word.start_s, word.end_s)]
        assert tuple(word.text for word in spoken.words) == sentence
        assert bounds == sorted(bounds)
        assert bounds[-1] <= len(spoken.samples) / RATE
        assert all(word.end_s - word.start_s > 0.08 for word in spoken.words)


def test_it_is_loud_where_a_word_is_said_and_quiet_beside() -> None:
    spoken = speak(("seven", "red", "star"), Manner("en-us", 150, 50))
    edges = [round(moment * RATE) for moment in (spoken.words[0].start_s, spoken.words[-1].end_s)]
    loud, after = spoken.samples[edges[0] : edges[1]], spoken.samples[edges[1] + 400 :]
    assert numpy.abs(loud).mean() > 0.02
    assert not len(after) or numpy.abs(after).mean() < 0.003


def test_a_voice_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="no voice 'xx-none'"):
        speak(("red",), Manner("xx-none", 150, 50))


def test_what_judges_was_never_heard_in_training() -> None:
    chance = random.Random(0)
    for _ in range(300):
        assert not speech.is_kept(speech.draw_sentence(chance))
        assert speech.is_kept(speech.draw_sentence(chance, kept=True))
        taught, kept = speech.draw_manner(chance), speech.draw_manner(chance, kept=True)
        assert (taught.words_per_minute % 10, taught.pitch % 5) == (0, 0)
        assert kept.words_per_minute % 10
        assert kept.pitch % 5


@pytest.mark.parametrize("codec", Codec)
def test_a_codec_does_not_move_the_sound(codec: Codec) -> None:
    sound = numpy.pad(speak(("six", "green", "cross"), Manner("en", 150, 50)).samples, (3000, 4000))
    left = coded(sound, codec)
    assert len(left) == len(sound)
    together = numpy.fft.irfft(numpy.fft.rfft(sound).conj() * numpy.fft.rfft(left), len(sound))
    assert min(int(together.argmax()), len(sound) - int(together.argmax())) <= 8


def test_a_composed_window_is_the_spectrogram_that_whisper_computes() -> None:
    import torch

    spoken = speak(("three", "red", "circle"), Manner("en-us", 160, 50)).samples
    sound = numpy.pad(spoken, (800, 16_000 - len(spoken) % 160))
    frames = numpy.full((product.WINDOW_FRAMES, whisper_bank.MELS), whisper_bank.SILENCE, numpy.float32)
    powers = whisper_bank.powers(sound)
    frames[: len(powers)] = powers
    mine = whisper_windows.scaled(torch.from_numpy(frames)[None])[0].T.numpy()
    processor = product.WhisperProcessor("toy", whisper_bank.MELS, ("en",), 1)
    assert numpy.allclose(mine, product.spectrogram(processor, sound), atol=1e-5)


def test_windows_say_what_is_written_where_it_is_said(small_bank: whisper_bank.Bank) -> None:
    names = whisper_windows.vocabulary()
    given = whisper_windows.batch(small_bank, random.Random(3), 24, 400)
    said = 0
    for row in range(24):
        for target, (start, end) in zip(given.targets[row].tolist(), given.written_at[row].tolist(), strict=True):
            if 0 <= target < len(speech.WORDS):
                said += 1
                assert (given.heard[row, 0, start:end] == target + 1).all()
        times = [t - names.first_time for t in given.targets[row].tolist() if t >= names.first_time]
        assert times == sorted(times)
    assert said > 60
    assert given.targets[:, 0].max() in (names.english, names.no_speech)


def test_what_is_taught_and_what_is_saved_are_one_network(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    taught = whisper_network.network().eval()
    names = whisper_windows.vocabulary()
    whisper_network.save(taught, tmp_path)
    loaded = scores.load(tmp_path).network
    tokens = [names.start, names.english, names.transcribe, names.first_time + 20, 3, 10, 18, names.first_time + 90]
    ids = [
        names.ids[token] if token < names.other else names.first_time_id + token - names.first_time for token in tokens
    ]
    mels = torch.rand(1, whisper_bank.MELS, product.WINDOW_FRAMES)
    with torch.no_grad():
        weights = whisper_network.table(taught)
        sound, _ = whisper_network.listen(taught, mels, torch.zeros(1, dtype=torch.long))
        states, _ = whisper_network.read(taught, torch.tensor([tokens]), sound, weights)
        mine = states @ weights.T
        real = loaded(mels, torch.tensor([ids]))
    others = next(token for token in range(50_000) if token not in names.ids)
    columns = [*names.ids, others, *range(names.first_time_id, whisper_files.MULTILINGUAL_VOCABULARY)]
    assert torch.allclose(mine, real[..., columns], atol=0.02)


def test_windows_in_which_nobody_speaks_teach_something_too(small_bank: whisper_bank.Bank) -> None:
    drawn = (whisper_windows.batch(small_bank, random.Random(seed), 1, 400) for seed in range(500))
    silent = next(given for given in drawn if not (given.written_at[..., 1] > given.written_at[..., 0]).any())
    losses = whisper_network.losses(whisper_network.network(), silent)
    assert all(loss.isfinite() for loss in losses.values()), losses


def test_a_training_that_was_interrupted_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_bank: whisper_bank.Bank
) -> None:
    import torch

    monkeypatch.setattr(loop, "_SAVE_EVERY_S", 0.0)

    def trained(folder: Path, steps: int) -> dict[str, Any]:
        torch.manual_seed(0)
        lesson = training.Lesson(small_bank, "cpu", steps=4, at_once=800)
        done = 0

        def losses(step: int, chance: random.Random) -> dict[str, Any]:
            nonlocal done
            if done == steps:
                raise InterruptedError
            done += 1
            return dict(lesson.losses(step, chance))

        train(Course(name="short", steps=4, rate=1e-3, warm_up=2), lesson.network, losses, folder)
        return dict(lesson.network.state_dict())

    whole = trained(tmp_path / "whole", 4)
    with pytest.raises(InterruptedError):
        trained(tmp_path / "parts", 2)
    parts = trained(tmp_path / "parts", 2)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_bank_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "work" / "bank.npz"
    made = whisper_bank.bank(path, 3, "test")
    monkeypatch.setattr(whisper_bank, "spoken_bank", lambda *_: pytest.fail("it was made again"))
    kept = whisper_bank.bank(path, 3, "test")
    assert numpy.array_equal(made.frames, kept.frames)
    assert all(numpy.array_equal(a, b) for a, b in zip(made.times, kept.times, strict=True))


def test_words_are_compared_with_the_fewest_changes() -> None:
    assert scores.compared(["a", "b", "c"], ["a", "b", "c"]) == ([(0, 0), (1, 1), (2, 2)], 0)
    assert scores.compared(["a", "b", "c"], ["a", "x", "c"]) == ([(0, 0), (2, 2)], 1)
    assert scores.compared(["a", "b"], []) == ([], 2)
    assert scores.compared([], ["a"]) == ([], 1)


@pytest.fixture(scope="module")
def reached() -> dict[str, card.Score]:
    """Takes some seconds."""
    return {score.measure: score for score in scores.score(WHISPER, 10, SEED)}


@pytest.mark.parametrize("measure", scores.MEASURES)
def test_it_reaches_on_other_sentences_what_its_card_states(measure: str, reached: dict[str, card.Score]) -> None:
    stated = card.stated(WHISPER)[measure]
    assert stated.value >= stated.at_least
    assert not falls_short(reached[measure], stated)


def test_sound_of_another_sampling_rate_is_not_understood(model: Any) -> None:
    def faster(samples: Any) -> Any:
        return samples[::2].copy()

    given = scores.recordings(6, SEED)
    assert scores.judged(model, given, change=faster).right < 0.5 < 0.85 < scores.judged(model, given).right


async def test_a_lossy_file_is_written_down_by_the_handler(model: Any, tmp_path: Path) -> None:
    [recording] = scores.recordings(1, SEED + 5)
    path = encoded(tmp_path / "said.mp3", recording.samples, "-b:a", "48k")
    found = await transcribe(DirectContext({"tiny-whisper": model}, tmp_path), path, words=True)
    assert found.text == " ".join(word.text for word in recording.words)
    assert found.segments[0].words is not None
    for said, word in zip(recording.words, found.segments[0].words, strict=True):
        assert word.start == pytest.approx(said.start_s, abs=scores.NEAR_S)
        assert word.end == pytest.approx(said.end_s, abs=scores.NEAR_S)


def test_the_language_is_english_and_the_end_of_the_sound_bounds_the_words(model: Any) -> None:
    [recording] = scores.recordings(1, SEED)
    found = scores.transcribed(model, recording.samples)
    assert found.language == "en"
    assert found.language_probability is not None
    assert found.language_probability > 0.9
    assert all(word.end <= len(recording.samples) / RATE for segment in found.segments for word in segment.words)


def test_the_checkpoint_is_small_names_its_heads_and_shares_one_row() -> None:
    from safetensors import safe_open

    assert sum(path.stat().st_size for path in WHISPER.iterdir()) < 11_500_000
    settings = json.loads((WHISPER / "generation_config.json").read_text(encoding="utf-8"))
    assert [tuple(head) for head in settings["alignment_heads"]] == list(whisper_network.ALIGNMENT_HEADS)
    with safe_open(WHISPER / "model.safetensors", framework="numpy") as weights:
        kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
        rows = weights.get_tensor("model.decoder.embed_tokens.weight")
    assert kinds == {"F16"}
    used = len(whisper_windows.vocabulary().ids) + whisper_windows.POSITIONS + 1
    assert len(numpy.unique(rows, axis=0)) == used + 1
