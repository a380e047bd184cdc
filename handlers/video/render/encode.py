"""How a film is encoded: ffmpeg's options for each format, and whether this build has the encoders."""

from __future__ import annotations

from handlers.declaration import Context
from handlers.errors import InvalidInput, Problem
from handlers.media import ffmpeg
from handlers.video.render.graph import ratio
from handlers.video.timeline.faults import Code
from handlers.video.timeline.plan import Format, Plan, SubtitleMode, VideoCodec, VideoEncoding

Options = dict[str, object]

_VIDEO = {VideoCodec.H264: "libx264", VideoCodec.HEVC: "libx265", VideoCodec.VP9: "libvpx-vp9"}
_AUDIO = {
    Format.MP4: "aac",
    Format.M4A: "aac",
    Format.WEBM: "libopus",
    Format.MP3: "libmp3lame",
    Format.WAV: "pcm_s16le",
}
_MUXER = {
    Format.MP4: "mp4",
    Format.M4A: "ipod",
    Format.WEBM: "webm",
    Format.MP3: "mp3",
    Format.WAV: "wav",
    Format.GIF: "gif",
}
MEDIA_TYPES = {
    Format.MP4: "video/mp4",
    Format.M4A: "audio/mp4",
    Format.WEBM: "video/webm",
    Format.MP3: "audio/mpeg",
    Format.WAV: "audio/wav",
    Format.GIF: "image/gif",
}
_SUBTITLES = {Format.MP4: "mov_text", Format.WEBM: "webvtt"}

#: libvpx's `cpu-used` (with `deadline good`, from 6 on `realtime`) for x264's names.
_VP9_SPEED = {
    "ultrafast": 8, "superfast": 7, "veryfast": 5, "faster": 4, "fast": 3, "medium": 2, "slow": 1, "slower": 0,
    "veryslow": 0,
}  # fmt: skip

#: BT.709, limited range: what the graph makes.
_COLORS: Options = {
    "pix_fmt": "yuv420p",
    "colorspace": "bt709",
    "color_primaries": "bt709",
    "color_trc": "bt709",
    "color_range": "tv",
}


def encoders(plan: Plan) -> dict[str, str]:
    """Names of the encoders that a plan needs, and what asks for each."""
    needed = {}
    if plan.format is Format.GIF:
        needed["gif"] = "/params/output/format"
    elif plan.video is not None:
        needed[_VIDEO[plan.video.codec]] = "/params/output/video/codec"
    if plan.audio is not None and plan.format.has_audio:
        needed[_AUDIO[plan.format]] = "/params/output/format"
    if soft(plan):
        needed[_SUBTITLES[plan.format]] = "/params/timeline/subtitles"
    return needed


async def refuse_missing(ctx: Context, plan: Plan) -> None:
    """Raises InvalidInput where this build of ffmpeg cannot encode what is asked for."""
    here = await ctx.cpu(ffmpeg.encoders)
    problems = [
        Problem(pointer, Code.ENCODER_MISSING, f"needs the encoder {name}", "ask for another format or codec")
        for name, pointer in encoders(plan).items()
        if name not in here
    ]
    if problems:
        raise InvalidInput(problems=problems)


def soft(plan: Plan) -> bool:
    """Whether the file has streams of subtitles."""
    return plan.format in _SUBTITLES and any(subtitles.mode is SubtitleMode.SOFT for subtitles in plan.subtitles)


def video(encoding: VideoEncoding, plan: Plan) -> Options:
    """Options of the pictures."""
    options: Options = {**_COLORS, "c:v": _VIDEO[encoding.codec], "r": ratio(plan.canvas.fps), "crf": encoding.crf}
    if encoding.codec is VideoCodec.VP9:
        speed = _VP9_SPEED[encoding.preset]
        deadline = "realtime" if speed > 5 else "good"
        return {**options, "b:v": 0, "deadline": deadline, "cpu-used": speed, "row-mt": 1}
    options["preset"] = encoding.preset
    if encoding.codec is VideoCodec.HEVC:
        # Apple's players want this name; libx265 says much on its own.
        options |= {"tag:v": "hvc1", "x265-params": "log-level=error"}
    return options


def audio(plan: Plan) -> Options:
    """Options of the sound."""
    assert plan.audio is not None
    options: Options = {"c:a": _AUDIO[plan.format], "ar": plan.canvas.sample_rate, "ac": 2}
    if plan.format is not Format.WAV:
        options["b:a"] = plan.audio.bitrate
    return options


def subtitles(plan: Plan, languages: list[str]) -> Options:
    """Options of streams of subtitles in these languages (ISO 639-2)."""
    options: Options = {"c:s": _SUBTITLES[plan.format]}
    return options | {f"metadata:s:s:{number}": f"language={code}" for number, code in enumerate(languages)}


def container(plan: Plan) -> Options:
    """Options of the file: nothing of where it came from, the same bytes each time."""
    options: Options = {"format": _MUXER[plan.format], "map_metadata": -1, "map_chapters": -1, "fflags": "+bitexact"}
    if plan.format in (Format.MP4, Format.M4A):
        options["movflags"] = "+faststart"
    if plan.format is Format.WAV:
        options["rf64"] = "auto"
    return options
