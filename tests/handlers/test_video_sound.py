"""What is heard: volumes, fades, crossfades, the mix, ducking, loudness."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from handlers.errors import InvalidInput, ResourceExhausted
from handlers.video.render import curves, mix, soundtrack
from tests.handlers.films import beeping, edit, level_db, loudness_of, onsets, samples, tone
from tests.handlers.media_material import make, wav

WAV = {"format": "wav"}


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`low` and `high`: tones of 440 and 2000 Hz, half of full scale, 4 s; `words`: 300 ms of tone from 1 s on; ..."""
    import numpy

    folder = tmp_path_factory.mktemp("sounds")
    words = numpy.zeros(4 * 48_000, numpy.float32)
    spoken = slice(48_000, 2 * 48_000)
    words[spoken] = 0.3 * numpy.sin(2 * numpy.pi * 2000 * numpy.arange(48_000) / 48_000)
    made = {
        "low": tone(folder / "low.wav", 4),
        "high": tone(folder / "high.wav", 4, hz=2000),
        "loud": tone(folder / "loud.wav", 4, level=0.9),
        "words": wav(folder / "words.wav", words.tolist(), 48_000),
        "beeps": wav(folder / "beeps.wav", beeping((0.0, 0.5), 0.75).tolist(), 48_000),
        "nothing": wav(folder / "nothing.wav", [0.0] * 96_000, 48_000),
        "broken": wav(folder / "broken.wav", [0.1, float("nan"), float("inf"), 0.1] * 4000, 48_000),
    }
    for suffix in ("mp3", "m4a", "ogg"):
        made[suffix] = folder / f"long.{suffix}"
        long = wav(folder / "long.wav", beeping((0.5, 1.5, 2.5), 3).tolist(), 48_000)
        make("-i", long, *(["-q:a", "5"] if suffix == "mp3" else []), made[suffix])
    return made


def audio(*items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "audio", "items": list(items), **more}


async def heard(folder: Path, sounds: dict[str, Path], *tracks: dict[str, Any], **output: Any) -> Any:
    """The samples, at 48 kHz."""
    made = await edit(folder, None, sounds, tracks=tracks, output={**WAV, **output})
    return made.sound("audio")


def part(sound: Any, start: float, end: float) -> Any:
    return sound[round(start * 48_000) : round(end * 48_000)]


async def test_sounds_of_all_tracks_are_summed_without_being_made_quieter(
    sounds: dict[str, Path], tmp_path: Path
) -> None:
    low = {"type": "audio", "asset": "low", "duration": 2}
    high = {"type": "audio", "asset": "high", "duration": 1, "volume": 0.5}
    sound = await heard(tmp_path, sounds, audio(low, volume=0.5), audio(high))
    assert len(sound) == 96_000
    alone = level_db(part(sound, 1.1, 1.9))
    assert alone == pytest.approx(-15.05, abs=0.1)  # a sine at a quarter of full scale
    assert level_db(part(sound, 0.1, 0.9)) == pytest.approx(alone + 3.01, abs=0.1)


async def test_a_volume_curve_is_followed_in_straight_lines(sounds: dict[str, Path], tmp_path: Path) -> None:
    import numpy

    curve: list[list[float]] = [[0, 0], [1, 1], [2, 1], [3, 0.5]]
    sound = await heard(tmp_path, sounds, audio({"type": "audio", "asset": "low", "duration": 4, "volume": curve}))
    for at in (0.25, 0.5, 0.75, 1.5, 2.5, 3.5):
        around = part(sound, at - 0.025, at + 0.025)
        expected = numpy.interp(at, [t for t, _ in curve], [v for _, v in curve]) * 0.5
        assert abs(around).max() == pytest.approx(expected, abs=0.02), at


async def test_fades_of_sound_begin_and_end_in_silence(sounds: dict[str, Path], tmp_path: Path) -> None:
    item = {"type": "audio", "asset": "low", "duration": 3, "fade_in": 1, "fade_out": 0.5}
    sound = await heard(tmp_path, sounds, audio(item))
    peaks = [float(abs(part(sound, at, at + 0.02)).max()) for at in (0, 0.49, 1, 2, 2.74, 2.98)]
    assert peaks == pytest.approx([0.005, 0.25, 0.5, 0.5, 0.25, 0.01], abs=0.02)


async def test_a_crossfade_is_that_of_ffmpeg(sounds: dict[str, Path], tmp_path: Path) -> None:
    items = [
        {"type": "audio", "asset": "low", "duration": 2},
        {"type": "audio", "asset": "high", "duration": 2, "transition": {"duration": 1, "audio_curve": "qsin"}},
    ]
    sound = await heard(tmp_path, sounds, audio(*items))
    reference = tmp_path / "reference.wav"
    graph = "[0]atrim=end=2[a];[1]atrim=end=2[b];[a][b]acrossfade=d=1:c1=qsin:c2=qsin"
    make("-i", sounds["low"], "-i", sounds["high"], "-filter_complex", graph, reference)
    expected = samples(reference)
    assert len(sound) == len(expected) == 144_000
    assert abs(sound - expected).max() < 0.001


def test_every_curve_is_that_of_ffmpeg(tmp_path: Path) -> None:
    import numpy

    names = sorted(curves.NAMES)
    outputs: list[str | Path] = []
    for name in names:
        fade = f"afade=t=in:ns=1000:curve={name}"
        outputs += ["-map", "0", "-af", fade, "-f", "f32le", "-c:a", "pcm_f32le", tmp_path / name]
    make("-f", "lavfi", "-i", "aevalsrc=1:s=48000:d=0.02", *outputs)
    for name in names:
        theirs = numpy.fromfile(tmp_path / name, numpy.float32)[:960]
        ours = curves.gain(name, numpy.arange(960) / 1000)
        assert abs(theirs - ours).max() < 0.001, name


async def test_music_gives_way_while_words_are_heard_and_comes_back(sounds: dict[str, Path], tmp_path: Path) -> None:
    import numpy

    music = {"type": "audio", "asset": "low", "duration": 4}
    words = {"type": "audio", "asset": "words", "duration": 4}
    duck = {"by": ["dialogue"], "db": -12, "attack": 0.1, "release": 0.4}
    sound = await heard(tmp_path, sounds, audio(music, role="music", duck=duck), audio(words, role="dialogue"))

    def music_db(start: float, end: float) -> float:
        spectrum = numpy.abs(numpy.fft.rfft(part(sound, start, end)))
        return float(20 * numpy.log10(spectrum[round(440 * (end - start))]) - 20 * numpy.log10((end - start) * 24_000))

    before = music_db(0.5, 0.9)
    assert before == pytest.approx(-6, abs=0.1)
    assert music_db(1.2, 1.9) == pytest.approx(before - 12, abs=0.3)
    assert music_db(2.0, 2.2) == pytest.approx(before - 12, abs=0.3)  # as after a word
    assert music_db(3.0, 3.5) == pytest.approx(before, abs=0.1)


async def test_a_loop_begins_anew_to_the_sample(sounds: dict[str, Path], tmp_path: Path) -> None:
    item = {"type": "audio", "asset": "beeps", "duration": 3, "loop": True}
    sound = await heard(tmp_path, sounds, audio(item))
    assert onsets(sound) == pytest.approx([0, 0.5, 0.75, 1.25, 1.5, 2.0, 2.25, 2.75], abs=0.001)


async def test_a_part_of_any_codec_begins_where_it_was_asked_to(sounds: dict[str, Path], tmp_path: Path) -> None:
    items = [{"type": "audio", "asset": codec, "in": 1.25, "duration": 1.5} for codec in ("mp3", "m4a", "ogg")]
    sound = await heard(tmp_path, sounds, audio(*items))
    assert len(sound) == 3 * 72_000
    assert onsets(sound) == pytest.approx([0.25, 1.25, 1.75, 2.75, 3.25, 4.25], abs=0.004)


@pytest.mark.parametrize(("asset", "target"), [("low", -23.0), ("words", -18.0)])
async def test_loudness_is_set_to_what_was_asked_for(
    sounds: dict[str, Path], tmp_path: Path, asset: str, target: float
) -> None:
    item = {"type": "audio", "asset": asset, "duration": 4}
    output = {**WAV, "loudness": {"i": target, "tp": -1.5, "lra": 20}}
    made = await edit(tmp_path, None, sounds, tracks=[audio(item)], output=output)
    assert made.result.loudness.i == pytest.approx(target, abs=0.6)
    assert loudness_of(made.path("audio")) == pytest.approx(made.result.loudness.i, abs=0.3)
    assert abs(made.sound("audio")).max() <= 10 ** (-1.4 / 20)


async def test_silence_and_the_shortest_sounds_have_no_loudness_and_are_left(
    sounds: dict[str, Path], tmp_path: Path
) -> None:
    output = {**WAV, "loudness": {}}
    silent = await edit(
        tmp_path / "a", None, sounds, tracks=[audio({"type": "audio", "asset": "nothing"})], output=output
    )
    assert silent.result.loudness is None
    assert "silence" in silent.result.warnings[0]
    item = {"type": "audio", "asset": "low", "duration": 0.2}
    short = await edit(tmp_path / "b", None, sounds, tracks=[audio(item)], output=output)
    assert "shorter than 0.4 seconds" in short.result.warnings[0]
    assert level_db(short.sound("audio")) == pytest.approx(-9.03, abs=0.1)


async def test_sounds_that_are_too_loud_together_are_limited_and_not_cut_off(
    sounds: dict[str, Path], tmp_path: Path
) -> None:
    items = [audio({"type": "audio", "asset": asset, "duration": 2}) for asset in ("loud", "high")]
    made = await edit(tmp_path, None, sounds, tracks=items, output=WAV)
    sound = made.sound("audio")
    assert "limiter" in made.result.warnings[0]
    assert len(sound) == 96_000
    assert abs(sound).max() <= 0.985
    assert (abs(sound) > 0.979).mean() < 0.1


async def test_samples_that_are_not_numbers_become_silence(sounds: dict[str, Path], tmp_path: Path) -> None:
    made = await edit(tmp_path, None, sounds, tracks=[audio({"type": "audio", "asset": "broken"})], output=WAV)
    assert abs(made.sound("audio")).max() <= 0.11


async def test_the_sound_of_a_film_that_has_none_is_silence(tmp_path: Path) -> None:
    items = [{"type": "color", "color": "#ff0000", "duration": 1}]
    made = await edit(tmp_path, items)
    assert abs(made.sound()).max() == 0
    assert abs(len(made.sound()) - 48_000) <= 1024


async def test_a_round_of_one_sample_is_read_once_for_all_of_its_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    read = mix._from

    def counted(file: BinaryIO, at: int, count: int) -> Any:
        asked.append(count)
        return read(file, at, count)

    monkeypatch.setattr(mix, "_from", counted)
    one = wav(tmp_path / "one.wav", [0.5], 48_000)
    sound = await heard(
        tmp_path / "out", {"one": one}, audio({"type": "audio", "asset": "one", "loop": True, "duration": 30})
    )
    assert len(sound) == 30 * 48_000
    assert abs(sound - 0.5).max() < 0.001
    assert asked == [1, 1]


async def test_samples_beyond_all_measure_are_held_down_with_the_rest(tmp_path: Path) -> None:
    huge = wav(tmp_path / "huge.wav", [3e38, -3e38] * 4000, 48_000)
    track = audio({"type": "audio", "asset": "huge", "volume": 10}, volume=10)
    sound = await heard(tmp_path / "out", {"huge": huge}, track, track, format="m4a")
    assert 0 < abs(sound).max() <= 1.2


async def test_a_mix_far_louder_than_full_scale_comes_to_its_loudness(tmp_path: Path) -> None:
    import numpy

    at = numpy.arange(96_000)
    loud = wav(tmp_path / "loud.wav", (0.9 * numpy.sin(at / 10) * (at % 48_000 < 4000)).tolist(), 48_000)
    track = audio({"type": "audio", "asset": "loud", "volume": 10}, volume=10)
    loudness = {"i": -20, "tp": -9}
    made = await edit(
        tmp_path / "out", None, {"loud": loud}, tracks=[track, track], output={**WAV, "loudness": loudness}
    )
    assert made.result.loudness.i == pytest.approx(-20, abs=2)
    assert abs(made.sound("audio")).max() < 0.5


async def test_sounds_are_on_disk_only_while_they_are_mixed(
    sounds: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mix, "_BLOCK_HOPS", 25)
    most: list[int] = []
    block = mix.Mixer.block

    def counted(mixer: mix.Mixer) -> float:
        most.append(len(list(mixer.out.parent.glob("sound*"))))
        return block(mixer)

    monkeypatch.setattr(mix.Mixer, "block", counted)
    items = [{"type": "audio", "asset": "low", "in": index / 10, "duration": 0.5} for index in range(6)]
    made = await edit(tmp_path, None, sounds, tracks=[audio(*items)], output=WAV)
    assert len(made.sound("audio")) == 3 * 48_000
    assert len(most) == 12
    assert max(most) <= 3
    assert list(made.context.scratch.glob("sound*")) == []


@pytest.mark.parametrize(
    ("bytes_", "free", "error"), [(1000, 1 << 40, InvalidInput), (1 << 40, 1000, ResourceExhausted)]
)
async def test_more_sound_than_there_is_room_for_is_refused_before_it_is_decoded(
    sounds: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_: int, free: int, error: Any
) -> None:
    monkeypatch.setattr(soundtrack, "_MOST_BYTES", bytes_)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(error, match="parts of the film first"):
        await edit(tmp_path, None, sounds, tracks=[audio({"type": "audio", "asset": "low"})], output=WAV)
    assert list(tmp_path.rglob("*.f32le")) == []
