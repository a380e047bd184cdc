"""`audio.transcribe` of odd files: the right result, or an error that says what is wrong."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy
import pytest

from handlers.errors import InvalidInput
from handlers.models.whisper import WhisperModel
from tests.handlers.transcribing import Told, says, transcribe
from tests.handlers.voices import RATE, encoded, silence, speech

pytestmark = pytest.mark.handlers


ODD = [
    ("8 kHz.wav", ["-ar", "8000"]), ("192 kHz.flac", ["-ar", "192000"]), ("stereo.mp3", ["-ac", "2"]),
    ("5.1.wav", ["-ac", "6"]), ("opus.ogg", ["-c:a", "libopus"]), ("aac.m4a", ["-c:a", "aac"]),
    ("8 bits.wav", ["-c:a", "pcm_u8"]), ("raw.mkv", ["-c:a", "pcm_f32le"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), ODD, ids=[name for name, _ in ODD])
async def test_speech_is_heard_in_whatever_it_comes(
    hearing: Told, whisper: WhisperModel, tmp_path: Path, name: str, options: list[str]
) -> None:
    hearing.answer = lambda sample: says(whisper, 0.0, " heard", 1.0)
    path = encoded(tmp_path / name, numpy.concatenate([silence(1), speech(3), silence(1)]), *options)
    result = await transcribe(hearing, path, language="en")
    assert result.text == "heard"
    assert result.duration_s == pytest.approx(5, abs=0.1)
    assert result.speech_s == pytest.approx(3, abs=0.5)
    assert not result.damaged


def film(path: Path, sound: Any | None) -> Path:
    """A film of two seconds or as long as its sound."""
    pictures = ["-f", "lavfi", "-i", "color=c=red:s=64x64:r=10:d=2"]
    voices = [] if sound is None else ["-f", "f32le", "-ar", str(RATE), "-ac", "1", "-i", "pipe:0"]
    data = None if sound is None else sound.astype("<f4").tobytes()
    command = ["ffmpeg", "-y", "-loglevel", "error", *pictures, *voices, "-c:v", "mpeg4", str(path)]
    subprocess.run(command, input=data, stdin=subprocess.DEVNULL if data is None else None, check=True)
    return path


async def test_a_film_with_sound_is_written_down(hearing: Told, whisper: WhisperModel, tmp_path: Path) -> None:
    hearing.answer = lambda sample: says(whisper, 0.0, " heard", 1.0)
    result = await transcribe(hearing, film(tmp_path / "a.mp4", speech(4)), language="en")
    assert result.text == "heard"
    assert hearing.probes["inputs/audio"]["width"] == 64


async def test_a_film_without_sound_is_refused_with_the_fix(hearing: Told, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^inputs/audio has no sound.*send a file with a sound track"):
        await transcribe(hearing, film(tmp_path / "a.mp4", None))
    assert hearing.outputs == {}


async def test_what_is_no_sound_is_refused(hearing: Told, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InvalidInput, match=r"^inputs/audio"):
        await transcribe(hearing, path)


async def test_a_recording_of_one_sample_is_silence(hearing: Told, tmp_path: Path) -> None:
    result = await transcribe(hearing, encoded(tmp_path / "a.wav", numpy.full(1, 0.5, dtype=numpy.float32)))
    assert (result.text, result.duration_s) == ("", 0)


async def test_a_recording_without_a_sample_is_refused(hearing: Told, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^inputs/audio"):
        await transcribe(hearing, encoded(tmp_path / "a.wav", silence(0)))


async def test_samples_that_are_not_numbers_are_silence(hearing: Told, whisper: WhisperModel, tmp_path: Path) -> None:
    hearing.answer = lambda sample: says(whisper, 0.0, " heard", 1.0)
    sound = numpy.concatenate([speech(3), silence(2)])
    sound[3 * RATE : 4 * RATE : 7] = numpy.nan
    sound[4 * RATE :: 5] = numpy.inf
    result = await transcribe(hearing, encoded(tmp_path / "a.wav", sound, "-c:a", "pcm_f32le"), language="en")
    assert result.text == "heard"
    assert all(numpy.isfinite(sample.mel).all() for sample in hearing.samples)


async def test_a_file_that_is_cut_off_gives_what_there_is_and_says_so(
    hearing: Told, whisper: WhisperModel, tmp_path: Path
) -> None:
    hearing.answer = lambda sample: says(whisper, 0.0, " heard", 1.0)
    whole = encoded(tmp_path / "a.flac", speech(20)).read_bytes()
    path = tmp_path / "cut.flac"
    path.write_bytes(whole[: len(whole) // 2])
    result = await transcribe(hearing, path, language="en")
    assert result.text == "heard"
    assert result.damaged
    assert 5 < result.duration_s < 15
