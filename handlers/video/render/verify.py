"""What a file that was made really is, against what it should be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from handlers.declaration import Context
from handlers.errors import HandlerBug
from handlers.media import ffmpeg
from handlers.video.render import encode
from handlers.video.timeline.plan import Format, Plan, SubtitleMode

#: What may be added to a sound: rounding to milliseconds, a codec's delay and the rest of its last block.
_SLACK_S, _SLACK_SAMPLES = 0.02, 3072


class VerificationFailed(HandlerBug):
    """The file that was made is not what was asked for: OUTPUT_VERIFY_FAILED."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of the file: what ffprobe says of it, and how many packets it has."""

    kind: str
    codec: str
    packets: int
    facts: Mapping[str, Any]

    @property
    def sample_rate(self) -> int | None:
        """Of sound: samples a second."""
        return int(self.facts["sample_rate"]) if self.kind == "audio" else None

    @property
    def channels(self) -> int | None:
        """Of sound."""
        return int(self.facts["channels"]) if self.kind == "audio" else None

    @property
    def language(self) -> str | None:
        """ISO 639-2."""
        found = self.facts.get("tags", {}).get("language")
        return found if found != "und" else None


async def verified(ctx: Context, plan: Plan, path: Path) -> tuple[Stream, ...]:
    """The streams of the file. Raises VerificationFailed where they are not as planned: frames are counted."""
    streams = await _streams(ctx, path)
    faults = [*_wrong_video(plan, streams), *_wrong_audio(plan, streams), *_wrong_number(plan, streams)]
    if faults:
        raise VerificationFailed("OUTPUT_VERIFY_FAILED: " + "; ".join(faults))
    return streams


async def _streams(ctx: Context, path: Path) -> tuple[Stream, ...]:
    entries = (
        "stream=index,codec_type,codec_name,nb_read_packets,width,height,r_frame_rate,avg_frame_rate,sample_rate,"
        "channels,duration,pix_fmt:stream_tags=language,DURATION:format=duration"
    )
    lines: list[str] = []
    arguments = ["-count_packets", "-show_entries", entries, "-of", "json=c=1", "-i", ffmpeg.source(path)]
    try:
        await ffmpeg.query(ctx, arguments, lines.append, time_s=3600)
    except ffmpeg.FfmpegFailed as error:
        raise VerificationFailed(f"OUTPUT_VERIFY_FAILED: the file cannot be read: {error.stderr[-500:]}") from error
    found = json.loads("\n".join(lines))
    whole = found.get("format", {}).get("duration")
    return tuple(
        Stream(
            kind=stream["codec_type"],
            codec=stream["codec_name"],
            packets=int(stream.get("nb_read_packets", 0)),
            facts={"duration": whole, **stream},
        )
        for stream in found["streams"]
    )


def _wrong_video(plan: Plan, streams: tuple[Stream, ...]) -> list[str]:
    found = [stream for stream in streams if stream.kind == "video"]
    if not plan.format.has_video:
        return []
    if len(found) != 1:
        return [f"{len(found)} streams of pictures, 1 expected"]
    [video] = found
    faults = []
    if video.packets != plan.length:
        faults.append(f"{video.packets} frames, {plan.length} expected")
    size = video.facts["width"], video.facts["height"]
    if size != (plan.canvas.width, plan.canvas.height):
        faults.append(f"{size[0]} x {size[1]} pixels, {plan.canvas.width} x {plan.canvas.height} expected")
    codec = "gif" if plan.video is None or plan.format is Format.GIF else plan.video.codec.value
    if video.codec != codec:
        faults.append(f"pictures in {video.codec}, {codec} expected")
    return faults


def _wrong_audio(plan: Plan, streams: tuple[Stream, ...]) -> list[str]:
    found = [stream for stream in streams if stream.kind == "audio"]
    if plan.audio is None or not plan.format.has_audio:
        return [] if not found else [f"{len(found)} streams of sound, none expected"]
    if len(found) != 1:
        return [f"{len(found)} streams of sound, 1 expected"]
    [audio] = found
    faults = []
    rate = 48_000 if plan.format is Format.WEBM else plan.canvas.sample_rate
    slack = _SLACK_S + _SLACK_SAMPLES / rate
    if audio.sample_rate != rate:
        faults.append(f"sound of {audio.sample_rate} Hz, {rate} expected")
    if (length := audio.facts.get("duration")) is not None:
        expected = plan.canvas.seconds(plan.length)
        if abs(Fraction(length) - expected) > slack:
            faults.append(f"{float(length):.3f} seconds of sound, {float(expected):.3f} expected")
    return faults


def _wrong_number(plan: Plan, streams: tuple[Stream, ...]) -> list[str]:
    found = sum(stream.kind == "subtitle" for stream in streams)
    expected = sum(each.mode is SubtitleMode.SOFT for each in plan.subtitles) if encode.soft(plan) else 0
    return [] if found == expected else [f"{found} streams of subtitles, {expected} expected"]
