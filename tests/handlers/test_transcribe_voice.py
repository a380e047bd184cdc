"""Where somebody speaks: the package's own answers, in blocks of any size."""

from __future__ import annotations

import sys
import threading
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy
import pytest

from handlers.audio.voice import FRAME, RATE, Voice
from tests.handlers.voices import music, noise, silence, speech

pytestmark = pytest.mark.handlers


def whole(samples: Any) -> Any:
    return samples[: len(samples) // FRAME * FRAME]


def test_probabilities_are_those_of_the_packages_own_model() -> None:
    import torch

    found = find_spec("silero_vad")
    assert found is not None
    assert found.origin is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        own = torch.jit.load(Path(found.origin).parent / "data" / "silero_vad.jit")
    samples = whole(numpy.concatenate([speech(4), silence(1), music(2), noise(2), speech(2, seed=2) * 0.05]))
    with torch.no_grad():
        expected = [own(torch.from_numpy(samples[i : i + FRAME]), RATE).item() for i in range(0, len(samples), FRAME)]
    assert numpy.abs(Voice().probabilities(samples) - expected).max() < 1e-5


@pytest.mark.parametrize("frames", [1, 7, 250])
def test_blocks_of_any_size_give_the_same(frames: int) -> None:
    samples = whole(numpy.concatenate([silence(1), speech(3), noise(1)]))
    voice = Voice()
    step = frames * FRAME
    found = numpy.concatenate([voice.probabilities(samples[i : i + step]) for i in range(0, len(samples), step)])
    assert numpy.abs(found - Voice().probabilities(samples)).max() < 1e-5


def test_recordings_do_not_hear_each_other() -> None:
    samples = [whole(speech(3, seed=1)), whole(music(3)), whole(noise(3))]
    expected = [Voice().probabilities(each) for each in samples]
    found: dict[int, Any] = {}

    def listen(number: int) -> None:
        voice, each = Voice(), samples[number]
        parts = [voice.probabilities(each[i : i + 8 * FRAME]) for i in range(0, len(each), 8 * FRAME)]
        found[number] = numpy.concatenate(parts)

    threads = [threading.Thread(target=listen, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(numpy.abs(found[number] - expected[number]).max() < 1e-5 for number in range(3))


@pytest.mark.parametrize(("sound", "least", "most"), [
    (speech(8), 0.9, 1.0), (silence(8), 0.0, 0.0), (music(8), 0.0, 0.0), (noise(8), 0.0, 0.0),
], ids=["speech", "silence", "music", "noise"])  # fmt: skip
def test_speech_is_told_from_what_is_none(sound: Any, least: float, most: float) -> None:
    share = (Voice().probabilities(whole(sound)) > 0.5).mean()
    assert least <= share <= most


def test_no_samples_have_no_probabilities() -> None:
    assert len(Voice().probabilities(silence(0))) == 0


def test_a_part_of_a_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="100 samples are no whole number"):
        Voice().probabilities(silence(0.00625))


def test_the_package_which_would_take_all_threads_but_one_is_not_imported() -> None:
    Voice().probabilities(silence(1)[:FRAME])
    assert "silero_vad" not in sys.modules
