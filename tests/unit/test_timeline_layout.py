"""From a timeline to whole frames."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from handlers.video.timeline.layout import AssetFacts
from handlers.video.timeline.plan import (
    AudioEncoding,
    Box,
    Duck,
    Fit,
    ItemKind,
    Role,
    SubtitleMode,
    Transition,
    VideoCodec,
    VideoEncoding,
)
from tests.unit.timelines import ASSETS, color, film, items, message, music, planned, sound

CROSSFADE = {"type": "fade", "duration": 1}
GAP = {"type": "gap", "duration": 1}


def spans(params: dict[str, Any], track: int = 0) -> list[tuple[str, int, int]]:
    """Kind, first frame and the frame after the last of each item."""
    return [(str(item.kind), item.start, item.end) for item in items(params, track)]


def test_items_follow_one_another() -> None:
    assert spans(message([color(1), color(2), GAP, color(1)])) == [
        ("color", 0, 30),
        ("color", 30, 90),
        ("gap", 90, 120),
        ("color", 120, 150),
    ]


def test_a_transition_lets_an_item_begin_earlier() -> None:
    first, second = items(message([color(3), color(2, transition=CROSSFADE | {"audio_curve": "qsin"})]))
    assert (first.end, second.start, second.end) == (90, 60, 120)
    assert second.transition == Transition("fade", 30, "qsin")
    assert first.transition is None


def test_at_leaves_a_gap_before_an_item() -> None:
    assert spans(message([color(1), color(1, at=2)])) == [("color", 0, 30), ("gap", 30, 60), ("color", 60, 90)]
    assert spans(message([color(1, at={"f": 7})])) == [("gap", 0, 7), ("color", 7, 37)]


def test_an_at_that_falls_on_the_same_frame_as_the_end_before_it_leaves_nothing_between() -> None:
    assert spans(message([color("10/3"), color(1, at=3.33)])) == [("color", 0, 100), ("color", 100, 130)]


def test_times_are_snapped_from_the_beginning_so_that_nothing_drifts() -> None:
    params = message([color(0.1) for _ in range(100)], fps="24000/1001")
    ends = [item.end for item in items(params)]
    assert ends == [int(Fraction(n, 10) * Fraction(24000, 1001) + Fraction(1, 2)) for n in range(1, 101)]
    assert ends[-1] == 240


def test_a_film_lasts_to_the_end_of_its_asset() -> None:
    params = message([film(begin=2), film(speed=2, begin=4), film(duration=1)])
    assert spans(params) == [("video", 0, 200), ("video", 200, 275), ("video", 275, 300)]
    source = items(params)[1].source
    assert source is not None
    assert (source.start, source.length, source.speed) == (Fraction(4), Fraction(6), Fraction(2))


def test_freeze_holds_the_last_picture_where_the_asset_is_too_short() -> None:
    [item] = items(message([film(duration=12, pad="freeze", begin=4)]))
    assert item.source is not None
    assert (item.frames, item.source.freeze, item.source.length) == (300, 150, Fraction(6))


def test_one_frame_may_be_wanting_in_an_asset() -> None:
    assets = ASSETS | {"film": AssetFacts("video", Fraction("9.99"), 640, 360, Fraction(25))}
    [item] = planned(message([film(duration=10)]), assets).tracks[0].items
    assert item.frames == 250


def test_the_longest_main_track_gives_the_film_its_length() -> None:
    overlay = {"kind": "video", "items": [color(9)]}
    params = message([color(3)], overlay, {"kind": "video", "role": "main", "items": [color(4)]}, sound(music()))
    plan = planned(params)
    assert [track.role for track in plan.tracks] == [Role.OVERLAY, Role.OVERLAY, Role.MAIN, Role.MUSIC]
    assert plan.frames == 120
    assert [track.items[-1].end for track in plan.tracks] == [90, 120, 120, 120]


def test_without_a_main_track_the_longest_video_track_does_and_without_video_the_longest_audio_track() -> None:
    overlays = [{"kind": "video", "role": "overlay", "items": [color(n)]} for n in (2, 3)]
    assert planned(message(*overlays, sound(music()))).frames == 90
    assert planned(message(sound(music(duration=5)), sound(music()), format="mp3")).frames == 210


def test_a_picture_without_a_duration_lasts_as_long_as_the_film() -> None:
    title = {"type": "text", "text": "A", "at": 1}
    plan = planned(message([color(4)], [title], [color("auto"), color(1, at=2.5, transition=CROSSFADE), color("auto")]))
    assert [(item.start, item.end) for item in plan.tracks[1].items] == [(0, 30), (30, 120)]
    assert [(item.start, item.end) for item in plan.tracks[2].items] == [(0, 105), (75, 105), (105, 120)]


def test_a_picture_alone_lasts_as_long_as_the_music() -> None:
    plan = planned(message([{"type": "image", "asset": "photo"}], sound(music())))
    assert plan.frames == 210
    assert plan.tracks[0].items[0].frames == 210


def test_music_ends_with_the_film_and_fades_there() -> None:
    plan = planned(message([color(3)], sound(music(fade_out=1), music(transition={"duration": 1}))))
    [item] = plan.tracks[1].items
    assert (item.frames, item.sound is not None and item.sound.fade_out) == (90, 1)


def test_music_that_loops_fills_the_film() -> None:
    looped = sound(music(loop=True, speed=2, begin=1))
    [item] = planned(message([color(20)], looped)).tracks[1].items
    assert item.source is not None
    assert (item.frames, item.source.loop, item.source.length) == (600, True, Fraction(6))
    [short] = planned(message([color(2)], looped)).tracks[1].items
    assert short.source is not None
    assert (short.frames, short.source.loop, short.source.length) == (60, False, Fraction(4))


def test_size_and_rate_follow_the_first_film_of_the_main_track() -> None:
    canvas = planned(message([color(1), film("phone", duration=1), film(duration=1)])).canvas
    assert (canvas.width, canvas.height, canvas.fps) == (1082, 1922, Fraction(30000, 1001))
    canvas = planned(message([film("silent", duration=1)], width=1280)).canvas
    assert (canvas.width, canvas.height, canvas.fps) == (1280, 960, Fraction(24000, 1001))
    canvas = planned(message([{"type": "image", "asset": "photo", "duration": 1}], height=360)).canvas
    assert (canvas.width, canvas.height, canvas.fps) == (640, 360, Fraction(30))


def test_a_film_that_is_too_large_is_shrunk_in_proportion() -> None:
    assets = ASSETS | {"film": AssetFacts("video", Fraction(2), 7680, 4320, Fraction(25))}
    canvas = planned(message([film()]), assets).canvas
    assert (canvas.width, canvas.height) == (4096, 2304)


@pytest.mark.parametrize(
    ("average", "rate"),
    [("2997/100", "30000/1001"), ("23976/1000", "24000/1001"), ("24", "24"), ("24.01", "24"), ("29.83", "30000/1001"),
     ("18", "18"), ("240", "120"), ("0", "30")],
)  # fmt: skip
def test_an_average_rate_becomes_the_usual_one_that_is_meant(average: str, rate: str) -> None:
    assets = ASSETS | {"film": AssetFacts("video", Fraction(2), 640, 360, Fraction(average))}
    assert planned(message([film()]), assets).canvas.fps == Fraction(rate)


@pytest.mark.parametrize(
    ("said", "rate"),
    [(29.97002997, "30000/1001"), (23.976024, "24000/1001"), (23.976, "2997/125"), (30.000001, "30"),
     ("999999999/33333334", "30")],
)  # fmt: skip
def test_a_rate_of_many_digits_is_the_one_near_it_that_a_clock_keeps(said: float | str, rate: str) -> None:
    assert planned(message([color(1)], fps=said)).canvas.fps == Fraction(rate)


@pytest.mark.parametrize(("rate", "shown"), [(24, 24), (50, 50), (60, 30), (120, 40)])
def test_a_gif_of_a_quick_film_shows_every_second_frame_or_third(rate: int, shown: int) -> None:
    assets = ASSETS | {"film": AssetFacts("video", Fraction(2), 640, 360, Fraction(rate))}
    assert planned(message([film()], format="gif"), assets).canvas.fps == shown


def test_an_item_without_sound_has_none() -> None:
    silent, muted, heard = items(message([film("silent"), film(volume=0), film(volume=0.5)]))
    assert (silent.sound, muted.sound) == (None, None)
    assert heard.sound is not None
    assert heard.sound.volume.points == ((Fraction(0), 0.5),)


def test_a_volume_curve_and_fades_are_in_seconds() -> None:
    volume = [[0, 1], [{"f": 25}, 0.25]]
    [item] = items(message([film(volume=volume, fade_in={"f": 10}, fade_out=1)]))
    assert item.sound is not None
    assert item.look is not None
    assert item.sound.volume.points == ((Fraction(0), 1.0), (Fraction(1), 0.25))
    assert (item.sound.fade_in, item.sound.fade_out) == (Fraction(2, 5), Fraction(1))
    assert (item.look.fade_in, item.look.fade_out) == (10, 25)


def test_boxes_are_even_and_within_the_frame() -> None:
    area = {"x": "2/3", "y": 0.5, "width": "1/3", "height": 0.001}
    plan = planned(message([color(1, box=area)], [{"type": "text", "text": "A"}], width=1000, height=562))
    looks = [track.items[0].look for track in plan.tracks]
    assert [look and look.box for look in looks] == [Box(666, 282, 334, 2), Box(50, 28, 900, 506)]


def test_a_title_is_as_large_as_a_part_of_the_frame() -> None:
    title = {"type": "text", "text": "A", "duration": 1, "size": 0.1, "stroke_color": "#000000", "stroke_width": 0.05}
    [item] = items(message([title]))
    assert item.text is not None
    assert (item.text.size, item.text.stroke_width, item.text.font) == (72, 4, "sans")
    assert item.look is not None
    assert item.look.fit is Fit.NONE
    [plain] = items(message([{"type": "text", "text": "A", "duration": 1}]))
    assert plain.text is not None
    assert (plain.text.stroke_color, plain.text.stroke_width) == (None, 0)


def test_a_range_and_a_poster_are_frames_of_the_film() -> None:
    plan = planned(message([color(4)], range={"start": 1, "end": {"f": 100}}, poster=3.99))
    assert (plan.frames, plan.first, plan.last, plan.length, plan.poster) == (120, 30, 100, 70, 119)
    plan = planned(message([color(4)], range={"start": 0.5}))
    assert (plan.first, plan.last) == (15, 120)


def test_encodings_follow_the_format() -> None:
    film_ = [color(1)]
    plan = planned(message(film_))
    assert (plan.video, plan.audio) == (VideoEncoding(VideoCodec.H264, 20, "veryfast"), AudioEncoding(192_000))
    plan = planned(message(film_, format="webm", video={"crf": 55}))
    assert (plan.video, plan.audio) == (VideoEncoding(VideoCodec.VP9, 55, "veryfast"), AudioEncoding(128_000))
    plan = planned(message(film_, video={"codec": "hevc"}, audio=None))
    assert (plan.video, plan.audio) == (VideoEncoding(VideoCodec.HEVC, 24, "veryfast"), None)
    assert planned(message(film_, format="gif")).audio is None
    assert planned(message(sound(music()), format="mp3")).video is None


def test_ducking_subtitles_and_pointers_are_carried_over() -> None:
    track = sound({"type": "gap", "duration": 1}, music(), duck={"by": ["main", "main"]})
    plan = planned(message([film()], track, subtitles=[{"asset": "words"}, {"asset": "words", "mode": "soft"}]))
    assert plan.tracks[1].duck == Duck(frozenset({Role.MAIN}), -12.0, 0.2, 0.8)
    assert [(one.mode, one.language, one.font) for one in plan.subtitles] == [
        (SubtitleMode.BURN, "und", "sans"),
        (SubtitleMode.SOFT, "und", "sans"),
    ]
    assert plan.tracks[1].pointer == "/params/timeline/tracks/1"
    assert [item.pointer for item in plan.tracks[1].items] == [
        "/params/timeline/tracks/1/items/0",
        "/params/timeline/tracks/1/items/1",
    ]
    assert plan.tracks[1].items[1].kind is ItemKind.AUDIO
