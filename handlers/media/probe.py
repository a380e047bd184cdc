"""What the bytes of a sound or film are, found out by ffprobe under guards, never by a name.

    facts = await probe(ctx, path, "inputs/media")
    ctx.probe("inputs/media", facts.as_dict())

Covers of albums are no films; a file whose only picture is its cover is sound. Times are exact fractions of seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from handlers.declaration import Context
from handlers.errors import InvalidInput
from handlers.media.codecs import CODECS, FORMATS, STILLS
from handlers.media.ffmpeg import FfmpegFailed
from handlers.media.packets import Survey, Track, survey
from handlers.media.refusal import SEND, Head, explain, look, not_read, too_many_pixels
from handlers.protocol import Limits

#: Containers that state the length, so that one with less in it is cut off; others are estimated.
_STATING = frozenset({"mov", "matroska", "avi", "flac", "asf", "caf", "aiff"})
#: Seconds that a stated length may be beyond what is there.
_TOLERANCE = Fraction(1)
#: An MP4 states the length without what an encoder put at the ends: within so many seconds it is taken.
_PADDING = Fraction(1, 20)

#: Samples a second that there are; of fewer, one packet of a file would become hours when it is resampled.
_SLOWEST, _FASTEST = 1_000, 768_000

#: Seconds that may be missing within a sound: more is a clock that jumps, and the silence for it takes memory.
_MOST_MISSING = 3600

#: Beginnings of the names of pixel formats that have transparency.
_TRANSPARENT = ("yuva", "gbrap", "rgba", "bgra", "argb", "abgr", "ayuv", "ya8", "ya16", "pal8")
#: What ffprobe calls a colour that the file does not name, or names by a number without a meaning.
_UNSAID = frozenset({"", "unspecified", "reserved"})
#: The built-in decoders of these ignore the transparency that WebM carries beside the picture.
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


@dataclass(frozen=True, slots=True)
class VideoStream:
    """The film of a file: the first stream of pictures that is no cover."""

    #: Of the stream in the file: `-map 0:<index>`.
    index: int
    #: As ffmpeg names it: `h264`.
    codec: str
    #: Pixels as it is looked at: after `rotation`, with square pixels.
    width: int
    height: int
    #: Clockwise, in degrees, to be looked at: 0, 90, 180, 270. ffmpeg turns what it decodes by itself.
    rotation: int
    #: Frames a second, on average, as the container says or, where it does not, as they were counted.
    fps: Fraction | None
    #: Seconds, from the first frame to the end of the last, by the packets.
    duration: Fraction | None
    #: Packets counted; one of field-coded film may be half a frame.
    frames: int | None
    #: Whether the time between frames varies, anywhere in the file.
    variable: bool
    #: As ffmpeg names it: `yuv420p`.
    pixel_format: str
    #: Whether it has transparency.
    alpha: bool
    #: Width of a pixel by its height, as the file says it (`width` counts it in); 1 where it does not.
    pixel_aspect: Fraction = Fraction(1)
    #: What the numbers of its pixels stand for, as ffmpeg names it (`bt709`, `tv`, `smpte2084`); None: it is not said.
    color_space: str | None = None
    color_range: str | None = None
    color_transfer: str | None = None
    color_primaries: str | None = None
    #: Seconds from the start of the file's clock to the first frame.
    start: Fraction = Fraction(0)
    #: The decoder to ask for (`-c:v` before `-i`) where ffmpeg's own choice would lose the transparency.
    decoder: str | None = None


@dataclass(frozen=True, slots=True)
class AudioStream:
    """One sound track."""

    #: Of the stream in the file: `-map 0:<index>`.
    index: int
    codec: str
    sample_rate: int
    channels: int
    #: Seconds.
    duration: Fraction | None
    #: Seconds from the start of the file's clock.
    start: Fraction
    #: As ffmpeg names it: `stereo`, `5.1(side)`; None where the file does not say which channel is which.
    layout: str | None = None


@dataclass(frozen=True, slots=True)
class MediaFacts:
    """What the bytes of a sound or film are."""

    mime: str
    #: As ffmpeg names the demuxer: `mov`, `matroska`, `wav`.
    container: str
    #: Seconds from the start of the file's clock to the end of the last stream; above 0.
    duration: Fraction
    #: None: nothing is to be seen.
    video: VideoStream | None
    audio: tuple[AudioStream, ...]
    #: Whether the file ends before it says it does.
    damaged: bool = False
    #: Codecs of streams that were left out because nothing of them could be decoded.
    unread: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For `Context.probe`: numbers as JSON has them."""
        facts: dict[str, Any] = {
            "mime": self.mime,
            "container": self.container,
            "duration": _number(self.duration),
            "damaged": self.damaged,
        }
        if self.unread:
            facts["unread"] = list(self.unread)
        if self.video is not None:
            facts |= {
                "width": self.video.width,
                "height": self.video.height,
                "fps": _number(self.video.fps),
                "frames": self.video.frames,
                "video": _plain(self.video),
            }
        return facts | {"audio": [_plain(stream) for stream in self.audio]}


async def probe(ctx: Context, path: Path, of: str) -> MediaFacts:
    """Looks a file over before anything of it is used: its streams, and their lengths by reading all packets.

    `of` is the pointer that error messages name. A file that is cut off is good as far as it goes (`damaged`), unless
    its index is missing. Raises InvalidInput for what is no sound or film, is beyond `ctx.limits`, is encrypted or has
    nothing in it; what `ffmpeg.query` raises (Timeout, Retry); OSError where the file itself cannot be read.
    """
    head = await ctx.cpu(look, path, of)
    try:
        found = await survey(ctx, path)
    except FfmpegFailed as error:
        raise InvalidInput(explain(error.stderr, head, path, ctx.limits, of)) from error
    container = next((name for name in found.form.get("format_name", "").split(",") if name in FORMATS), "")
    if container in STILLS or not container:
        raise InvalidInput(f"{of} is not sound or film but a picture: {SEND}")
    streams, unread = _usable(found.streams.values(), ctx.limits, of)
    facts = _facts(container, streams, found, head, of)
    if any(track.encrypted for track in found.tracks.values()):
        raise InvalidInput(f"{of} is encrypted (DRM): send it without protection")
    if facts.video is None and not facts.audio:
        raise InvalidInput(_nothing(unread, found, ctx.limits, of))
    if facts.duration > ctx.limits.max_seconds:
        raise InvalidInput(
            f"{of} is {float(facts.duration):,.0f} seconds long, more than the limit of {ctx.limits.max_seconds:,.0f}:"
            " send a shorter one"
        )
    return replace(facts, unread=unread)


_Stream = Mapping[str, str]


def _usable(streams: Iterable[_Stream], limits: Limits, of: str) -> tuple[list[_Stream], tuple[str, ...]]:
    """The streams that are looked at, and the codecs of those that would be, if they could be read."""
    usable, unread = [], []
    for stream in streams:
        kind = stream.get("codec_type")
        cover = "1" in (stream.get("disposition:attached_pic"), stream.get("disposition:timed_thumbnails"))
        if kind not in {"video", "audio"} or cover:
            continue
        codec = stream.get("codec_name", "unknown")
        good = _has_pictures(stream, limits, of) if kind == "video" else _has_sound(stream, of)
        if good and codec in CODECS:
            usable.append(stream)
        else:
            unread.append(codec)
    return usable, tuple(dict.fromkeys(unread))


def _has_pictures(stream: _Stream, limits: Limits, of: str) -> bool:
    pixels = int(stream.get("width", 0)) * int(stream.get("height", 0))
    if pixels > limits.max_pixels:
        raise InvalidInput(too_many_pixels(limits, of))
    return pixels > 0 and "pix_fmt" in stream


def _has_sound(stream: _Stream, of: str) -> bool:
    rate = int(stream.get("sample_rate", 0))
    if rate and not _SLOWEST <= rate <= _FASTEST:
        raise InvalidInput(
            f"{of} has {rate:,} samples a second, which is no sound: record with {_SLOWEST:,} to {_FASTEST:,}"
        )
    return rate > 0 and int(stream.get("channels", 0)) > 0


def _nothing(unread: Sequence[str], found: Survey, limits: Limits, of: str) -> str:
    if "Picture size" in found.said:  # of which the container said nothing, or something else
        return too_many_pixels(limits, of)
    if any(codec in CODECS for codec in unread):
        return (
            f"{of} is damaged: nothing of its {' and '.join(unread)} can be decoded; save it anew and upload it again"
        )
    if unread:
        return not_read(unread, of)
    if found.cut_off:
        return f"{of} is cut off before its first sound or picture: upload it again"
    return f"{of} has neither sound nor film in it (0 seconds): record it again"


def _facts(container: str, streams: Sequence[_Stream], found: Survey, head: Head, of: str) -> MediaFacts:
    origin = _fraction(found.form.get("start_time")) or Fraction(0)
    video: VideoStream | None = None
    audio: list[AudioStream] = []
    end = Fraction(0)
    for stream in streams:
        track = found.tracks.get(int(stream["index"]))
        if track is None or (span := _span(stream, track, container)) is None:
            continue
        start, duration = max(span[0] - origin, Fraction(0)), span[1]
        if stream["codec_type"] == "audio":
            _check_clock(stream, track, of)
            audio.append(_audio(stream, start, duration))
        elif video is None:
            video = _video(stream, start, duration, track)
        else:
            continue
        end = max(end, start + duration)
    stated = _fraction(found.form.get("duration"))
    stating = container in _STATING or (container == "mp3" and head.stating)
    short = stating and stated is not None and end + max(_TOLERANCE, stated / 100) < stated
    mime = FORMATS[container][0 if video is None else 1]
    if container == "matroska" and head.webm:
        mime = mime.replace("x-matroska", "webm")
    if container == "mov" and head.quicktime and video is not None:
        mime = "video/quicktime"
    return MediaFacts(mime, container, end, video, tuple(audio), short or head.cut_off or found.cut_off)


def _check_clock(stream: _Stream, track: Track, of: str) -> None:
    missing = max(track.missing, track.longest or 0) * Fraction(stream["time_base"])
    if missing > _MOST_MISSING:
        raise InvalidInput(
            f"{of} has {float(missing):,.0f} seconds without any sound between its parts, more than {_MOST_MISSING:,}:"
            " its clock jumps; save it anew, and upload it again"
        )


def _span(stream: _Stream, track: Track, container: str) -> tuple[Fraction, Fraction] | None:
    """Start and length in seconds on the container's clock; None for a stream without packets."""
    if not track.packets or track.first is None or track.end is None:
        return None
    time_base = Fraction(stream["time_base"])
    start = _fraction(stream.get("start_time"))
    start = track.first * time_base if start is None else start
    # ffmpeg plays the parts of a chained Ogg one behind the other, though each has a clock from 0 on.
    end = track.ran_to if container == "ogg" and stream["codec_type"] == "audio" else track.end
    duration = end * time_base - start
    stated = _fraction(stream.get("duration"))
    if container == "mov" and stated is not None and abs(stated - duration) <= _PADDING:
        duration = stated
    if duration <= 0:  # one picture that does not say for how long
        duration = 1 / (_fraction(stream.get("avg_frame_rate")) or Fraction(25))
    return start, duration


def _video(stream: _Stream, start: Fraction, duration: Fraction, track: Track) -> VideoStream:
    codec, pixel_format = stream["codec_name"], stream["pix_fmt"]
    beside = _WITH_ALPHA.get(codec) if stream.get("tag:alpha_mode") == "1" else None
    rotation = _rotation(stream)
    width, height = _square(stream)
    if rotation in (90, 270):
        width, height = height, width
    return VideoStream(
        index=int(stream["index"]),
        codec=codec,
        width=width,
        height=height,
        rotation=rotation,
        fps=_fraction(stream.get("avg_frame_rate")) or track.packets / duration,
        duration=duration,
        frames=track.packets,
        variable=track.varies(Fraction(stream["time_base"])),
        pixel_format=pixel_format,
        alpha=beside is not None or pixel_format.startswith(_TRANSPARENT),
        pixel_aspect=_aspect(stream) or Fraction(1),
        color_space=_said(stream, "color_space"),
        color_range=_said(stream, "color_range"),
        color_transfer=_said(stream, "color_transfer"),
        color_primaries=_said(stream, "color_primaries"),
        start=start,
        decoder=beside,
    )


def _audio(stream: _Stream, start: Fraction, duration: Fraction) -> AudioStream:
    return AudioStream(
        index=int(stream["index"]),
        codec=stream["codec_name"],
        sample_rate=int(stream["sample_rate"]),
        channels=int(stream["channels"]),
        duration=duration,
        start=start,
        layout=stream.get("channel_layout"),
    )


def _rotation(stream: _Stream) -> int:
    """What ffprobe says counts counter-clockwise; phones turn by quarters."""
    try:
        return round(-float(stream.get("rotation", 0)) / 90) % 4 * 90
    except (ValueError, OverflowError):  # a matrix that is none
        return 0


def _square(stream: _Stream) -> tuple[int, int]:
    """Width and height with square pixels; a shape of pixels beyond 1:8 or 8:1 is none, and is left out."""
    width, height = int(stream["width"]), int(stream["height"])
    aspect = _aspect(stream)
    if aspect is not None and Fraction(1, 8) <= aspect <= 8:
        width = max(1, round(width * aspect))
    return width, height


def _aspect(stream: _Stream) -> Fraction | None:
    """The shape of a pixel; None where it is not said, as by 0:1."""
    return _fraction(stream.get("sample_aspect_ratio", "").replace(":", "/")) or None


def _said(stream: _Stream, name: str) -> str | None:
    value = stream.get(name)
    return None if value in _UNSAID else value


def _fraction(text: str | None) -> Fraction | None:
    """None for what is not said, as `N/A`, and for a rate of 0/0 or 0."""
    try:
        return Fraction(text) if text else None
    except (ValueError, ZeroDivisionError):
        return None


def _number(value: Fraction | None) -> float | None:
    return None if value is None else round(float(value), 6)


def _plain(stream: VideoStream | AudioStream) -> dict[str, Any]:
    values = {each.name: getattr(stream, each.name) for each in fields(stream)}
    return {name: _number(value) if isinstance(value, Fraction) else value for name, value in values.items()}
