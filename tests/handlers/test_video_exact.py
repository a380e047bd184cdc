"""Which frame of which film is seen, and when its sound is heard: to the frame and to the sample."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests.handlers.films import BLUE, GREEN, RED, edit, hue, number, numbered, onsets, pictures
from tests.handlers.media_material import make


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Films of many kinds."""
    folder = tmp_path_factory.mktemp("films")
    return {
        "cinema": numbered(folder / "cinema.mp4", 120, "24000/1001", RED, beeps=(1.0, 2.0, 3.0)),
        "portrait": numbered(folder / "portrait.mp4", 120, "25", GREEN, size=(90, 160), beeps=(1.5, 2.5), rate=44_100),
        "uneven": numbered(folder / "uneven.mp4", 120, "25", BLUE, uneven=True, beeps=(1.0, 2.5)),
        "silent": numbered(folder / "silent.mp4", 100, "30", RED, beeps=None),
        "quick": numbered(folder / "quick.mp4", 250, "60", GREEN, beeps=(1.0, 2.0)),
        "even": numbered(folder / "even.mp4", 120, "30", BLUE, beeps=(0.5, 1.0, 2.0)),
        "stream": numbered(folder / "stream.ts", 120, "30", RED, beeps=(1.0, 2.0)),
    }


async def test_mixed_material_with_three_crossfades_has_exactly_its_frames_and_its_sound_in_time(
    material: dict[str, Path], tmp_path: Path
) -> None:
    fade = {"type": "fade", "duration": {"f": 15}}
    items: list[dict[str, Any]] = [
        {"type": "video", "asset": "cinema", "in": 0.5, "duration": {"f": 90}},
        {"type": "video", "asset": "portrait", "in": 1.0, "duration": {"f": 90}, "transition": fade, "fit": "cover"},
        {"type": "video", "asset": "uneven", "in": 0.5, "duration": {"f": 90}, "transition": fade},
        {"type": "video", "asset": "silent", "duration": {"f": 62}},
        {"type": "video", "asset": "quick", "in": 0.5, "duration": {"f": 90}, "transition": fade},
    ]
    made = await edit(tmp_path, items, material)
    frames = made.frames()
    assert len(frames) == made.result.frames == 377
    seen = [hue(frames[at]) for at in (0, 74, 92, 149, 167, 239, 240, 285, 303, 376)]
    assert seen == [0, 0, 1, 1, 2, 2, 0, 0, 1, 1]
    # Of the film of 23.976 frames a second, seen from its frame at half a second on.
    assert [number(frames[at]) for at in (0, 30, 60)] == [12, 36, 60]
    assert [number(frames[at]) for at in (240, 265, 286)] == [0, 25, 46]
    assert [number(frames[at]) for at in (303, 340, 376)] == [30 + 2 * (at - 287) for at in (303, 340, 376)]
    sound = made.sound()
    assert abs(len(sound) - 377 * 1600) <= 1024
    heard = onsets(sound)
    # Where the items begin (frames 0, 75, 150, 287), and from `in`.
    expected = [0.5, 1.5, 2.5, 2.5 + 0.5, 2.5 + 1.5, 5 + 0.5, 5 + 2.0, 287 / 30 + 0.5, 287 / 30 + 1.5]
    expected = sorted(set(expected))
    assert len(heard) == len(expected), (heard, expected)
    assert all(abs(a - b) < 0.002 for a, b in zip(heard, expected, strict=True)), (heard, expected)


async def test_uneven_frames_are_shown_when_they_are_due_wherever_the_part_begins(
    material: dict[str, Path], tmp_path: Path
) -> None:
    starts = [0.0, 0.3, 1.5, 2.52]
    items = [{"type": "video", "asset": "uneven", "in": start, "duration": {"f": 20}} for start in starts]
    frames = (await edit(tmp_path, items, material)).frames()
    due = [n / 25 + 0.013 * (n % 3) for n in range(120)]
    for index, start in enumerate(starts):
        for k in range(20):
            moment = start + (k + 0.5) / 30
            shown = number(frames[index * 20 + k])
            assert abs(due[shown] - max(at for at in due if at <= moment)) <= 0.002, (start, k, shown)


async def test_a_transport_stream_is_seen_from_the_frame_that_was_asked_for(
    material: dict[str, Path], tmp_path: Path
) -> None:
    made = await edit(tmp_path, [{"type": "video", "asset": "stream", "in": 1.0, "duration": 2}], material)
    assert [number(picture) for picture in made.frames()] == list(range(30, 90))
    heard = onsets(made.sound())
    assert len(heard) == 2
    assert abs(heard[0]) < 0.025  # a codec of sound begins before the film does, by its first block
    assert abs(heard[1] - 1.0) < 0.025


async def test_parts_at_other_speeds_have_their_frames_and_their_sound_at_their_time(
    material: dict[str, Path], tmp_path: Path
) -> None:
    speeds: list[float | str] = [2, "1/2", "3/2", 0.1, 10]
    items = [{"type": "video", "asset": "even", "in": 0.5, "duration": {"f": 9}, "speed": speed} for speed in speeds]
    made = await edit(tmp_path, items, material)
    shown = [number(picture) for picture in made.frames()]
    assert len(shown) == 45
    sound = made.sound()
    for index, speed in enumerate(speeds):
        factor, part = float(Fraction(speed)), shown[index * 9 : index * 9 + 9]
        # Of the frames that are due within half a frame of the film, the last.
        assert all(abs(part[k] - (15 + k * factor)) <= max(1, factor / 2) for k in range(9)), (speed, part)
        if factor > 2:
            continue  # its beeps are too short to be told apart
        heard = onsets(sound[index * 14_400 : index * 14_400 + 14_400])
        expected = [(beep - 0.5) / factor for beep in (0.5, 1.0, 2.0) if (beep - 0.5) / factor < 0.3]
        assert len(heard) == len(expected), (speed, heard)
        assert all(abs(a - b) < 0.03 for a, b in zip(heard, expected, strict=True)), (speed, heard, expected)


async def test_a_part_played_backwards_ends_with_its_first_frame(material: dict[str, Path], tmp_path: Path) -> None:
    items = [{"type": "video", "asset": "even", "in": 0.5, "duration": 1, "reverse": True}]
    made = await edit(tmp_path, items, material)
    assert [number(picture) for picture in made.frames()] == list(range(44, 14, -1))
    # The beep from 1.0 to 1.05 is heard from 0.45 to 0.5, that at the beginning at the end.
    heard = onsets(made.sound())
    assert [round(at, 2) for at in heard] == [0.45, 0.95]


async def test_a_part_longer_than_its_film_holds_the_last_frame(material: dict[str, Path], tmp_path: Path) -> None:
    items = [{"type": "video", "asset": "silent", "in": 3, "duration": 1, "pad": "freeze"}]
    frames = (await edit(tmp_path, items, material)).frames()
    assert [number(picture) for picture in frames] == [*range(90, 100), *[99] * 20]


async def test_a_range_is_the_same_part_of_the_film(material: dict[str, Path], tmp_path: Path) -> None:
    fade = {"type": "wipeleft", "duration": 0.5}
    items = [
        {"type": "video", "asset": "even", "duration": 2},
        {"type": "video", "asset": "quick", "in": 0.5, "duration": 2, "transition": fade, "fade_out": 0.5},
    ]
    output = {"range": {"start": {"f": 52}, "end": {"f": 100}}}
    whole = await edit(tmp_path / "whole", items, material)
    part = await edit(tmp_path / "part", items, material, output=output)
    everything, some = whole.frames().astype(int), part.frames().astype(int)
    assert len(some) == 48
    assert abs(everything[52:100] - some).mean() < 1.5
    first, sounds = 52 * 1600, part.sound()
    assert abs(whole.sound()[first : first + len(sounds)] - sounds[: len(whole.sound()) - first]).max() < 0.05


async def test_a_film_in_segments_is_the_film_in_one_run(
    material: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fade = {"type": "fade", "duration": {"f": 6}}
    items = [
        {"type": "video", "asset": name, "in": 0.5 + index / 10, "duration": {"f": 20}, **more}
        for index, (name, more) in enumerate(
            (name, more) for more in ({}, {"transition": fade}) for name in ("even", "quick", "cinema")
        )
    ]
    over = [{"type": "color", "color": "#ffffff", "box": {"x": 0, "y": 0, "width": 0.2, "height": 0.2}, "duration": 3}]
    tracks = [{"kind": "video", "items": over}]
    one = await edit(tmp_path / "one", items, material, tracks=tracks)
    monkeypatch.setattr("handlers.video.render.window.SOURCES", 3)
    many = await edit(tmp_path / "many", items, material, tracks=tracks)
    assert one.context.programs < many.context.programs
    everything, joined = one.frames().astype(int), many.frames().astype(int)
    assert everything.shape == joined.shape
    assert abs(everything - joined).mean(axis=(1, 2, 3)).max() < 2.5
    assert abs(one.sound() - many.sound()).max() < 0.001


async def test_behind_its_last_picture_a_film_shows_it_while_its_sound_goes_on(tmp_path: Path) -> None:
    film = numbered(tmp_path / "film.mp4", 15, "30", RED, beeps=None)
    make("-i", film, "-f", "lavfi", "-i", "sine=d=3", "-c:v", "copy", tmp_path / "late.mkv")
    items = [
        {"type": "video", "asset": "late", "in": 2, "duration": {"f": 5}},
        {"type": "video", "asset": "late", "in": 0.4, "duration": {"f": 5}},
    ]
    output = {"poster": {"f": 2}, "range": {"start": {"f": 3}}}
    made = await edit(tmp_path / "out", items, {"late": tmp_path / "late.mkv"}, output=output)
    assert [number(picture) for picture in made.frames()] == [14, 14, 12, 13, 14, 14, 14]
    assert number(pictures(made.path("poster"))[0]) == 14


async def test_a_film_of_few_frames_shows_the_one_that_is_due(tmp_path: Path) -> None:
    slow = numbered(tmp_path / "slow.mp4", 4, "1", RED, beeps=None)
    short = numbered(tmp_path / "short.mp4", 1, "60", RED, beeps=None)
    items: list[dict[str, Any]] = [
        {"type": "video", "asset": "slow", "in": 1.6, "duration": {"f": 6}},
        {"type": "video", "asset": "short", "duration": {"f": 2}, "pad": "freeze"},
    ]
    made = await edit(tmp_path / "out", items, {"slow": slow, "short": short}, output={"fps": 5})
    assert [number(picture) for picture in made.frames()] == [1, 1, 2, 2, 2, 2, 0, 0]


@pytest.mark.parametrize("kind", ["mkv", "mpg"])
async def test_time_begins_with_the_first_picture_where_a_codec_has_its_sound_begin_before(
    material: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    film = tmp_path / f"film.{kind}"
    make("-i", material["even"], *(["-c", "copy"] if kind == "mkv" else ["-c:v", "mpeg2video", "-q:v", "2"]), film)
    items = [{"type": "video", "asset": "film", "in": start, "duration": {"f": 10}} for start in (0, 0.5, 2.2)]
    made = await edit(tmp_path / "out", items, {"film": film})
    assert [number(picture) for picture in made.frames()] == [*range(10), *range(15, 25), *range(66, 76)]
    heard = onsets(made.sound())
    assert len(heard) == 1
    assert abs(heard[0] - 10 / 30) < 0.003
