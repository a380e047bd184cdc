"""What a timeline is refused for: at the door, and when its assets are known."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from handlers.errors import InvalidInput
from handlers.registry import Registry
from handlers.video.timeline import layout
from handlers.video.timeline.layout import AssetFacts
from intake.message import Refused, Rules, parse
from storage.objects.rules import BucketRules
from tests.unit.timelines import (
    ASSETS,
    FONTS,
    ITEM,
    at_the_door,
    before_rendering,
    color,
    film,
    message,
    music,
    read,
    sound,
)

REGISTRY = Registry.load()
RULES = Rules(1 << 20, 64, 1000, 3, BucketRules.parse(["media"]))
SECOND = f"{ITEM}/1"
GAP = {"type": "gap", "duration": 1}


def over(duration: Any) -> dict[str, Any]:
    return {"duration": duration}


@pytest.mark.parametrize(
    ("params", "found"),
    [
        (message([film("fim")]), {f"{ITEM}/0/asset": "asset_missing"}),
        (message([color()], subtitles=[{"asset": "x"}]), {"/params/timeline/subtitles/0/asset": "asset_missing"}),
        (message([color(transition=over(1))]), {f"{ITEM}/0/transition": "contradiction"}),
        (message([GAP, color(transition=over(1))]), {f"{SECOND}/transition": "contradiction"}),
        (message([color(1), color(transition=over(1.5))]), {f"{SECOND}/transition/duration": "transition_too_long"}),
        (message([color(), color(1, transition=over(1.5))]), {f"{SECOND}/transition/duration": "transition_too_long"}),
        (
            message([color(3), color(3, transition=over(2)), color(3, transition=over(2))]),
            {f"{SECOND}/transition/duration": "transition_too_long"},
        ),
        (message([color(2), color(1, at=1.5)]), {f"{SECOND}/at": "overlap"}),
        (message([color(2), color(2, at=3, transition=over(1))]), {f"{SECOND}/at": "contradiction"}),
        (message([color("auto"), color(1)]), {f"{ITEM}/0/duration": "contradiction"}),
        (message([color("auto")]), {f"{ITEM}/0/duration": "contradiction"}),
        (message([color(1), color("auto")]), {f"{SECOND}/duration": "contradiction"}),
        (message([color(2, at=5), color("auto"), color(1, at=7)]), {f"{SECOND}/duration": "overlap"}),
        (message([color(0.001)]), {f"{ITEM}/0/duration": "out_of_range"}),
        (message([GAP | {"duration": 0.001}]), {"/params/timeline": "out_of_range"}),
        (message([color(), color(transition=over(0.001))]), {f"{SECOND}/transition/duration": "out_of_range"}),
        (message([color(2, fade_in=1, fade_out=1.5)]), {f"{ITEM}/0/fade_out": "fade_too_long"}),
        (message([film(duration=2, volume=[[1, 1], [1, 0]])]), {f"{ITEM}/0/volume/1": "contradiction"}),
        (message([film("phone", duration=11, reverse=True)]), {f"{ITEM}/0/reverse": "limit_exceeded"}),
        (message([film("phone", duration=6, speed=2, reverse=True)]), {f"{ITEM}/0/reverse": "limit_exceeded"}),
        (message([color(), music()]), {f"{SECOND}/type": "contradiction"}),
        (message(sound(music(duration=1), color())), {f"{SECOND}/type": "contradiction"}),
        (message([color(2)], [color(1, at=2)]), {"/params/timeline/tracks/1/items/0/at": "beyond_end"}),
        (message([color(2)], [color(3), color(1)]), {"/params/timeline/tracks/1/items/1": "beyond_end"}),
        (message([color(2)], sound(music(at=3))), {"/params/timeline/tracks/1/items/0/at": "beyond_end"}),
        (
            message([color()], sound(music(), duck={"by": ["dialogue", "main"]})),
            {"/params/timeline/tracks/1/duck/by/0": "contradiction"},
        ),
        (message([color(43200), color(1)]), {"/params/timeline": "limit_exceeded"}),
        (message(*[[color(1)] * 500] * 5), {"/params/timeline/tracks": "limit_exceeded"}),
    ],
)  # fmt: skip
def test_a_timeline_that_contradicts_itself_is_refused_at_the_door(params: Any, found: dict[str, str]) -> None:
    assert at_the_door(params) == found
    assert before_rendering(params).items() >= found.items()


@pytest.mark.parametrize(
    ("output", "place", "code"),
    [
        ({"format": "webm", "video": {"codec": "h264"}}, "video/codec", "contradiction"),
        ({"format": "mp4", "video": {"codec": "vp9"}}, "video/codec", "contradiction"),
        ({"format": "mp4", "video": {"crf": 60}}, "video/crf", "out_of_range"),
        ({"format": "gif", "video": {"crf": 20}}, "video/crf", "contradiction"),
        ({"format": "gif", "loudness": {}}, "loudness", "contradiction"),
        ({"format": "gif", "fps": 60}, "fps", "out_of_range"),
        ({"format": "gif", "audio": {"bitrate": 64000}}, "audio/bitrate", "contradiction"),
        ({"format": "wav", "audio": {"bitrate": 64000}}, "audio/bitrate", "contradiction"),
        ({"format": "mp3", "audio": None}, "audio", "contradiction"),
        ({"format": "mp3", "audio": {"bitrate": 400000}}, "audio/bitrate", "out_of_range"),
        ({"format": "mp3", "width": 640}, "width", "contradiction"),
        ({"format": "m4a", "poster": 1}, "poster", "contradiction"),
        ({"audio": None, "loudness": {}}, "loudness", "contradiction"),
        ({"format": "webm", "sample_rate": 44100}, "sample_rate", "contradiction"),
        ({"width": 4096, "height": 4096, "fps": 120}, "", "limit_exceeded"),
        ({"poster": 2}, "poster", "out_of_range"),
        ({"range": {"start": 2}}, "range/start", "out_of_range"),
        ({"range": {"start": 1, "end": 2.5}}, "range/end", "out_of_range"),
        ({"range": {"start": 1, "end": 1}}, "range/end", "contradiction"),
        ({"range": {"start": 1, "end": 1.001}}, "range/end", "out_of_range"),
    ],
)
def test_an_output_that_contradicts_itself_is_refused_at_the_door(output: Any, place: str, code: str) -> None:
    assert at_the_door(message([color(2)], **output)) == {f"/params/output/{place}".rstrip("/"): code}


@pytest.mark.parametrize(
    ("subtitles", "output", "place"),
    [
        ({"asset": "words"}, {"format": "mp3"}, ""),
        ({"asset": "words", "mode": "soft"}, {"format": "gif"}, "/mode"),
        ({"asset": "words", "mode": "soft", "font": "sans"}, {}, "/font"),
    ],
)
def test_subtitles_that_cannot_be_delivered_are_refused(subtitles: Any, output: Any, place: str) -> None:
    params = message([color()], subtitles=[subtitles], **output)
    assert at_the_door(params) == {f"/params/timeline/subtitles/0{place}": "contradiction"}


@pytest.mark.parametrize(
    ("params", "found"),
    [
        (message([film("photo")]), {f"{ITEM}/0/asset": "asset_unsupported"}),
        (message([{"type": "image", "asset": "film", "duration": 1}]), {f"{ITEM}/0/asset": "asset_unsupported"}),
        (message([film("music")]), {f"{ITEM}/0/asset": "no_stream"}),
        (message(sound(music(asset="silent"))), {f"{ITEM}/0/asset": "no_stream"}),
        (message(sound(music(asset="photo"))), {f"{ITEM}/0/asset": "asset_unsupported"}),
        (message(sound(music(asset="words"))), {f"{ITEM}/0/asset": "asset_unsupported"}),
        (message([film(duration=11)]), {f"{ITEM}/0/duration": "range_out_of_media"}),
        (message([film(duration=6, speed=2)]), {f"{ITEM}/0/duration": "range_out_of_media"}),
        (message([film(begin=10)]), {f"{ITEM}/0/in": "range_out_of_media"}),
        (message([film(pad="freeze", duration=20, begin=10)]), {f"{ITEM}/0/in": "range_out_of_media"}),
        (message(sound(music(duration=8))), {f"{ITEM}/0/duration": "range_out_of_media"}),
        (message([film("phone", reverse=True)]), {f"{ITEM}/0/reverse": "limit_exceeded"}),
        (message([film(), film(transition=over(11))]), {f"{SECOND}/transition/duration": "transition_too_long"}),
        (message([film(), film(at=9)]), {f"{SECOND}/at": "overlap"}),
        (message([film()], poster=10), {"/params/output/poster": "out_of_range"}),
        (message([{"type": "text", "text": "A", "font": "sanz", "duration": 1}]), {f"{ITEM}/0/font": "font_unknown"}),
        (
            message([film()], subtitles=[{"asset": "music", "font": "x"}]),
            {
                "/params/timeline/subtitles/0/asset": "asset_unsupported",
                "/params/timeline/subtitles/0/font": "font_unknown",
            },
        ),
    ],
)
def test_what_the_assets_cannot_give_is_refused_before_rendering(params: Any, found: dict[str, str]) -> None:
    assert at_the_door(params) == {}
    assert before_rendering(params) == found


def test_what_is_right_once_the_assets_are_known_is_not_refused_at_the_door() -> None:
    params = message(
        [film(), film("phone", transition=over(1)), film(duration=20, pad="freeze", at={"f": 1200})],
        [{"type": "text", "text": "A", "at": {"f": 100}}],
        sound(music(loop=True, duration=30, reverse=True)),
        poster={"f": 1000},
    )
    assert at_the_door(params) == {}
    assert before_rendering(params) == {}


def test_subtitles_that_are_drawn_in_a_font_that_is_not_there_are_refused_though_none_is_named() -> None:
    assets = ASSETS | {"film": AssetFacts("video", Fraction(2), 640, 360, Fraction(25))}
    for mode, found in (("burn", {"/params/timeline/subtitles/0/font": "font_unknown"}), ("soft", {})):
        params = message([film()], subtitles=[{"asset": "words", "mode": mode}])
        assert before_rendering(params, assets, fonts=("serif",)) == found


def test_a_gif_that_would_fill_a_disk_is_refused() -> None:
    long = {"type": "color", "color": "#000000", "duration": 600}
    huge = {"format": "gif", "width": 1280, "height": 720, "fps": 25}
    assert before_rendering(message([long], **huge)) == {"/params/output/format": "limit_exceeded"}
    assert before_rendering(message([long], **huge, range={"start": 0, "end": 60})) == {}


def test_an_asset_without_a_length_is_refused() -> None:
    assets = ASSETS | {"film": AssetFacts("video", None, 640, 360, Fraction(25))}
    assert before_rendering(message([film()]), assets) == {f"{ITEM}/0/asset": "asset_unsupported"}


def test_all_that_is_wrong_is_said_at_once_each_with_what_would_be_right() -> None:
    title = {"type": "text", "text": "A", "font": "sanz", "duration": 1}
    params = message([film("fim"), film(duration=11.5), title], format="gif", loudness={})
    with pytest.raises(InvalidInput) as error:
        layout.plan(read(params), ASSETS, FONTS)
    assert {problem.code for problem in error.value.problems} == {
        "asset_missing",
        "range_out_of_media",
        "font_unknown",
        "contradiction",
    }
    assert all(problem.message and problem.fix for problem in error.value.problems)
    said = {problem.code: f"{problem.message}; {problem.fix}" for problem in error.value.problems}
    assert said["asset_missing"] == 'is "fim", which is not among inputs.assets; did you mean "film"?'
    assert (
        said["range_out_of_media"] == 'is 11.5 s, and there are 10 s; write at most 10 s, or "auto", or pad: "freeze"'
    )


def refused(params: dict[str, Any], *assets: str) -> dict[str, str]:
    """Codes by pointer, of a message with these assets, by the door itself."""
    message = {"type": "video.edit", "inputs": {"assets": {name: f"s3://media/{name}" for name in assets}}}
    with pytest.raises(Refused) as caught:
        parse(message | {"params": params}, REGISTRY, RULES)
    return {problem.pointer: str(problem.code) for problem in caught.value.problems}


def test_what_is_wrong_in_form_hides_nothing_of_what_is_wrong_beside_it() -> None:
    items = [film("fim"), film("film", duration="2s"), {"type": "txt"}, film("film", sped=2), film("flm", at=900)]
    other = {"kind": "audio", "items": [{"type": "audio", "asset": "musik"}, {"type": "audio", "speed": 20}]}
    params = message(items, other, subtitles=[{"asset": "wrds"}], merge={"X": 1}, width=641)
    del params["version"]
    assert refused(params, "film", "music") == {
        "/params/version": "missing",
        "/params/merge/X": "merge_unused",
        "/params/output/width": "out_of_range",
        f"{ITEM}/0/asset": "asset_missing",
        f"{ITEM}/1/duration": "bad_value",
        f"{ITEM}/2/type": "unknown_value",
        f"{ITEM}/3/sped": "unknown_key",
        f"{ITEM}/4/asset": "asset_missing",
        "/params/timeline/tracks/1/items/0/asset": "asset_missing",
        "/params/timeline/tracks/1/items/1/asset": "missing",
        "/params/timeline/tracks/1/items/1/speed": "out_of_range",
        "/params/timeline/subtitles/0/asset": "asset_missing",
    }


def test_nothing_is_said_to_be_wrong_that_only_follows_from_what_is_broken() -> None:
    broken = {"type": "color", "color": "red", "duration": 5}
    # The broken one would reach into the next, and the film would end before the poster's moment.
    after = [color(1), broken, color(2, at=3), {"type": "colour"}]
    found = {f"{ITEM}/1/color": "bad_value", f"{ITEM}/3/type": "unknown_value"}
    assert refused(message(after, poster=6)) == found


def test_params_that_cannot_be_mended_are_refused_for_their_form_alone() -> None:
    assert refused({"version": 1, "timeline": {"tracks": [{"items": 7}, 9]}}, "film") == {
        "/params/timeline/tracks/0/kind": "missing",
        "/params/timeline/tracks/0/items": "wrong_type",
        "/params/timeline/tracks/1": "wrong_type",
    }
