"""What the bytes of sound and film are, by the bytes alone."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from handlers.errors import InvalidInput
from handlers.media.probe import MediaFacts, probe
from tests.handlers import media_material as material
from tests.handlers.conftest import LIMITS, DirectContext, encoded, picture, saved

pytestmark = pytest.mark.handlers


@pytest.fixture
def direct(tmp_path: Path) -> DirectContext:
    return DirectContext({}, tmp_path)


async def facts_of(direct: DirectContext, path: Path) -> MediaFacts:
    """Of the file under a name that says nothing."""
    return await probe(direct, path.rename(path.with_name("object")), "inputs/media")


async def refusal(direct: DirectContext, path: Path) -> str:
    with pytest.raises(InvalidInput) as caught:
        await probe(direct, path, "inputs/media")
    message = caught.value.message
    assert message.startswith("inputs/media ")
    assert str(path.parent) not in message
    assert " @ 0x" not in message
    return message


FILMS = {
    "a.mp4": ("video/mp4", "libx264", "h264", "yuv420p"),
    "a.mov": ("video/quicktime", "prores", "prores", "yuv422p10le"),
    "a.mkv": ("video/x-matroska", "libx264", "h264", "yuv420p"),
    "a.webm": ("video/webm", "libvpx-vp9", "vp9", "yuv420p"),
    "a.ts": ("video/mp2t", "mpeg2video", "mpeg2video", "yuv420p"),
    "a.avi": ("video/x-msvideo", "mpeg4", "mpeg4", "yuv420p"),
    "a.wmv": ("video/x-ms-wmv", "wmv2", "wmv2", "yuv420p"),
}


@pytest.mark.parametrize("name", FILMS)
async def test_a_film_is_known_by_its_content_whatever_it_is_called(
    name: str, direct: DirectContext, tmp_path: Path
) -> None:
    mime, encoder, codec, pixel_format = FILMS[name]
    path = material.clip(tmp_path / name, codec=encoder, pixel_format=pixel_format)
    facts = await facts_of(direct, path)
    assert (facts.mime, facts.damaged, facts.unread) == (mime, False, ())
    video = facts.video
    assert video is not None
    assert (video.codec, video.width, video.height, video.rotation) == (codec, 160, 120, 0)
    assert (video.frames, video.alpha, video.variable, video.pixel_format) == (25, False, False, pixel_format)
    assert video.fps == 25
    assert video.duration == pytest.approx(1, abs=0.045)
    assert len(facts.audio) == 1
    assert (facts.audio[0].sample_rate, facts.audio[0].channels) == (48_000, 1)
    assert facts.duration == pytest.approx(1, abs=0.1)
    json.dumps(facts.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("name", "mime", "padding"),
    [
        ("a.mp3", "audio/mpeg", 0.03),
        ("a.wav", "audio/wav", 0),
        ("a.opus", "audio/ogg", 0.01),
        ("a.aac", "audio/aac", 0.05),
        ("a.caf", "audio/x-caf", 0),
    ],
)
async def test_sound_is_measured_by_its_packets(
    name: str, mime: str, padding: float, direct: DirectContext, tmp_path: Path
) -> None:
    facts = await facts_of(direct, material.sound(tmp_path / name, 2.5))
    assert (facts.mime, facts.video, facts.damaged) == (mime, None, False)
    assert 2.5 <= facts.duration <= 2.5 + padding + 1e-6
    assert facts.as_dict()["audio"][0]["duration"] == pytest.approx(2.5, abs=padding + 1e-6)


@pytest.mark.parametrize(("name", "padding"), [("a.ogg", 0.01), ("a.opus", 0.05)])
async def test_an_ogg_of_several_parts_is_as_long_as_all_of_them(
    name: str, padding: float, direct: DirectContext, tmp_path: Path
) -> None:
    facts = await facts_of(direct, material.one_behind_the_other(tmp_path / name, [(48_000, 1)] * 3))
    assert float(facts.duration) == pytest.approx(6, abs=padding)


@pytest.mark.parametrize(("degrees", "size"), [(0, (160, 120)), (90, (120, 160)), (180, (160, 120)), (270, (120, 160))])
async def test_a_film_of_a_phone_has_the_size_that_it_is_looked_at_in(
    degrees: int, size: tuple[int, int], direct: DirectContext, tmp_path: Path
) -> None:
    video = (await facts_of(direct, material.rotated(tmp_path / "a.mp4", degrees))).video
    assert video is not None
    assert (video.rotation, (video.width, video.height)) == (degrees, size)


async def test_pixels_that_are_not_square_count_as_they_are_looked_at(direct: DirectContext, tmp_path: Path) -> None:
    path = material.clip(tmp_path / "a.mp4", 0.2, size=(180, 144), options=["-vf", "setsar=16/15"])
    video = (await facts_of(direct, path)).video
    assert video is not None
    assert (video.width, video.height) == (192, 144)


async def test_pixels_of_an_absurd_shape_are_taken_as_square(direct: DirectContext, tmp_path: Path) -> None:
    path = material.clip(tmp_path / "a.mp4", 0.2, options=["-vf", "setsar=1/200"])
    video = (await facts_of(direct, path)).video
    assert video is not None
    assert (video.width, video.height) == (160, 120)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
async def test_a_variable_frame_rate_is_noticed(name: str, direct: DirectContext, tmp_path: Path) -> None:
    video = (await facts_of(direct, material.vfr(tmp_path / name))).video
    assert video is not None
    assert (video.variable, video.frames) == (True, 30)


@pytest.mark.parametrize(
    ("fps", "name"), [("24000/1001", "a.mkv"), ("30000/1001", "a.mp4"), ("60", "a.mkv"), ("12.5", "a.mp4")]
)
async def test_times_rounded_to_milliseconds_are_no_variable_frame_rate(
    fps: str, name: str, direct: DirectContext, tmp_path: Path
) -> None:
    video = (await facts_of(direct, material.clip(tmp_path / name, fps=fps, audio=None))).video
    assert video is not None
    assert not video.variable
    assert video.fps == pytest.approx(float(Fraction(fps)), rel=1e-3)


async def test_a_cover_is_no_film(direct: DirectContext, tmp_path: Path) -> None:
    for name in ("a.mp3", "a.m4a"):
        facts = await facts_of(direct, material.with_cover(tmp_path / name))
        assert facts.video is None
        assert facts.mime.startswith("audio/")
        assert len(facts.audio) == 1


async def test_a_silent_film_has_no_sound(direct: DirectContext, tmp_path: Path) -> None:
    facts = await facts_of(direct, material.clip(tmp_path / "a.mp4", audio=None))
    assert facts.audio == ()
    assert facts.duration == 1


async def test_transparency_is_noticed_and_the_decoder_that_keeps_it_is_named(
    direct: DirectContext, tmp_path: Path
) -> None:
    for codec, name in (("libvpx-vp9", "a.webm"), ("qtrle", "a.mov")):
        pixel_format = "yuva420p" if name == "a.webm" else "argb"
        path = material.clip(tmp_path / name, 0.2, codec=codec, pixel_format=pixel_format, audio=None)
        video = (await facts_of(direct, path)).video
        assert video is not None
        assert video.alpha
        assert video.decoder == ("libvpx-vp9" if name == "a.webm" else None)


async def test_sound_that_begins_after_the_picture_says_when(direct: DirectContext, tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    material.make(
        "-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=2", "-itsoffset", "0.5", "-f", "lavfi", "-i", "sine=d=1",
        "-c:v", "mjpeg", path,
    )  # fmt: skip
    facts = await facts_of(direct, path)
    assert float(facts.audio[0].start) == pytest.approx(0.5, abs=0.01)
    assert facts.duration == 2


async def test_an_animation_is_a_film_and_a_still_picture_is_none(direct: DirectContext, tmp_path: Path) -> None:
    moving = material.clip(tmp_path / "a.gif", 0.4, codec="gif", pixel_format="rgb8", audio=None)
    facts = await facts_of(direct, moving)
    assert facts.mime == "image/gif"
    assert facts.video is not None
    assert facts.video.frames == 10
    for kind in ("GIF", "PNG", "JPEG", "WEBP"):
        still = saved(tmp_path, encoded(picture(), kind))
        assert f"a picture ({kind}): send MP4" in await refusal(direct, still)


async def test_a_stated_length_that_is_a_lie_is_measured(direct: DirectContext, tmp_path: Path) -> None:
    facts = await facts_of(direct, material.claiming(tmp_path / "a.mkv", 1e7))
    assert facts.duration == pytest.approx(1, abs=0.1)
    assert facts.damaged


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
async def test_a_film_that_is_cut_off_is_as_long_as_what_is_there(
    name: str, direct: DirectContext, tmp_path: Path
) -> None:
    whole = material.clip(tmp_path / name, 4, options=["-movflags", "+faststart"] if name == "a.mp4" else [])
    assert not (await probe(direct, whole, "inputs/media")).damaged
    facts = await facts_of(direct, material.cut(whole, 0.6, tmp_path / "cut"))
    assert 1 < facts.duration < 3
    assert facts.damaged
    assert facts.as_dict()["damaged"] is True


async def test_a_film_without_its_index_is_to_be_uploaded_again(direct: DirectContext, tmp_path: Path) -> None:
    cut = material.cut(material.clip(tmp_path / "a.mp4"), 0.6, tmp_path / "cut")
    assert "cut off (the index at its end is missing): upload it again" in await refusal(direct, cut)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty (0 bytes)"),
        (b"a letter to a friend", "but text"),
        (b"<!doctype html><title>404 Not Found</title>", "HTML"),
        (b"%PDF-1.7\n", "PDF"),
        (b"PK\x03\x04" + bytes(60), "ZIP"),
        (b"1\n00:00:00,000 --> 00:00:01,000\nHello\n", "subtitles"),
        (b"WEBVTT\n\n00:00.000 --> 00:01.000\nHello\n", "subtitles"),
        (bytes(4096), "not sound or film that can be read"),
        (bytes(range(256)) * 40, "not sound or film that can be read"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom", "cut off"),
        (b"\x1aE\xdf\xa3" + bytes(100), "not sound or film that can be read"),
    ],
)
async def test_what_is_no_media_is_named(data: bytes, said: str, direct: DirectContext, tmp_path: Path) -> None:
    assert said in await refusal(direct, saved(tmp_path, data, "talk.mp4"))


async def test_media_without_anything_in_it_is_refused(direct: DirectContext, tmp_path: Path) -> None:
    assert "neither sound nor film in it" in await refusal(direct, material.wav(tmp_path / "0.wav", []))
    assert "neither sound nor film in it" in await refusal(direct, material.no_frames(tmp_path / "a.mp4"))
    assert "upload it again" in await refusal(direct, material.no_frames(tmp_path / "a.mkv"))


async def test_one_sample_is_sound(direct: DirectContext, tmp_path: Path) -> None:
    facts = await facts_of(direct, material.wav(tmp_path / "1.wav", [0.5]))
    assert facts.duration == Fraction(1, 16_000)


async def test_one_frame_is_a_film(direct: DirectContext, tmp_path: Path) -> None:
    facts = await facts_of(direct, material.clip(tmp_path / "a.mp4", 0.04, audio=None))
    assert facts.duration == Fraction(1, 25)


async def test_protected_media_is_refused(direct: DirectContext, tmp_path: Path) -> None:
    assert "encrypted (DRM)" in await refusal(direct, material.encrypted(tmp_path / "a.mp4"))


async def test_a_codec_that_is_not_read_is_named(direct: DirectContext, tmp_path: Path) -> None:
    # Its decoder has a hole in older builds (CVE-2026-8461).
    path = material.clip(tmp_path / "a.mkv", 0.2, codec="magicyuv")
    assert "is encoded as magicyuv, which is not read: send MP4" in await refusal(direct, path)


async def test_subtitles_and_data_in_a_film_are_of_no_harm(direct: DirectContext, tmp_path: Path) -> None:
    subtitles = saved(tmp_path, b"1\n00:00:00,000 --> 00:00:01,000\nHello\n", "a.srt")
    film = material.clip(tmp_path / "a.mp4", 0.4)
    for name, codec in (("b.mkv", "srt"), ("c.mkv", "ass"), ("d.mp4", "mov_text")):
        material.make(
            "-i", film, "-i", subtitles, "-c", "copy", "-c:s", codec, "-timecode", "01:00:00:00", tmp_path / name
        )
        facts = await facts_of(direct, tmp_path / name)
        assert facts.video is not None
        assert len(facts.audio) == 1


async def test_limits_of_pixels_seconds_and_streams_hold(direct: DirectContext, tmp_path: Path) -> None:
    path = material.clip(tmp_path / "a.mp4", 1)
    for limit, said in (
        ({"max_pixels": 10_000}, "more than the limit of 10,000 pixels a frame"),
        ({"max_seconds": 0.5}, "1 seconds long, more than the limit of 0"),
        ({"max_streams": 1}, "more than the limit of 1 streams"),
    ):
        direct.limits = LIMITS.model_copy(update=limit)
        assert said in await refusal(direct, path)


async def test_the_limit_of_bytes_is_for_pictures(direct: DirectContext, tmp_path: Path) -> None:
    direct.limits = LIMITS.model_copy(update={"max_bytes": 1000})
    assert (await facts_of(direct, material.clip(tmp_path / "a.mp4", 0.2))).video is not None
    assert len((await facts_of(direct, material.sound(tmp_path / "a.wav", 0.2))).audio) == 1


async def test_a_film_says_what_its_pixels_stand_for(direct: DirectContext, tmp_path: Path) -> None:
    colors = ["-colorspace", "bt2020nc", "-color_trc", "smpte2084", "-color_primaries", "bt2020", "-color_range", "pc"]
    path = material.clip(tmp_path / "a.mp4", 0.1, audio=None, options=["-vf", "setsar=4/3", *colors])
    video = (await facts_of(direct, path)).video
    assert video is not None
    assert (video.color_space, video.color_transfer) == ("bt2020nc", "smpte2084")
    assert (video.color_primaries, video.color_range, video.pixel_aspect) == ("bt2020", "pc", Fraction(4, 3))
    plain = (await facts_of(direct, material.clip(tmp_path / "b.mp4", 0.1, audio=None))).video
    assert plain is not None
    assert (plain.color_space, plain.color_transfer, plain.color_primaries, plain.color_range) == (None,) * 4
    assert plain.pixel_aspect == 1
