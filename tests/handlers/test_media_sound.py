"""Sound of every container, rate and number of channels becomes one stream of samples."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from handlers.errors import InvalidInput
from handlers.media.probe import probe
from handlers.media.sound import Sound, decode
from tests.handlers import media_material as material
from tests.handlers.conftest import LIMITS, DirectContext

pytestmark = pytest.mark.handlers


@pytest.fixture
def direct(tmp_path: Path) -> DirectContext:
    return DirectContext({}, tmp_path)


async def heard(direct: DirectContext, path: Path, *, rate: int = 16_000, track: int = 0) -> tuple[Any, Sound]:
    """All samples of a file as one array."""
    import numpy

    facts = await probe(direct, path, "inputs/audio")
    async with decode(direct, path, facts, "inputs/audio", rate=rate, track=track) as sound:
        blocks = [block async for block in sound]
    assert all(block.dtype == numpy.float32 and block.shape == (rate,) for block in blocks[:-1])
    assert all(block.flags.writeable for block in blocks)
    samples = numpy.concatenate(blocks)
    assert len(samples) == sound.samples
    assert numpy.isfinite(samples).all()
    assert abs(samples).max() <= 1
    return samples, sound


def pitch(samples: Any, rate: int = 16_000) -> float:
    """The loudest frequency, in hertz."""
    import numpy

    spectrum = abs(numpy.fft.rfft(samples * numpy.hanning(len(samples))))
    return float(spectrum.argmax() * rate / len(samples))


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac", "a.ogg", "a.opus", "a.m4a", "a.aac", "a.wma", "a.aiff"])
async def test_every_container_sounds_the_same(name: str, direct: DirectContext, tmp_path: Path) -> None:
    made = material.sound(tmp_path / name, 1.5, channels=2)
    samples, sound = await heard(direct, made.rename(tmp_path / "object"))
    assert sound.seconds == pytest.approx(1.5, abs=0.1)
    assert pitch(samples) == pytest.approx(440, abs=2)
    assert abs(samples[4000:16000]).max() == pytest.approx(0.088, abs=0.015)  # -3 dB of one channel in two
    assert not sound.damaged


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 96_000, 192_000])
async def test_every_rate_sounds_the_same(rate: int, direct: DirectContext, tmp_path: Path) -> None:
    tone = [0.5 * math.sin(880 * math.pi * n / rate) for n in range(rate)]
    samples, sound = await heard(direct, material.wav(tmp_path / "a.wav", tone, rate=rate))
    assert sound.samples == pytest.approx(16_000, abs=2)
    assert pitch(samples) == pytest.approx(440, abs=2)


async def test_another_rate_may_be_asked_for(direct: DirectContext, tmp_path: Path) -> None:
    samples, _ = await heard(direct, material.sound(tmp_path / "a.wav", 1), rate=24_000)
    assert len(samples) == 24_000
    assert pitch(samples, 24_000) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("only", [0, 2, 5])
async def test_every_channel_of_surround_is_heard(only: int, direct: DirectContext, tmp_path: Path) -> None:
    samples, _ = await heard(direct, material.surround(tmp_path / "a.wav", 0.5, only=only))
    assert abs(samples).max() > 0.04
    assert pitch(samples) == pytest.approx(440, abs=4)


async def test_all_channels_together_are_not_louder_than_each(direct: DirectContext, tmp_path: Path) -> None:
    samples, _ = await heard(direct, material.surround(tmp_path / "a.wav", 0.5))
    assert abs(samples).max() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("channels", [2, 3, 10, 64])
async def test_channels_of_which_nobody_says_what_they_are_are_mixed_alike(
    channels: int, direct: DirectContext, tmp_path: Path
) -> None:
    frame = [0.75] + [0.25] * (channels - 1)
    samples, _ = await heard(direct, material.wav(tmp_path / "a.wav", frame * 1600, channels=channels))
    assert len(samples) == 1600
    assert samples[800] == pytest.approx(sum(frame) / channels, abs=1e-3)


async def test_samples_that_are_not_numbers_are_silence_and_counted(direct: DirectContext, tmp_path: Path) -> None:
    values = [0.5] * 1000 + [math.nan] * 10 + [0.5] * 10 + [math.inf, -math.inf] + [0.5] * 1000
    samples, sound = await heard(direct, material.wav(tmp_path / "a.wav", values))
    assert sound.silenced == 12
    assert samples[1005] == 0
    assert samples[500] == samples[1500] == 0.5
    resampled, sound = await heard(direct, material.wav(tmp_path / "b.wav", values, rate=48_000))
    assert sound.silenced >= 4
    assert abs(resampled[:300] - 0.5)[20:].max() < 0.01
    assert abs(resampled[-300:] - 0.5)[:-20].max() < 0.01


async def test_samples_beyond_full_scale_are_clipped(direct: DirectContext, tmp_path: Path) -> None:
    samples, _ = await heard(direct, material.wav(tmp_path / "a.wav", [7.0] * 100 + [-1e30] * 100))
    assert (samples[50], samples[150]) == (1, -1)


async def test_one_sample_is_sound_and_none_is_an_error(direct: DirectContext, tmp_path: Path) -> None:
    samples, _ = await heard(direct, material.wav(tmp_path / "a.wav", [0.5]))
    assert samples.tolist() == [0.5]
    with pytest.raises(InvalidInput, match="neither sound nor film in it"):
        await heard(direct, material.wav(tmp_path / "b.wav", []))


async def test_a_film_without_sound_is_refused_by_name(direct: DirectContext, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="inputs/audio has no sound"):
        await heard(direct, material.clip(tmp_path / "a.mp4", 0.2, audio=None))


async def test_the_sound_of_a_film_keeps_to_its_clock(direct: DirectContext, tmp_path: Path) -> None:
    late = tmp_path / "late.mkv"
    material.make(
        "-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=2", "-itsoffset", "0.5", "-f", "lavfi", "-t", "1", "-i",
        "sine=f=440:r=48000", "-c:v", "mjpeg", "-c:a", "pcm_s16le", late,
    )  # fmt: skip
    samples, sound = await heard(direct, late)
    assert sound.seconds == pytest.approx(1.5, abs=0.02)
    assert abs(samples[:7800]).max() == 0
    assert abs(samples[8200:8600]).max() > 0.1


async def test_a_hole_in_the_sound_is_silence_and_shifts_nothing(direct: DirectContext, tmp_path: Path) -> None:
    hole = tmp_path / "hole.mkv"
    kept = "aselect='not(between(t,1,2))'"
    material.make("-f", "lavfi", "-t", "3", "-i", "sine=f=440:r=48000", "-af", kept, "-c:a", "pcm_s16le", hole)
    samples, sound = await heard(direct, hole)
    assert sound.seconds == pytest.approx(3, abs=0.03)
    assert abs(samples[17_000:31_000]).max() == 0
    assert abs(samples[33_000:47_000]).max() > 0.1


@pytest.mark.parametrize("name", ["a.aac", "a.ts", "a.ogg", "a.mp3"])
async def test_sound_that_changes_its_rate_and_channels_midway_goes_on_at_once(
    name: str, direct: DirectContext, tmp_path: Path
) -> None:
    parts = [(44_100, 1), (48_000, 2), (44_100, 1)]
    samples, sound = await heard(direct, material.one_behind_the_other(tmp_path / name, parts))
    assert sound.seconds == pytest.approx(6, abs=0.6)
    assert min(abs(samples[at : at + 8000]).max() for at in range(1600, len(samples) - 9600, 8000)) > 0.05


async def test_the_sound_of_a_broadcast_keeps_to_the_clock_of_its_pictures(
    direct: DirectContext, tmp_path: Path
) -> None:
    late = tmp_path / "late.ts"
    material.make(
        "-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=2", "-itsoffset", "0.5", "-f", "lavfi", "-t", "1", "-i",
        "sine=f=440:r=48000", "-c:v", "mpeg2video", "-c:a", "mp2", late,
    )  # fmt: skip
    samples, sound = await heard(direct, late)
    assert sound.seconds == pytest.approx(1.5, abs=0.06)
    assert abs(samples[:7000]).max() == 0
    assert abs(samples[8800:9600]).max() > 0.1


async def test_a_second_sound_track_may_be_chosen(direct: DirectContext, tmp_path: Path) -> None:
    two = tmp_path / "two.mkv"
    tones = [part for tone in (440, 880) for part in ("-f", "lavfi", "-t", "0.5", "-i", f"sine=f={tone}:r=16000")]
    material.make(*tones, "-map", "0", "-map", "1", "-c:a", "pcm_s16le", two)
    assert pitch((await heard(direct, two))[0]) == pytest.approx(440, abs=4)
    assert pitch((await heard(direct, two, track=1))[0]) == pytest.approx(880, abs=4)


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.ogg", "a.flac"])
async def test_of_a_file_that_is_cut_off_what_is_there_is_heard(
    name: str, direct: DirectContext, tmp_path: Path
) -> None:
    cut = material.cut(material.sound(tmp_path / name, 4), 0.6, tmp_path / "cut")
    samples, sound = await heard(direct, cut)
    assert 1 < sound.seconds < 3
    assert pitch(samples[:16_000]) == pytest.approx(440, abs=2)
    assert sound.damaged


async def test_damage_in_the_middle_is_passed_over_and_said(direct: DirectContext, tmp_path: Path) -> None:
    path = material.sound(tmp_path / "a.flac", 3)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path.write_bytes(data)
    samples, sound = await heard(direct, path)
    assert sound.damaged
    assert pitch(samples[-8000:]) == pytest.approx(440, abs=4)


async def test_a_file_of_which_nothing_can_be_decoded_is_refused(direct: DirectContext, tmp_path: Path) -> None:
    path = material.sound(tmp_path / "a.m4a", 1)
    facts = await probe(direct, path, "inputs/audio")
    data = bytearray(path.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[start:end] = b"\xff" * (end - start)
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=r"inputs/audio (cannot be decoded|has a sound track without)"):
        async with decode(direct, path, facts, "inputs/audio") as sound:
            assert [block async for block in sound] == []


async def test_sound_that_goes_on_beyond_the_limit_is_not_followed(direct: DirectContext, tmp_path: Path) -> None:
    path = material.sound(tmp_path / "a.wav", 5)
    facts = await probe(direct, path, "inputs/audio")
    direct.limits = LIMITS.model_copy(update={"max_seconds": 2})
    with pytest.raises(InvalidInput, match="more than the limit of 2 seconds"):
        async with decode(direct, path, facts, "inputs/audio") as sound:
            assert len([block async for block in sound]) <= 4


async def test_speeds_that_no_sound_has_are_refused(direct: DirectContext, tmp_path: Path) -> None:
    for rate in (1, 0x7FFF_FFFF):
        with pytest.raises(InvalidInput, match="samples a second, which is no sound"):
            await heard(direct, material.wav(tmp_path / "a.wav", [0.1] * 100, rate=rate))


_MEMORY = """
import json, re, sys
from pathlib import Path
import anyio, numpy
from handlers.media.probe import probe
from handlers.media.sound import decode
from tests.handlers.conftest import DirectContext
def now():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
async def main():
    direct, path = DirectContext({}, Path(sys.argv[1]).parent), Path(sys.argv[1])
    facts = await probe(direct, path, "a")
    async with decode(direct, path, facts, "a") as sound:
        blocks = aiter(sound)
        await anext(blocks)
        before = now()
        async for _ in blocks:
            pass
    print(json.dumps({"grown": now() - before, "seconds": sound.seconds}))
anyio.run(main)
"""


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    path = material.sound(tmp_path / "a.flac", 400, 16_000, source="anullsrc")
    done = subprocess.run([sys.executable, "-c", _MEMORY, str(path)], capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert said["seconds"] == 400
    assert said["grown"] < 6  # MiB; all samples are 24
