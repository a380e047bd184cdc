"""What contradicts itself in a timeline whatever its assets are: formats and codecs, tracks and items, limits."""

from __future__ import annotations

from fractions import Fraction

from handlers.video.timeline.assets import TIMELINE, items_of, track_pointer
from handlers.video.timeline.canvas import MOST_GIF_FPS, check_rate, roles_of
from handlers.video.timeline.faults import Code, Faults
from handlers.video.timeline.items import AudioItem, GapItem, VideoItem
from handlers.video.timeline.plan import Format, SubtitleMode, TrackKind, VideoCodec
from handlers.video.timeline.schema import MOST_ITEMS, EditParams, Output
from handlers.video.timeline.times import MOST_SECONDS, Curve, half_up, said
from handlers.video.timeline.timing import order

CODECS = {Format.MP4: (VideoCodec.H264, VideoCodec.HEVC), Format.WEBM: (VideoCodec.VP9,)}
#: Constant rate factor where none is given: about equal to the eye.
CRF = {VideoCodec.H264: 20, VideoCodec.HEVC: 24, VideoCodec.VP9: 32}
_MOST_CRF = 51
_MOST_MP3_BITRATE = 320_000
#: What the encoders take; others would be converted unasked.
_SAMPLE_RATES = {
    Format.WEBM: (16_000, 24_000, 48_000),
    Format.MP3: (16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
}
_OUTPUT = "/params/output"


def check_output(output: Output, fps: Fraction | None, faults: Faults) -> None:
    """Format, codecs and numbers must fit together."""
    if output.format.has_video:
        _check_video(output, faults)
        check_rate(output.width, output.height, fps, faults)
    else:
        for name in ("width", "height", "poster"):
            if getattr(output, name) is not None:
                _contradiction(name, f"is given, and {output.format} shows nothing", faults)
    if output.format is Format.GIF and fps is not None and fps > MOST_GIF_FPS:
        what = f"is {float(fps):g}, and gif goes no further than {MOST_GIF_FPS}: its clock has hundredths of a second"
        faults.say(f"{_OUTPUT}/fps", "out_of_range", what, f"write at most {MOST_GIF_FPS}")
    if output.format not in CODECS:
        for name in ("codec", "crf"):
            if getattr(output.video, name) is not None:
                _contradiction(f"video/{name}", f"is given, and {output.format} has no video codec", faults)
    _check_sound(output, faults)


def _contradiction(place: str, what: str, faults: Faults) -> None:
    faults.say(f"{_OUTPUT}/{place}", "contradiction", what, "leave it out, or choose another format")


def _check_video(output: Output, faults: Faults) -> None:
    codecs, video = CODECS.get(output.format, ()), output.video
    if video.codec is not None and codecs and video.codec not in codecs:
        what = f"is {video.codec}, which is not written into {output.format}"
        faults.say(f"{_OUTPUT}/video/codec", "contradiction", what, f"write {' or '.join(codecs)}")
    codec = video.codec or (codecs[0] if codecs else None)
    if video.crf is not None and video.crf > _MOST_CRF and codec is not VideoCodec.VP9:
        what = f"is {video.crf}, and {codec} goes no further than {_MOST_CRF}"
        faults.say(f"{_OUTPUT}/video/crf", "out_of_range", what, f"write 1 to {_MOST_CRF}")


def _check_sound(output: Output, faults: Faults) -> None:
    silent = output.audio is None or not output.format.has_audio
    if output.audio is None and not output.format.has_video:
        _contradiction("audio", f"is null, and {output.format} is nothing but sound", faults)
    if silent and output.loudness is not None:
        _contradiction("loudness", "is given, and the output is silent", faults)
    bitrate = None if output.audio is None else output.audio.bitrate
    if bitrate is not None and output.format in (Format.GIF, Format.WAV):
        _contradiction("audio/bitrate", f"is given, and {output.format} has none", faults)
    if bitrate is not None and output.format is Format.MP3 and bitrate > _MOST_MP3_BITRATE:
        what = f"is {bitrate:,}, and mp3 goes no further than {_MOST_MP3_BITRATE:,}"
        faults.say(f"{_OUTPUT}/audio/bitrate", "out_of_range", what, f"write at most {_MOST_MP3_BITRATE}")
    rates = _SAMPLE_RATES.get(output.format)
    if not silent and rates is not None and output.sample_rate not in rates:
        what = f"is {output.sample_rate}, which {output.format} does not have"
        faults.say(f"{_OUTPUT}/sample_rate", "contradiction", what, f"write one of {', '.join(map(str, rates))}")


def check_tracks(params: EditParams, fps: Fraction | None, faults: Faults) -> None:
    """Tracks, their items and subtitles must fit together."""
    count = sum(len(track.items) for track in params.timeline.tracks)
    if count > MOST_ITEMS:
        where, what = f"{TIMELINE}/tracks", f"have {count:,} items together"
        faults.say(
            where,
            Code.LIMIT_EXCEEDED,
            what,
            f"keep to {MOST_ITEMS:,}; make parts of the film first, each by a job",
        )
    for pointer, track, item in items_of(params):
        if track.kind is TrackKind.AUDIO and not isinstance(item, AudioItem | GapItem):
            what = f"is {item.type}, on a track of kind audio"
            fix = "put it on a track of kind video, or make it an audio item"
            faults.say(f"{pointer}/type", "contradiction", what, fix)
        elif track.kind is TrackKind.VIDEO and isinstance(item, AudioItem):
            faults.say(
                f"{pointer}/type",
                "contradiction",
                "is audio, on a track of kind video",
                "put it on a track of kind audio",
            )
        if isinstance(item, AudioItem | VideoItem) and isinstance(item.volume, Curve):
            _check_curve(item.volume, f"{pointer}/volume", fps, faults)
    _check_ducking(params, faults)
    _check_subtitles(params, faults)


def _check_curve(curve: Curve, pointer: str, fps: Fraction | None, faults: Faults) -> None:
    before: Fraction | None = None
    for index, (time, _) in enumerate(curve.points):
        seconds = time.at(fps)
        if seconds is not None and before is not None and seconds <= before:
            what = f"is at {said(seconds)}, not after the point before it"
            faults.say(f"{pointer}/{index}", "contradiction", what, "write the points in the order of time")
        before = before if seconds is None else seconds


def _check_ducking(params: EditParams, faults: Faults) -> None:
    roles = roles_of(params)
    for index, track in enumerate(params.timeline.tracks):
        if track.duck is None:
            continue
        others = {str(role) for number, role in enumerate(roles) if number != index}
        for number, role in enumerate(track.duck.by):
            if role not in others:
                known = f"write one of {', '.join(sorted(others))}" if others else "leave duck out"
                where = f"{track_pointer(index)}/duck/by/{number}"
                faults.say(where, "contradiction", f"is {role}, and no other track has this role", known)


def _check_subtitles(params: EditParams, faults: Faults) -> None:
    format_ = params.output.format
    for index, subtitles in enumerate(params.timeline.subtitles):
        pointer = f"{TIMELINE}/subtitles/{index}"
        if not format_.has_video:
            faults.say(pointer, "contradiction", f"is given, and {format_} shows nothing", "leave it out")
        elif subtitles.mode is SubtitleMode.SOFT and format_ is Format.GIF:
            faults.say(f"{pointer}/mode", "contradiction", "is soft, and gif has no streams of text", "write burn")
        elif subtitles.mode is SubtitleMode.SOFT and subtitles.font is not None:
            what = "is given, and soft subtitles are drawn by the player"
            faults.say(f"{pointer}/font", "contradiction", what, "leave it out, or write mode burn")


def check_film(params: EditParams, film: Fraction, fps: Fraction | None, faults: Faults) -> None:
    """Range and poster must lie within the film, and the film within limits."""
    if film > MOST_SECONDS:
        what = f"is {said(film)} long"
        faults.say(TIMELINE, Code.LIMIT_EXCEEDED, what, f"make it at most {said(Fraction(MOST_SECONDS))} long")
    output = params.output
    poster = None if output.poster is None else output.poster.at(fps)
    if film and poster is not None and poster >= film:
        what = f"is {said(poster)}, and the film is {said(film)} long"
        faults.say(f"{_OUTPUT}/poster", "out_of_range", what, "write a moment within the film")
    if output.range is None or not film:
        return
    start, end = output.range.start.at(fps), None if output.range.end is None else output.range.end.at(fps)
    for name, moment in (("start", start), ("end", end)):
        if moment is not None and (order(moment, film, fps) > 0 or (name == "start" and moment >= film)):
            what = f"is {said(moment)}, and the film is {said(film)} long"
            faults.say(f"{_OUTPUT}/range/{name}", "out_of_range", what, "write a moment within the film")


def check_length(film: Fraction, fps: Fraction | None, faults: Faults) -> None:
    """A film has a frame at least, where nothing else is wrong with its items: gaps alone may be too short for one."""
    if film and fps is not None and not half_up(film * fps) and not faults.at(TIMELINE):
        what = f"is {said(film)} long, which is no whole frame"
        faults.say(TIMELINE, "out_of_range", what, f"make it at least {said(1 / fps)} long")


def check_range(output: Output, fps: Fraction | None, faults: Faults) -> None:
    """A range has a frame at least."""
    if output.range is None or output.range.end is None:
        return
    start, end = output.range.start.at(fps), output.range.end.at(fps)
    if start is None or end is None:
        return
    if end <= start:
        what = f"is {said(end)}, not after its start at {said(start)}"
        faults.say(f"{_OUTPUT}/range/end", "contradiction", what, "write a later end")
    elif fps is not None and half_up(end * fps) <= half_up(start * fps):
        what = f"is {said(end)}, less than a frame after its start"
        faults.say(f"{_OUTPUT}/range/end", "out_of_range", what, "write a later end")
