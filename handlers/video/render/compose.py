"""The picture of a window: every track's strips, laid over each other on the background."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from handlers.video.render.assets import Ready
from handlers.video.render.graph import Graph, each, joined, ratio, split, together
from handlers.video.render.picture import Painter, Placed, converted
from handlers.video.render.window import Shot, Strip, Window, strips, visual
from handlers.video.timeline.plan import Box, Plan


@dataclass(frozen=True, slots=True)
class Burnt:
    """Subtitles that are drawn into the picture: a file of our own in ASS, on the film's clock."""

    path: Path
    fonts: Path


def picture(graph: Graph, plan: Plan, assets: Ready, window: Window, burnt: tuple[Burnt, ...] = ()) -> Any:
    """A stream of the window's frames, `yuv420p`, the first of them at time 0."""
    painter = Painter(graph, plan.canvas, assets)
    tracks = visual(plan)
    stream = _lowest(painter, strips(tracks[0], window) if tracks else [], window)
    for track in tracks[1:]:
        for strip in strips(track, window):
            stream = _over(painter, stream, strip)
    if burnt:
        start = plan.canvas.seconds(window.first)
        stream = each(stream, ("setpts", {"expr": f"PTS+({ratio(start)})/TB"}))
        for each_burnt in burnt:
            stream = each(stream, ("ass", {"filename": str(each_burnt.path), "fontsdir": str(each_burnt.fonts)}))
    return each(
        stream,
        ("trim", {"end_frame": window.length}),
        ("format", {"pix_fmts": "yuv420p"}),
        ("settb", {"expr": ratio(1 / plan.canvas.fps)}),
        ("setpts", {"expr": "N"}),
    )


def _lowest(painter: Painter, found: list[Strip], window: Window) -> Any:
    """The lowest track, without holes and without transparency."""
    parts = []
    done = 0
    for strip in found:
        if strip.at > done:
            parts.append(_background(painter, strip.at - done))
        folded = _folded(painter, strip, [_opaque(painter, shot) for shot in strip.shots], "yuv420p")
        parts.append(_cut(strip, folded, "yuv420p"))
        done = strip.at + strip.frames
    if done < window.length:
        parts.append(_background(painter, window.length - done))
    return _clocked(painter, joined(parts))


def _background(painter: Painter, frames: int) -> Any:
    canvas = painter.canvas
    return painter.color(canvas.background, canvas.width, canvas.height, frames)


def _opaque(painter: Painter, shot: Shot) -> Any:
    """An item on the background, as large as the canvas."""
    canvas = painter.canvas
    placed = painter.picture(shot)
    box = placed.box
    if not placed.alpha and (box.width, box.height) == (canvas.width, canvas.height):
        return placed.stream
    red, green, blue = (canvas.background[at : at + 2] for at in (1, 3, 5))
    if not placed.alpha and red == green == blue:
        # `pad` mixes its colour by another matrix than ours, which for grey is the same.
        shade = f"0x{red}{green}{blue}"
        return each(
            placed.stream, ("pad", {"w": canvas.width, "h": canvas.height, "x": box.x, "y": box.y, "color": shade})
        )
    return _laid(_background(painter, shot.frames), placed, painter.canvas.fps, at=0)


def _folded(painter: Painter, strip: Strip, streams: list[Any], pixels: str) -> Any:
    """Streams of one size and pixel format, each fading into the next.

    `xfade` converts and copies every frame that goes through it: only those of the crossfades do.
    """
    overlaps = [before.end - after.first for before, after in pairwise(strip.shots)]
    crowded = any(shot.frames < sum(overlaps[max(0, at - 1) : at + 1]) for at, shot in enumerate(strip.shots))
    if crowded:  # three at a time
        return _chained(painter, strip, streams)
    parts = []
    carried, length = streams[0], strip.shots[0].frames
    for shot, following, overlap in zip(strip.shots[1:], streams[1:], overlaps, strict=True):
        body, tail = _parted(carried, length - overlap, length)
        head, rest = _parted(following, overlap, shot.frames)
        mixed = _crossfaded(painter, shot, tail, head, 0, overlap)
        parts += [body, each(mixed, ("format", {"pix_fmts": pixels}))]
        carried, length = rest, shot.frames - overlap
    return _clocked(painter, joined([part for part in [*parts, carried] if part is not None]))


def _chained(painter: Painter, strip: Strip, streams: list[Any]) -> Any:
    stream, length = streams[0], strip.shots[0].frames
    for (before, after), following in zip(pairwise(strip.shots), streams[1:], strict=True):
        overlap = before.end - after.first
        stream = _crossfaded(painter, after, stream, following, length - overlap, overlap)
        length += after.frames - overlap
    return stream


def _crossfaded(painter: Painter, shot: Shot, before: Any, after: Any, offset: int, overlap: int) -> Any:
    transition, rate = shot.item.transition, painter.canvas.fps
    assert transition is not None
    return together(
        [before, after],
        "xfade",
        transition=transition.type,
        duration=Fraction(overlap) / rate,
        offset=Fraction(offset) / rate,
    )


def _parted(stream: Any, at: int, length: int) -> tuple[Any | None, Any | None]:
    """The first `at` frames, and the others; None where there are none."""
    if at <= 0:
        return None, stream
    if at >= length:
        return stream, None
    first, second = split(stream)
    later = ("trim", {"start_frame": at}), ("setpts", {"expr": "PTS-STARTPTS"})
    return each(first, ("trim", {"end_frame": at})), each(second, *later)


def _clocked(painter: Painter, stream: Any) -> Any:
    """The stream with its frames exactly where they belong: `concat` counts in microseconds."""
    return each(stream, ("settb", {"expr": ratio(1 / painter.canvas.fps)}), ("setpts", {"expr": "N"}))


def _cut(strip: Strip, stream: Any, pixels: str) -> Any:
    """What is seen of a strip, from time 0."""
    if not strip.lead and len(strip.shots) == 1:
        return stream
    return each(
        stream,
        ("trim", {"start_frame": strip.lead, "end_frame": strip.lead + strip.frames}),
        ("setpts", {"expr": "PTS-STARTPTS"}),
        ("format", {"pix_fmts": pixels}),
    )


def _over(painter: Painter, below: Any, strip: Strip) -> Any:
    """A strip of an upper track over what is there."""
    placed = [painter.picture(shot) for shot in strip.shots]
    rate = painter.canvas.fps
    if len(placed) == 1:
        one = placed[0]
        return _laid(below, Placed(_cut(strip, one.stream, "yuv420p|yuva420p"), one.box, one.alpha), rate, at=strip.at)
    # Items that fade into each other become of one size; multiplied by their alpha, for a fade from colour to nothing
    # not to go through black.
    union = _union([one.box for one in placed])
    grown = []
    for one in placed:
        room = {"w": union.width, "h": union.height, "x": one.box.x - union.x, "y": one.box.y - union.y}
        grown.append(
            each(
                one.stream,
                ("format", {"pix_fmts": "gbrap"}),
                ("pad", {**room, "color": "0x00000000"}),
                ("premultiply", {"inplace": 1}),
            )
        )
    folded = each(_folded(painter, strip, grown, "gbrap"), ("unpremultiply", {"inplace": 1}), *converted("yuva420p"))
    return _laid(below, Placed(_cut(strip, folded, "yuva420p"), union, alpha=True), rate, at=strip.at)


def _laid(below: Any, placed: Placed, rate: Fraction, *, at: int) -> Any:
    over = placed.stream
    if at:
        over = each(over, ("setpts", {"expr": f"PTS+{at}*({ratio(1 / rate)})/TB"}))
    return together(
        [below, over],
        "overlay",
        x=placed.box.x,
        y=placed.box.y,
        format="yuv420",
        eof_action="pass",
    )


def _union(boxes: list[Box]) -> Box:
    left, top = min(box.x for box in boxes), min(box.y for box in boxes)
    right, bottom = max(box.x + box.width for box in boxes), max(box.y + box.height for box in boxes)
    return Box(left, top, right - left, bottom - top)
