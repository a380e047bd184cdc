"""The picture of one item: from its source to a stream of exactly its frames, of its size, in its place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from handlers.media.probe import VideoStream
from handlers.video.render.assets import Film, Ready, Still, key
from handlers.video.render.color import colors
from handlers.video.render.graph import Graph, decimal, each, ratio, split, together
from handlers.video.render.window import Shot
from handlers.video.timeline.plan import Box, Canvas, Fit, ItemKind, KenBurns, Look, Region, Source

Filter = tuple[str, Mapping[str, object]]

#: What every picture is converted to, so that no colour changes from one item to the next.
_MATRIX: dict[str, object] = {"out_color_matrix": "bt709", "out_range": "tv"}
#: What `scale` leaves of the source's own words about its colours would mislead the filters after it.
_TAGS: Filter = ("setparams", {"range": "tv", "colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709"})


def converted(pixels: str, **size: object) -> tuple[Filter, ...]:
    """Filters that bring a picture to a size (`w`, `h`; else it keeps its own), to BT.709 and to a pixel format."""
    return ("scale", {**size, **_MATRIX}), _TAGS, ("setsar", {"sar": 1}), ("format", {"pix_fmts": pixels})


#: A covering picture is at most so many times longer or wider than its box: of a ribbon the middle is taken first.
_RIBBON = 4

#: A moving view is taken from a picture of so many times the box's pixels, at most.
_KEN_BURNS_PIXELS = 6


@dataclass(frozen=True, slots=True)
class Placed:
    """A stream, and where on the canvas it lies."""

    stream: Any
    box: Box
    #: Whether what lies below is seen through it.
    alpha: bool


@dataclass(frozen=True, slots=True)
class Painter:
    """Makes the streams of one run's items."""

    graph: Graph
    canvas: Canvas
    assets: Ready

    def color(self, color: str, width: int, height: int, frames: int) -> Any:
        """A plain colour, `#rrggbb` or `#rrggbbaa`."""
        seen = each(self.graph.generated(f"color=c={_hex(color)}:s=16x16:r={ratio(self.canvas.fps)},format=rgba"))
        alpha = len(color) == 9
        return self._still(seen, width, height, frames, alpha=alpha)

    def picture(self, shot: Shot) -> Placed:
        """What an item shows."""
        item = shot.item
        look = item.look
        assert look is not None
        if item.kind is ItemKind.COLOR:
            assert item.color is not None
            plain = self.color(item.color, look.box.width, look.box.height, shot.frames)
            placed = Placed(plain, look.box, alpha=len(item.color) == 9)
        else:
            placed = self._shown(shot, look)
        return self._treated(placed, shot, look)

    def _still(self, stream: Any, width: int, height: int, frames: int, *, alpha: bool) -> Any:
        one = each(
            stream,
            ("trim", {"end_frame": 1}),
            *converted("yuva420p" if alpha else "yuv420p", w=width, h=height),
        )
        return each(one, *self._held(frames))

    def _held(self, frames: int) -> tuple[Filter, ...]:
        """The last picture shown on, for so many frames in all."""
        return (
            ("tpad", {"stop": -1, "stop_mode": "clone"}),
            ("trim", {"end_frame": frames}),
            ("settb", {"expr": ratio(1 / self.canvas.fps)}),
            ("setpts", {"expr": "N"}),
        )

    def _shown(self, shot: Shot, look: Look) -> Placed:
        item = shot.item
        asset = self.assets[key(item)]
        # Held and turned round only when it has its size: fewer pixels are copied and kept.
        after: tuple[Filter, ...] = self._held(shot.frames)
        if isinstance(asset, Still):
            # At the output's rate from the start: `xfade` takes only streams of one rate.
            seen = self.graph.own(asset.path, "v:0", "png_pipe", {"framerate": ratio(self.canvas.fps)})
            alpha = asset.alpha
            size = (asset.width, asset.height)
            if item.kind is ItemKind.TEXT:
                drawn = self._still(seen, *size, shot.frames, alpha=True)
                return Placed(drawn, Box(look.box.x + asset.left, look.box.y + asset.top, *size), alpha=True)
        else:
            video = asset.facts.video
            assert video is not None
            assert item.source is not None
            seen = self._film(asset, video, item.source, shot)
            alpha, size = video.alpha, (video.width, video.height)
            if item.source.reverse:
                after = self._backwards(item.source, shot)
            if colors(video).plain and _as_it_is(look, size):
                kept: tuple[Filter, ...] = (_TAGS, ("setsar", {"sar": 1}), ("format", {"pix_fmts": "yuv420p"}))
                return Placed(each(seen, *kept, *after), look.box, alpha=False)
        seen, size = _turned(seen, size, look)
        pixels = "yuva420p" if alpha else "yuv420p"
        if look.ken_burns is not None:
            return Placed(self._ken_burns(seen, size, look, look.ken_burns, shot, pixels, after), look.box, alpha)
        seen, box = _fitted(seen, size, look, pixels)
        return Placed(each(seen, *after), box, alpha)

    def _film(self, film: Film, video: VideoStream, source: Source, shot: Shot) -> Any:
        """The part of a film that a shot shows, at the output's rate; what is missing at its end is not yet filled.

        Of what is played backwards, the whole.
        """
        rate = self.canvas.fps
        moving = shot.item.frames - source.freeze
        skip = 0 if source.reverse else min(shot.skip, moving - 1)
        start = _seen_from(video, film.origin + source.start + skip * source.speed / rate)
        options: dict[str, object] = {"an": None, "sn": None, "dn": None}
        if video.decoder is not None:
            options["c:v"] = video.decoder
        if start > 0:
            # Not accurate: ffmpeg would drop the frame that is on screen at that moment and has begun earlier. `fps`
            # drops those before it.
            options |= {"noaccurate_seek": None, "ss": decimal(start)}
        stream = self.graph.untrusted(film.path, str(video.index), options)
        if (matrix := colors(video).matrix) is not None:
            stream = each(stream, ("setparams", {"colorspace": matrix}))
        if source.speed != 1:
            stream = each(stream, ("setpts", {"expr": f"PTS*{source.speed.denominator}/{source.speed.numerator}"}))
        # The last frame is passed on however short it is: of a film that is shorter than a frame there would be none.
        timed = {"fps": ratio(rate), "start_time": 0, "round": "near", "eof_action": "pass"}
        stream = each(stream, ("fps", timed))
        count = moving if source.reverse else min(shot.frames, moving - skip)
        return each(stream, ("trim", {"end_frame": count}))

    def _backwards(self, source: Source, shot: Shot) -> tuple[Filter, ...]:
        """What turns a whole part round, and cuts a shot from it."""
        moving = shot.item.frames - source.freeze
        return (
            *self._held(moving),
            ("reverse", {}),
            ("trim", {"start_frame": min(shot.skip, moving - 1)}),
            ("setpts", {"expr": "PTS-STARTPTS"}),
            *self._held(shot.frames),
        )

    def _ken_burns(
        self,
        stream: Any,
        size: tuple[int, int],
        look: Look,
        move: KenBurns,
        shot: Shot,
        pixels: str,
        after: tuple[Filter, ...],
    ) -> Any:
        """A view that glides over the picture.

        `perspective` reads between pixels, where `zoompan` and `crop` go in steps of whole ones; the picture is taken
        large enough before. A region that has other proportions than the box is narrowed around its middle.
        """
        box, (width, height) = look.box, size
        start, end = (_in_proportion(region, size, box) for region in (move.start, move.end))
        detail = max(
            max(Fraction(box.width) / (region.width * width), Fraction(box.height) / (region.height * height))
            for region in (start, end)
        )
        most = math.sqrt(_KEN_BURNS_PIXELS * box.width * box.height / (width * height))
        detail = min(detail, Fraction(most).limit_denominator(1000))
        stream = each(stream, *converted(pixels, w=_even(width * detail), h=_even(height * detail)))
        last = max(1, shot.item.frames - 1)
        now = f"clip((on-1+{shot.skip})/{last},0,1)"

        def between(first: Fraction, then: Fraction) -> str:
            return f"({decimal(first)}+({decimal(then - first)})*{now})"

        def corner(region: Region) -> tuple[Fraction, Fraction]:
            return region.x + region.width, region.y + region.height

        left, right = between(start.x, end.x), between(corner(start)[0], corner(end)[0])
        top, bottom = between(start.y, end.y), between(corner(start)[1], corner(end)[1])
        corners = {
            "x0": f"W*{left}", "y0": f"H*{top}", "x1": f"W*{right}", "y1": f"H*{top}",
            "x2": f"W*{left}", "y2": f"H*{bottom}", "x3": f"W*{right}", "y3": f"H*{bottom}",
        }  # fmt: skip
        return each(
            stream,
            *after,
            ("perspective", {**corners, "interpolation": "cubic", "eval": "frame"}),
            *converted(pixels, w=box.width, h=box.height),
        )

    def _treated(self, placed: Placed, shot: Shot, look: Look) -> Placed:
        """Opacity and fades, which make a picture see-through."""
        fades: list[Filter] = []
        if look.fade_in > shot.skip:
            fades.append(("fade", {"type": "in", "start_frame": 0, "nb_frames": look.fade_in, "alpha": 1}))
        if look.fade_out:
            begin = shot.item.frames - look.fade_out - shot.skip
            fades.append(("fade", {"type": "out", "start_frame": begin, "nb_frames": look.fade_out, "alpha": 1}))
        if not fades and look.opacity >= 1:
            return placed
        treated: list[Filter] = [("format", {"pix_fmts": "yuva420p"})]
        if look.opacity < 1:
            treated.append(("lutyuv", {"a": f"val*{look.opacity:.6f}"}))
        return Placed(each(placed.stream, *treated, *fades), placed.box, alpha=True)


def _seen_from(video: VideoStream, start: Fraction) -> Fraction:
    """Where a film has to be decoded from: behind its end, where there is only sound, its last frame is seen."""
    if video.duration is None or not video.fps:
        return start
    return max(Fraction(0), min(start, video.start + video.duration - 1 / video.fps))


def _as_it_is(look: Look, size: tuple[int, int]) -> bool:
    """Whether a picture of that size lies in its box pixel by pixel."""
    turned = look.rotate or look.flip_horizontal or look.flip_vertical
    return size == (look.box.width, look.box.height) and not (turned or look.crop or look.ken_burns)


def _turned(stream: Any, size: tuple[int, int], look: Look) -> tuple[Any, tuple[int, int]]:
    """Cropped, mirrored and rotated, in this order, with the size that it then has."""
    width, height = size
    filters: list[Filter] = []
    if look.crop is not None:
        part = look.crop
        filters.append(
            (
                "crop",
                {
                    "w": f"min(iw,max(2,iw*{decimal(part.width)}))",
                    "h": f"min(ih,max(2,ih*{decimal(part.height)}))",
                    "x": f"iw*{decimal(part.x)}",
                    "y": f"ih*{decimal(part.y)}",
                    "exact": 1,
                },
            )
        )
        width = min(width, max(2, round(width * part.width)))
        height = min(height, max(2, round(height * part.height)))
    if look.flip_horizontal:
        filters.append(("hflip", {}))
    if look.flip_vertical:
        filters.append(("vflip", {}))
    if look.rotate == 180:
        filters += [("hflip", {}), ("vflip", {})]
    elif look.rotate:
        filters.append(("transpose", {"dir": "clock" if look.rotate == 90 else "cclock"}))
        width, height = height, width
    return each(stream, *filters), (width, height)


def _in_proportion(region: Region, size: tuple[int, int], box: Box) -> Region:
    """The largest region in the middle of another that has the box's proportions."""
    wide, high = region.width * size[0], region.height * size[1]
    proportion = Fraction(box.width, box.height)
    width, height = min(wide, high * proportion) / size[0], min(high, wide / proportion) / size[1]
    return Region(region.x + (region.width - width) / 2, region.y + (region.height - height) / 2, width, height)


def _fitted(stream: Any, size: tuple[int, int], look: Look, pixels: str) -> tuple[Any, Box]:
    """The stream in its size on the canvas, and the place that it takes there: within the look's box."""
    box, (width, height) = look.box, size
    if look.fit is Fit.STRETCH:
        return each(stream, *converted(pixels, w=box.width, h=box.height)), box
    if look.fit is Fit.COVER:
        return each(stream, *_covering(box, size, pixels)), box
    if look.fit is Fit.NONE:
        inner = _inner(box, Fraction(width), Fraction(height))
        scaled = converted(pixels, w=_even(Fraction(width)), h=_even(Fraction(height)))
        return each(stream, *scaled, ("crop", {"w": inner.width, "h": inner.height})), inner
    within = min(Fraction(box.width, width), Fraction(box.height, height))
    inner = _inner(box, width * within, height * within)
    if look.fit is Fit.CONTAIN:
        return each(stream, *converted(pixels, w=inner.width, h=inner.height)), inner
    behind, before = split(stream)
    small = replace(box, width=_even(Fraction(box.width, 8)), height=_even(Fraction(box.height, 8)))
    blurred = each(
        behind,
        *_covering(small, size, "yuv420p"),
        ("gblur", {"sigma": 4}),
        *converted("yuv420p", w=box.width, h=box.height),
    )
    sharp = each(before, *converted(pixels, w=inner.width, h=inner.height))
    laid = together([blurred, sharp], "overlay", x=inner.x - box.x, y=inner.y - box.y, format="yuv420", shortest=1)
    return each(laid, ("format", {"pix_fmts": pixels})), box


def _covering(box: Box, size: tuple[int, int], pixels: str) -> tuple[Filter, ...]:
    larger = max(Fraction(box.width, size[0]), Fraction(box.height, size[1]))
    wide = min(Fraction(1), _RIBBON * box.width / (size[0] * larger))
    high = min(Fraction(1), _RIBBON * box.height / (size[1] * larger))
    first: tuple[Filter, ...] = ()
    if wide < 1 or high < 1:
        first = (("crop", {"w": f"max(1,iw*{decimal(wide)})", "h": f"max(1,ih*{decimal(high)})", "exact": 1}),)
    width = max(box.width, _even(size[0] * wide * larger))
    height = max(box.height, _even(size[1] * high * larger))
    return *first, *converted(pixels, w=width, h=height), ("crop", {"w": box.width, "h": box.height})


def _inner(box: Box, width: Fraction, height: Fraction) -> Box:
    """A rectangle of about that size, no larger than the box, in the middle of it, all even."""
    inside = min(box.width, max(2, _even(width))), min(box.height, max(2, _even(height)))
    return Box(
        box.x + (box.width - inside[0]) // 4 * 2, box.y + (box.height - inside[1]) // 4 * 2, inside[0], inside[1]
    )


def _even(value: Fraction) -> int:
    return max(2, round(value / 2) * 2)


def _hex(color: str) -> str:
    return "0x" + color.removeprefix("#")
