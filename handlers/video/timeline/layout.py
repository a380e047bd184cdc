"""From a timeline to a plan: what is wrong with it, and which frame each item begins and ends at.

The same examination is made twice: at the door, where only the names of the assets are known, and before rendering,
where their facts are. What cannot be judged without the facts waits for them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction

from handlers.errors import InvalidInput, Problem
from handlers.video.timeline import check, timing
from handlers.video.timeline.assets import (
    AssetFacts,
    check_explicit_reverse,
    check_fonts,
    check_media,
    check_names,
    track_pointer,
)
from handlers.video.timeline.canvas import MOST_GIF_PIXELS, canvas_of, check_rate, rate_of, roles_of
from handlers.video.timeline.faults import Code, Faults
from handlers.video.timeline.film import Film, tracks_of
from handlers.video.timeline.items import DEFAULT_FONT, AudioItem, Item, VideoItem
from handlers.video.timeline.plan import AudioEncoding, Format, Loudness, Plan, Subtitles, VideoEncoding
from handlers.video.timeline.schema import EditParams
from handlers.video.timeline.times import Time, half_up

__all__ = ["AssetFacts", "plan", "problems"]

#: The role of the assets among a job's inputs.
ASSETS = "assets"
_BITRATE = {Format.WEBM: 128_000}


def problems(params: EditParams, names: Mapping[str, Collection[str]]) -> list[Problem]:
    """What is wrong as far as it can be said without the assets; `names["assets"]` are their names."""
    faults = Faults()
    check_names(params, frozenset(names.get(ASSETS, ())), faults)
    fps = rate_of(params, None)
    check_explicit_reverse(params, fps, faults)
    _examine(params, None, fps, faults)
    return list(faults.problems)


def plan(params: EditParams, assets: Mapping[str, AssetFacts], fonts: Collection[str]) -> Plan:
    """The film in whole frames. Raises InvalidInput with everything that is wrong."""
    faults = Faults()
    fps = rate_of(params, assets)
    check_names(params, frozenset(assets), faults)
    check_fonts(params, frozenset(fonts), faults)
    check_media(params, assets, fps, faults)
    examined = _examine(params, assets, fps, faults)
    canvas = None if fps is None else canvas_of(params, fps, assets)
    if canvas is not None and params.output.format.has_video:
        check_rate(canvas.width, canvas.height, canvas.fps, faults)
    if faults.problems:
        raise InvalidInput(problems=faults.problems)
    assert canvas is not None
    assert examined.film is not None
    film = _plan(Film(params, canvas, assets, half_up(examined.film * canvas.fps)), examined.lanes)
    pixels = canvas.width * canvas.height * film.length
    if film.format is Format.GIF and pixels > MOST_GIF_PIXELS:
        what = f"is gif, and {film.length:,} frames of {canvas.width} x {canvas.height} make a huge one"
        fix = f"keep to {MOST_GIF_PIXELS:,} pixels in all, by width, height, fps or range, or write mp4"
        raise InvalidInput(problems=[Problem("/params/output/format", Code.LIMIT_EXCEEDED, what, fix)])
    return film


@dataclass(frozen=True, slots=True)
class _Examined:
    lanes: list[timing.Lane]
    film: Fraction | None
    """Seconds; None: not known yet."""


def _examine(
    params: EditParams, assets: Mapping[str, AssetFacts] | None, fps: Fraction | None, faults: Faults
) -> _Examined:
    check.check_output(params.output, fps, faults)
    check.check_tracks(params, fps, faults)
    check.check_range(params.output, fps, faults)

    def length_of(item: Item) -> Fraction | None:
        return _length(item, assets, fps)

    lanes = [
        timing.Lane(track.kind, role, timing.lay(track.items, track_pointer(index), fps, length_of, faults))
        for index, (track, role) in enumerate(zip(params.timeline.tracks, roles_of(params), strict=True))
    ]
    film = timing.film_length(lanes)
    if film is not None:
        timing.fill(lanes, film, faults)
        check.check_film(params, film, fps, faults)
    for lane in lanes:
        timing.check_transitions(lane, faults)
        timing.check_fades(lane, fps, faults)
        timing.check_frames(lane, fps, faults)
        if film:
            timing.check_end(lane, film, fps, faults)
    check.check_length(film or Fraction(0), fps, faults)
    return _Examined(lanes, film)


def _length(item: Item, assets: Mapping[str, AssetFacts] | None, fps: Fraction | None) -> Fraction | None:
    """Seconds on the film's clock; None: not known."""
    if isinstance(item.duration, Time):
        return item.duration.at(fps)
    assert isinstance(item, VideoItem | AudioItem)
    facts = None if assets is None else assets.get(item.asset)
    start = item.in_.at(fps)
    if facts is None or facts.duration is None or start is None or start >= facts.duration:
        return None
    return (facts.duration - start) / item.speed


def _plan(film: Film, lanes: list[timing.Lane]) -> Plan:
    params, output, canvas = film.params, film.params.output, film.canvas
    first, last = 0, film.frames
    if output.range is not None:
        first = min(film.frame(output.range.start), film.frames - 1)
        if output.range.end is not None:
            last = min(film.frame(output.range.end), film.frames)
    codecs = check.CODECS.get(output.format)
    codec = output.video.codec or (codecs[0] if codecs else None)
    video = None
    if output.format.has_video:
        video = VideoEncoding(preset=output.video.preset)
        if codec is not None:
            video = VideoEncoding(codec, output.video.crf or check.CRF[codec], output.video.preset)
    audio = None
    if output.audio is not None and output.format.has_audio:
        audio = AudioEncoding(output.audio.bitrate or _BITRATE.get(output.format, AudioEncoding().bitrate))
    loudness = output.loudness
    return Plan(
        canvas=canvas,
        format=output.format,
        tracks=tracks_of(film, lanes),
        frames=film.frames,
        first=first,
        last=last,
        audio=audio,
        video=video,
        loudness=None if loudness is None else Loudness(loudness.i, loudness.tp, loudness.lra),
        poster=None if output.poster is None else min(film.frame(output.poster), film.frames - 1),
        subtitles=tuple(
            Subtitles(
                pointer=f"/params/timeline/subtitles/{index}",
                asset=one.asset,
                mode=one.mode,
                language=one.language,
                font=one.font or DEFAULT_FONT,
            )
            for index, one in enumerate(params.timeline.subtitles)
        ),
    )
