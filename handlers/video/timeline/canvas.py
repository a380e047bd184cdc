"""The picture that a film is drawn on: its size and clock, given or taken from the material, and places in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from handlers.video.timeline.assets import AssetFacts
from handlers.video.timeline.faults import Code, Faults
from handlers.video.timeline.items import Area, VideoItem
from handlers.video.timeline.plan import Box, Canvas, Format, Region, Role, TrackKind
from handlers.video.timeline.schema import EditParams
from handlers.video.timeline.times import MOST_FPS, half_up

WIDTH, HEIGHT = 1280, 720
FPS = Fraction(30)
_LEAST, MOST_SIDE = 16, 4096
_MOST_PIXELS_A_SECOND = 4096 * 2160 * 60
_USUAL_RATES = tuple(
    Fraction(rate)
    for rate in ("12", "15", "24000/1001", "24", "25", "30000/1001", "30", "48", "50", "60000/1001", "60")
)
_NEAR = Fraction(1, 50)
#: A GIF holds every frame for whole hundredths of a second, and players take fewer than two for ten.
MOST_GIF_FPS = 50
#: Pixels of all frames of a GIF together: two and a half minutes of 1280 x 720 at 30 frames a second.
MOST_GIF_PIXELS = 4_000_000_000


def roles_of(params: EditParams) -> list[Role]:
    """What each track is for, where it does not say it too."""
    tracks = params.timeline.tracks
    main = any(track.role is Role.MAIN and track.kind is TrackKind.VIDEO for track in tracks)
    roles: list[Role] = []
    for track in tracks:
        if track.role is not None:
            roles.append(track.role)
        elif track.kind is TrackKind.AUDIO:
            roles.append(Role.MUSIC)
        else:
            roles.append(Role.OVERLAY if main else Role.MAIN)
            main = True
    return roles


def leading_asset(params: EditParams) -> str | None:
    """The first film of a main track: what the size and the rate of the output follow where they are not given."""
    for track, role in zip(params.timeline.tracks, roles_of(params), strict=True):
        if role is Role.MAIN and track.kind is TrackKind.VIDEO:
            for item in track.items:
                if isinstance(item, VideoItem):
                    return item.asset
    return None


def rate_of(params: EditParams, assets: Mapping[str, AssetFacts] | None) -> Fraction | None:
    """Frames a second of the output; None where they follow from an asset that is not known yet."""
    if params.output.fps is not None:
        return params.output.fps
    if (leading := leading_asset(params)) is None:
        return FPS
    if assets is None or leading not in assets:
        return None
    fps = _usual(assets[leading].fps) or FPS
    if params.output.format is Format.GIF:
        fps /= math.ceil(fps / MOST_GIF_FPS)  # every second frame, or third
    return fps


def canvas_of(params: EditParams, fps: Fraction, assets: Mapping[str, AssetFacts]) -> Canvas:
    """The canvas, when all assets are known."""
    facts = assets.get(leading_asset(params) or "")
    given = (facts.width, facts.height) if facts is not None else (None, None)
    width, height = _size(params.output.width, params.output.height, given[0] or WIDTH, given[1] or HEIGHT)
    return Canvas(
        width=width,
        height=height,
        fps=fps,
        sample_rate=params.output.sample_rate,
        background=params.timeline.background,
    )


def check_rate(width: int | None, height: int | None, fps: Fraction | None, faults: Faults) -> None:
    """So many pixels a second that no machine would end."""
    if width is not None and height is not None and fps is not None and width * height * fps > _MOST_PIXELS_A_SECOND:
        what = f"asks for {width} x {height} at {float(fps):g} frames a second"
        faults.say("/params/output", Code.LIMIT_EXCEEDED, what, "make it smaller or slower: at most 4096 x 2160 at 60")


def _usual(fps: Fraction | None) -> Fraction | None:
    """A rate that players know: averages of real files are a little off, those of phones more than that."""
    if not fps or fps < 0:
        return None
    usual = min(_USUAL_RATES, key=lambda rate: abs(rate - fps))
    if abs(usual - fps) <= usual * _NEAR:
        return usual
    return min(max(fps.limit_denominator(1001), Fraction(1)), Fraction(MOST_FPS))


def _size(width: int | None, height: int | None, whole_width: int, whole_height: int) -> tuple[int, int]:
    """Even, within limits; what is not given in the proportions of the whole."""
    proportion = Fraction(whole_width, whole_height)
    if width is not None and height is not None:
        return width, height
    if width is not None:
        return width, _even(width / proportion)
    if height is not None:
        return _even(height * proportion), height
    shrink = min(Fraction(1), Fraction(MOST_SIDE, max(whole_width, whole_height)))
    return _even(whole_width * shrink), _even(whole_height * shrink)


def _even(length: Fraction) -> int:
    return min(max(2 * half_up(length / 2), _LEAST), MOST_SIDE)


def region_of(area: Area) -> Region:
    """An area as the renderer takes it."""
    return Region(area.x, area.y, area.width, area.height)


def box_of(area: Area | Region | None, canvas: Canvas) -> Box:
    """An area of the canvas in even pixels, at least 2 x 2; None: all of it."""
    if area is None:
        return Box(0, 0, canvas.width, canvas.height)
    x, width = _sides(area.x, area.width, canvas.width)
    y, height = _sides(area.y, area.height, canvas.height)
    return Box(x, y, width, height)


def _sides(start: Fraction, length: Fraction, whole: int) -> tuple[int, int]:
    first, last = (2 * half_up(side * whole / 2) for side in (start, start + length))
    first = min(first, whole - 2)
    return first, max(last - first, 2)
