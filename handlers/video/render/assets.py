"""What a film is made of, as files that ffmpeg can be given.

Pictures from outside are decoded by Pillow alone, under limits, and reach ffmpeg as PNG; titles are drawn. A stream
without an index (MPEG-TS), in which ffmpeg cannot find a frame, is put into a Matroska file first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handlers.declaration import Context
from handlers.errors import InvalidInput, Problem
from handlers.media import ffmpeg
from handlers.media.image import ImageFacts, open_picture
from handlers.media.probe import MediaFacts
from handlers.media.sniff import READ
from handlers.protocol import Limits
from handlers.video.render.window import Window, segments, strips, visual
from handlers.video.timeline.faults import Code
from handlers.video.timeline.plan import Fit, Item, ItemKind, Plan, TextStyle

if TYPE_CHECKING:
    from PIL.Image import Image

#: Containers in which seeking lands anywhere.
_WITHOUT_INDEX = frozenset({"mpegts", "mpeg"})

#: So much later than its sound, in seconds, the first picture of a film may come by the ways of codecs alone.
_CODECS_DELAY = Fraction(1, 10)

#: For a view that moves over it a picture is kept so many times larger than it will be seen, at most.
_MOVING = 4


@dataclass(frozen=True, slots=True)
class Film:
    """Film or sound from outside."""

    path: Path
    facts: MediaFacts

    @property
    def origin(self) -> Fraction:
        """Where on the file's clock its time begins: with its first picture, where a codec's sound begins before."""
        video = self.facts.video
        return video.start if video is not None and video.start <= _CODECS_DELAY else Fraction(0)

    @property
    def duration(self) -> Fraction:
        """Seconds from there to its end."""
        return self.facts.duration - self.origin


@dataclass(frozen=True, slots=True)
class Photo:
    """A picture from outside."""

    path: Path
    facts: ImageFacts


@dataclass(frozen=True, slots=True)
class Cues:
    """Subtitles from outside."""

    path: Path


@dataclass(frozen=True, slots=True)
class Still:
    """A PNG of our own."""

    path: Path
    width: int
    height: int
    alpha: bool
    #: Of a title: where in the item's box it lies, in pixels.
    left: int = 0
    top: int = 0


#: What a job brings, by name.
Asset = Film | Photo | Cues
#: What a run of ffmpeg is given.
Prepared = Film | Still
#: An asset's name, or a text item's pointer: no name is taken for a pointer.
Key = str | tuple[str, str]
Ready = Mapping[Key, Prepared]


def key(item: Item) -> Key:
    """Under which the picture of an item is found."""
    return item.source.asset if item.source is not None else ("title", item.pointer)


async def prepared(ctx: Context, plan: Plan, assets: Mapping[str, Asset]) -> Ready:
    """The assets that the plan shows or plays, ready, and the titles.

    Raises InvalidInput for what turns out to be broken.
    """
    ready: dict[Key, Prepared] = {}
    used = _used(plan)
    for item in used:
        if item.kind is ItemKind.TEXT and item.text is not None and item.look is not None:
            path = ctx.scratch / f"title{len(ready)}.png"
            box = item.look.box
            ready[key(item)] = await ctx.cpu(_drawn, item.pointer, item.text, box.width, box.height, ctx.fonts, path)
        if item.source is None or item.source.asset in ready:
            continue
        name = item.source.asset
        asset = assets[name]
        of = f"inputs/assets/{name}"
        if isinstance(asset, Photo):
            sides = _needed(used, name, asset.facts)
            ready[name] = await ctx.cpu(_still, asset, ctx.limits, of, sides, ctx.scratch / f"still{len(ready)}.png")
        elif isinstance(asset, Film):
            if asset.facts.container in _WITHOUT_INDEX:
                asset = await _indexed(ctx, asset, of, ctx.scratch / f"indexed{len(ready)}.mkv")
            ready[name] = asset
    return ready


def _used(plan: Plan) -> list[Item]:
    """The items that are seen or heard, and those that are under way with them where a run begins."""
    windows = segments(plan) if plan.format.has_video else []
    if plan.poster is not None:
        windows.append(Window(plan.poster, plan.poster + 1))
    seen = {
        shot.item.pointer
        for track in visual(plan)
        for window in windows
        for strip in strips(track, window)
        for shot in strip.shots
    }
    return [
        item
        for track in plan.tracks
        for item in track.items
        if item.pointer in seen or (item.sound is not None and item.start < plan.last and item.end > plan.first)
    ]


async def _indexed(ctx: Context, film: Film, of: str, path: Path) -> Film:
    streams = [film.facts.video.index] if film.facts.video is not None else []
    streams += [stream.index for stream in film.facts.audio[:1]]
    maps = [word for index in streams for word in ("-map", f"0:{index}")]
    # A program stream does not say the time of every frame.
    arguments = [*ffmpeg.guards(ctx.limits), "-fflags", "+genpts", "-i", ffmpeg.source(film.path), *maps, "-c", "copy"]
    try:
        await ffmpeg.run(ctx, [*arguments, "-f", "matroska", ffmpeg.source(path)])
    except ffmpeg.FfmpegFailed as error:
        raise InvalidInput(f"{of} cannot be read to its end: upload it again, or convert it to MP4") from error
    facts = film.facts
    video = replace(facts.video, index=0) if facts.video is not None else None
    first = 0 if video is None else 1
    audio = tuple(replace(stream, index=first) for stream in facts.audio[:1])
    return Film(path, replace(facts, container="matroska", video=video, audio=audio))


def _needed(used: Sequence[Item], name: str, facts: ImageFacts) -> tuple[int, int]:
    """How large a picture has to be for the most demanding of its items."""
    needed = 0.0
    for item in used:
        if item.source is None or item.source.asset != name or item.look is None:
            continue
        look = item.look
        if look.fit is Fit.NONE:
            return facts.width, facts.height
        wide, high = (facts.width, facts.height) if look.rotate in (0, 180) else (facts.height, facts.width)
        crop = look.crop
        across, down = (float(crop.width), float(crop.height)) if crop is not None else (1.0, 1.0)
        moves = [look.ken_burns.start, look.ken_burns.end] if look.ken_burns is not None else []
        moving = min(_MOVING, max((float(1 / min(move.width, move.height)) for move in moves), default=1))
        needed = max(needed, moving * max(look.box.width / (wide * across), look.box.height / (high * down)))
    scale = min(1.0, needed or 1.0)
    return max(1, round(facts.width * scale)), max(1, round(facts.height * scale))


def _still(photo: Photo, limits: Limits, of: str, sides: tuple[int, int], path: Path) -> Still:
    from PIL import Image

    image = open_picture(photo.path, limits, of, min(sides)).image
    if (clear := _clear(photo.path)) is not None:
        image = clear
    if image.size[0] > sides[0]:
        image = image.resize(sides, Image.Resampling.LANCZOS)
    return _saved(image, path)


def _clear(path: Path) -> Image | None:
    """A picture with its transparency, which `open_picture` lays over white; None where there is none.

    Only for a file that `open_picture` has decoded to its end.
    """
    from PIL import Image, ImageOps

    with Image.open(path, formats=READ) as opened:
        if opened.mode not in {"RGBA", "LA", "PA", "La", "RGBa"} and "transparency" not in opened.info:
            return None
        clear = ImageOps.exif_transpose(opened.convert("RGBA"))
    return clear if clear.getchannel("A").getextrema()[0] < 255 else None


def _drawn(pointer: str, style: TextStyle, width: int, height: int, fonts: Mapping[str, Path], path: Path) -> Still:
    from handlers.video.text import title

    try:
        drawn = title.draw(style, width, height, fonts)
    except title.TextTooLong as error:
        raise InvalidInput(
            problems=[
                Problem(f"{pointer}/text", Code.TEXT_TOO_LONG, str(error), "make the text shorter or the box larger")
            ]
        ) from error
    left, top, right, bottom = drawn.getchannel("A").getbbox() or (0, 0, 2, 2)
    # On even pixels, where colours of half the resolution begin.
    left, top, right, bottom = left // 2 * 2, top // 2 * 2, -(-right // 2) * 2, -(-bottom // 2) * 2
    return replace(_saved(drawn.crop((left, top, right, bottom)), path), left=left, top=top)


def _saved(image: Any, path: Path) -> Still:
    image.save(path, "PNG", compress_level=1)
    width, height = image.size
    return Still(path, width, height, alpha=image.mode == "RGBA")
