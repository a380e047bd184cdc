"""The params of `video.edit`: what each place takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from handlers.video.timeline.schema import EditParams
from intake.schema import example_value
from tests.unit.timelines import color, film, message, music, read, refusals, sound

WHOLE = {"x": 0, "y": 0, "width": 1, "height": 1}
TITLE = {
    "type": "text", "text": "Übersicht 概要", "font": "serif", "size": 0.1, "color": "#ffffff80", "align": "left",
    "valign": "top", "box_color": "#000000", "stroke_color": "#112233", "stroke_width": 0.1, "line_spacing": 1,
    "at": 1, "duration": 2,
}  # fmt: skip
EVERYTHING = message(
    [
        film(duration=4, speed="3/2", reverse=True, pad="freeze", volume=[[0, 1], [1, 0]], begin={"f": 3}),
        film("phone", fit="blur", rotate=90, flip="both")
        | {"transition": {"type": "dissolve", "duration": 0.5, "audio_curve": "qsin"}},
        {"type": "image", "asset": "photo", "duration": 2, "crop": WHOLE, "fit": "cover"}
        | {"ken_burns": {"from": WHOLE, "to": {"x": 0.25, "y": "1/3", "width": 0.5, "height": 0.5}}},
        {"type": "gap", "duration": 1},
        color(1, box={"x": 0.5, "y": 0.5, "width": 0.5, "height": 0.5}, opacity=0.5, fade_in=0.2, fade_out={"f": 2}),
    ],
    {"kind": "video", "role": "overlay", "volume": 0, "items": [TITLE]},
    sound(music(loop=True, begin=0.5), role="music", duck={"by": ["main"], "db": -18, "attack": 0.1, "release": 1}),
    subtitles=[{"asset": "words"}, {"asset": "words", "mode": "soft", "language": "zh-Hans"}],
    format="mp4",
    width=640,
    height=360,
    fps="30000/1001",
    sample_rate=44100,
    video={"codec": "hevc", "crf": 28, "preset": "fast"},
    audio={"bitrate": 96000},
    loudness={"i": -14},
    range={"start": 0.1, "end": {"f": 100}},
    poster="1001/30000",
)


def test_what_is_derived_from_a_job_is_read_back_as_the_same() -> None:
    params = read(EVERYTHING)
    dumped = params.model_dump(mode="json")
    assert EditParams.model_validate(dumped) == params
    assert read(dumped) == params
    assert read(dumped).model_dump(mode="json") == dumped
    assert EditParams.model_validate(EVERYTHING) == params


def test_a_film_of_every_kind_of_item_is_accepted() -> None:
    assert [item.type for item in read(EVERYTHING).timeline.tracks[0].items] == [
        "video",
        "video",
        "image",
        "gap",
        "color",
    ]


@pytest.mark.parametrize(
    ("item", "key"),
    [
        (color(), "speed"),
        (color(), "asset"),
        ({"type": "gap", "duration": 1}, "at"),
        ({"type": "image", "asset": "photo"}, "volume"),
        ({"type": "text", "text": "x"}, "crop"),
        (film(), "loop"),
        (film(), "in_"),
        (music(), "box"),
        (music(), "pad"),
    ],
)
def test_an_item_takes_only_keys_that_mean_something_for_it(item: dict[str, Any], key: str) -> None:
    assert refusals(message([item | {key: 1}])) == {f"/params/timeline/tracks/0/items/0/{key}": "unknown_key"}


def test_a_crossfade_of_sounds_has_no_picture() -> None:
    track = sound(music(), music(transition={"type": "fade", "duration": 1}))
    assert refusals(message(track)) == {"/params/timeline/tracks/0/items/1/transition/type": "unknown_key"}


@pytest.mark.parametrize(
    ("item", "place", "code"),
    [
        ({"type": "movie"}, "/type", "unknown_value"),
        ({"asset": "film"}, "/type", "missing"),
        ({"type": ["video"]}, "/type", "unknown_value"),
        ("film", "", "wrong_type"),
        (film(speed=11), "/speed", "out_of_range"),
        (film(speed="x"), "/speed", "bad_value"),
        (film(rotate=45), "/rotate", "unknown_value"),
        (film(crop={"x": 0.5, "y": 0, "width": 0.6, "height": 1}), "/crop", "out_of_range"),
        (film(crop={"x": 0.5, "y": 0, "width": 0, "height": 1}), "/crop", "out_of_range"),
        (film(volume=[[0, 20]]), "/volume", "out_of_range"),
        (color(color="red"), "/color", "bad_value"),
        ({"type": "text", "text": ""}, "/text", "out_of_range"),
        ({"type": "text", "text": "x", "size": 40}, "/size", "out_of_range"),
        ({"type": "text", "text": "x", "color": 5}, "/color", "wrong_type"),
        (color(transition={"type": "custom", "duration": 1}), "/transition/type", "unknown_value"),
        (color(transition={"type": "fade"}), "/transition/duration", "missing"),
    ],
)
def test_a_fault_is_said_at_its_place(item: Any, place: str, code: str) -> None:
    assert refusals(message([color(), item])) == {f"/params/timeline/tracks/0/items/1{place}": code}


@pytest.mark.parametrize(
    ("output", "place", "code"),
    [
        ({"width": 641}, "width", "out_of_range"),
        ({"height": 8}, "height", "out_of_range"),
        ({"fps": 0}, "fps", "out_of_range"),
        ({"format": "avi"}, "format", "unknown_value"),
        ({"video": {"codec": "av1"}}, "video/codec", "unknown_value"),
        ({"sample_rate": 8001}, "sample_rate", "unknown_value"),
        ({"filters": "x"}, "filters", "unknown_key"),
        ({"audio": {"bitrate": "128k"}}, "audio/bitrate", "wrong_type"),
    ],
)
def test_an_output_that_cannot_be_made_is_refused(output: dict[str, Any], place: str, code: str) -> None:
    assert refusals(message([color()], **output)) == {f"/params/output/{place}": code}


def test_another_version_is_refused() -> None:
    assert refusals(message([color()]) | {"version": 2}) == {"/params/version": "unknown_value"}
    assert refusals({"timeline": {"tracks": []}}) == {
        "/params/version": "missing",
        "/params/timeline/tracks": "out_of_range",
    }


def test_the_example_of_the_schema_is_a_valid_film() -> None:
    schema = EditParams.model_json_schema()
    params = {name: example_value(schema["properties"][name], schema) for name in schema["required"]}
    assert [item.type for item in read(params).timeline.tracks[0].items] == ["color", "text"]


def test_every_key_says_what_it_means() -> None:
    def silent(schema: Any) -> Iterator[str]:
        for name, one in schema.get("properties", {}).items():
            if not one.get("description"):
                yield f"{schema.get('title')}.{name}"

    schema = EditParams.model_json_schema()
    assert [place for one in (schema, *schema["$defs"].values()) for place in silent(one)] == []
    json.dumps(schema, allow_nan=False)
