"""The files that come out: formats, codecs, subtitles, posters; refusals."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from handlers.errors import InvalidInput
from handlers.video.render import encode, verify
from handlers.video.render.languages import iso_639_2
from handlers.video.timeline.plan import VideoCodec
from tests.handlers import films
from tests.handlers.conftest import LIMITS
from tests.handlers.films import RED, edit, number, numbered, pictures, probed, subtitle_times

SRT = "1\n00:00:00,500 --> 00:00:01,000\nHELLO WORLD\n"


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A film of numbered frames, and subtitles."""
    folder = tmp_path_factory.mktemp("film")
    (folder / "words.srt").write_text(SRT)
    return {
        "film": numbered(folder / "film.mp4", 60, "30", RED, beeps=(0.5, 1.0)),
        "words": folder / "words.srt",
    }


ITEM = {"type": "video", "asset": "film", "in": 0.5, "duration": {"f": 24}}


@pytest.mark.parametrize(
    ("output", "codecs"),
    [
        ({"format": "mp4"}, ["h264", "aac"]),
        ({"format": "mp4", "video": {"codec": "hevc"}}, ["hevc", "aac"]),
        ({"format": "webm", "video": {"crf": 10}}, ["vp9", "opus"]),
        ({"format": "mp4", "audio": None}, ["h264"]),
        ({"format": "gif"}, ["gif"]),
    ],
)
async def test_a_film_of_every_format_has_its_frames_in_order(
    film: dict[str, Path], tmp_path: Path, output: dict[str, Any], codecs: list[str]
) -> None:
    made = await edit(tmp_path, [ITEM], film, output=output)
    assert [stream.codec for stream in made.result.streams] == codecs
    assert [number(picture) for picture in made.frames()] == list(range(15, 39))
    assert (made.result.width, made.result.height, made.result.fps) == (160, 90, "30")
    assert made.result.frames == 24
    assert made.result.duration_s == 0.8
    assert made.result.size == made.path().stat().st_size


async def test_a_film_in_segments_keeps_its_frames_in_webm_and_gif(
    film: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.video.render.window.SOURCES", 1)
    items = [{**ITEM, "duration": {"f": 8}}, {**ITEM, "in": 1, "duration": {"f": 7}}]
    for format in ("webm", "gif"):
        made = await edit(tmp_path / format, items, film, output={"format": format})
        assert [number(picture) for picture in made.frames()] == [*range(15, 23), *range(30, 37)]


@pytest.mark.parametrize(("format", "codec"), [("mp3", "mp3"), ("m4a", "aac"), ("wav", "pcm_s16le")])
async def test_sound_alone_is_as_long_as_the_film(
    film: dict[str, Path], tmp_path: Path, format: str, codec: str
) -> None:
    made = await edit(tmp_path, [ITEM], film, output={"format": format})
    [stream] = made.result.streams
    assert (stream.codec, stream.sample_rate, stream.channels) == (codec, 48_000, 2)
    assert abs(len(made.sound("audio")) - 0.8 * 48_000) <= 2400
    assert made.result.frames is made.result.width is None
    assert abs(films.onsets(made.sound("audio"))[1] - 0.5) < 0.03


async def test_an_h265_film_is_named_as_players_of_apple_want_it(film: dict[str, Path], tmp_path: Path) -> None:
    made = await edit(tmp_path, [ITEM], film, output={"video": {"codec": "hevc"}})
    assert probed(made.path(), "v:0")["codec_tag_string"] == "hvc1"


async def test_a_film_says_which_colours_it_has_and_nothing_of_where_it_came_from(
    film: dict[str, Path], tmp_path: Path
) -> None:
    made = await edit(tmp_path, [ITEM], film)
    stream = probed(made.path(), "v:0")
    said = [stream[key] for key in ("color_space", "color_primaries", "color_transfer", "color_range", "pix_fmt")]
    assert said == ["bt709", "bt709", "bt709", "tv", "yuv420p"]
    data = made.path().read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert b"Lavf" not in data


async def test_the_same_timeline_makes_the_same_bytes(film: dict[str, Path], tmp_path: Path) -> None:
    first, second = [await edit(tmp_path / name, [ITEM], film) for name in ("a", "b")]
    assert first.path().read_bytes() == second.path().read_bytes()


async def test_a_poster_is_the_frame_of_its_moment_and_gets_its_embedding(
    film: dict[str, Path], tmp_path: Path
) -> None:
    output = {"poster": {"f": 20}, "range": {"start": 0, "end": {"f": 10}}}
    made = await edit(tmp_path, [ITEM], film, output=output)
    poster = pictures(made.path("poster"))
    assert poster.shape == (1, 90, 160, 3)
    assert number(poster[0]) == 35
    assert made.context.embedded["outputs/poster"].size == (160, 90)
    assert made.result.frames == 10


async def test_subtitles_are_burnt_into_the_frames_of_their_time(film: dict[str, Path], tmp_path: Path) -> None:
    items = [{"type": "color", "color": "#000000", "duration": 2}]
    burnt = [{"asset": "words", "mode": "burn"}]
    odd = tmp_path / "a:b,c'd[e];f=g"  # a folder whose name would mean something in a filter
    whole = (await edit(odd, items, film, subtitles=burnt)).frames()
    bright = [int((picture.min(axis=2) > 150).sum()) for picture in whole]
    assert [index for index, count in enumerate(bright) if count > 10] == list(range(15, 30))
    output = {"range": {"start": {"f": 20}, "end": {"f": 40}}}
    part = (await edit(tmp_path / "b", items, film, subtitles=burnt, output=output)).frames()
    assert abs(part[0].astype(int) - whole[20]).mean() < 3
    bright = [int((picture.min(axis=2) > 150).sum()) for picture in part]
    assert [index for index, count in enumerate(bright) if count > 10] == list(range(10))


@pytest.mark.parametrize(("format", "codec"), [("mp4", "mov_text"), ("webm", "webvtt")])
async def test_soft_subtitles_are_a_stream_in_their_language_on_the_clock_of_the_part(
    film: dict[str, Path], tmp_path: Path, format: str, codec: str
) -> None:
    soft = [{"asset": "words", "mode": "soft", "language": "en-GB"}]
    output = {"format": format, "range": {"start": {"f": 6}}}
    items = [{"type": "color", "color": "#000000", "duration": 2}]
    made = await edit(tmp_path, items, film, subtitles=soft, output=output)
    subtitles = made.result.streams[-1]
    assert (subtitles.kind, subtitles.codec, subtitles.language) == ("subtitle", codec, "eng")
    # Opus begins some milliseconds before the film does, and a WebM cannot say so: all else comes later by these.
    assert subtitle_times(made.path()) == pytest.approx([0.3], abs=0.01)


def test_languages_have_the_codes_that_containers_know() -> None:
    assert [iso_639_2(tag) for tag in ("en", "zh-Hans", "de-AT", "nds", "und", "x")] == [
        "eng",
        "zho",
        "deu",
        "nds",
        "und",
        "und",
    ]


async def test_an_encoder_that_this_worker_lacks_is_refused_by_name(
    film: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(encode._VIDEO, VideoCodec.HEVC, "libx266")
    with pytest.raises(InvalidInput) as refused:
        await edit(tmp_path, [ITEM], film, output={"video": {"codec": "hevc"}})
    [problem] = refused.value.problems
    assert (problem.pointer, problem.code) == ("/params/output/video/codec", "encoder_missing")
    assert "libx266" in problem.message


async def test_all_assets_that_cannot_be_read_are_named_at_once(film: dict[str, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"no film at all")
    assets = {**film, "a": tmp_path / "a", "b": tmp_path / "b"}
    items = [{**ITEM, "asset": name} for name in ("a", "film", "b")]
    with pytest.raises(InvalidInput) as refused:
        await edit(tmp_path / "out", items, assets)
    assert [problem.pointer for problem in refused.value.problems] == ["/inputs/assets/a", "/inputs/assets/b"]


async def test_a_file_that_is_not_what_was_planned_is_never_delivered(
    film: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The encoder is told to stop early, as a full pipe or a bug would have it.
    complete = encode.container
    monkeypatch.setattr(encode, "container", lambda plan: {**complete(plan), "frames:v": 20})
    with pytest.raises(verify.VerificationFailed, match="20 frames, 24 expected"):
        await edit(tmp_path, [ITEM], film)


async def test_assets_and_progress_are_told(film: dict[str, Path], tmp_path: Path) -> None:
    made = await edit(tmp_path, [ITEM], film)
    assert made.context.probes["inputs/assets/film"]["width"] == 160
    fractions = made.context.fractions
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < 0.2
    assert 0.9 < fractions[-1] <= 1


async def test_a_plan_is_kept_to_its_clock_at_broken_rates(film: dict[str, Path], tmp_path: Path) -> None:
    made = await edit(tmp_path, [{**ITEM, "in": 0, "duration": 1}], film, output={"fps": "30000/1001"})
    assert made.result.frames == 30
    assert made.result.fps == "30000/1001"
    assert Fraction(probed(made.path(), "v:0")["r_frame_rate"]) == Fraction(30000, 1001)
    assert [number(picture) for picture in made.frames()] == list(range(30))


@pytest.mark.parametrize("format", ["mp3", "mp4", "webm", "m4a"])
async def test_a_short_sound_of_few_samples_a_second_is_no_fault(
    film: dict[str, Path], tmp_path: Path, format: str
) -> None:
    made = await edit(
        tmp_path, [{**ITEM, "duration": {"f": 4}}], film, output={"format": format, "sample_rate": 16_000}
    )
    assert made.result.duration_s == pytest.approx(4 / 30, abs=0.001)


async def test_our_own_pictures_are_not_held_to_the_limits_of_what_comes_from_outside(
    tmp_path: Path,
) -> None:
    items = [{"type": "color", "color": "#ff8000", "duration": 0.2}]
    tight = LIMITS.model_copy(update={"max_bytes": 100, "max_pixels": 160 * 90 - 1})
    made = await edit(tmp_path, items, output={"format": "gif", "fps": 10, "poster": 0}, limits=tight)
    assert {of: image.size for of, image in made.context.embedded.items()} == {
        "outputs/video": (160, 90),
        "outputs/poster": (160, 90),
    }


async def test_what_is_wrong_with_subtitles_and_what_would_be_right_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "words.srt").write_text("1\n00:00:02,000 --> 00:00:01,000\nHello\n")
    items = [{"type": "color", "color": "#ff8000", "duration": 0.2}]
    with pytest.raises(InvalidInput) as refused:
        await edit(tmp_path / "out", items, {"words": tmp_path / "words.srt"}, subtitles=[{"asset": "words"}])
    [problem] = refused.value.problems
    assert problem.pointer == "/inputs/assets/words"
    assert problem.message == "line 2: the cue ends before it begins"
    assert problem.fix == "put the earlier time first"


async def test_a_part_that_begins_while_an_item_vanishes_has_what_was_under_way_before(
    film: dict[str, Path], tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(tmp_path / "photo.png")
    over = [
        {"type": "image", "asset": "photo", "duration": {"f": 10}},
        {
            "type": "color",
            "color": "#00ff00",
            "duration": {"f": 20},
            "transition": {"duration": {"f": 8}},
            "fade_out": 0.5,
        },
    ]
    tracks = [{"kind": "video", "items": over}]
    whole, part = [
        (
            await edit(tmp_path / name, [{**ITEM, "in": 0}], {**film, "photo": tmp_path / "photo.png"},
                       tracks=tracks, output=output)
        ).frames().astype(int)
        for name, output in (("whole", {}), ("part", {"range": {"start": {"f": 14}}}))
    ]  # fmt: skip
    assert len(part) == 10
    assert abs(whole[14:] - part).mean() < 2
