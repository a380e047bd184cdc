"""What a film is made of, as files that ffmpeg can be given.

Pictures from outside are decoded by Pillow alone, under limits, and reach ffmpeg as PNG; titles are drawn. A stream
without an index (MPEG-TS), in which ffmpeg cannot find a frame, is put into a Matroska file first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handlers.declaration import Context
from handlers.errors import InvalidInput, Problem
from handlers.media import ffmpeg
from handlers.media.image import ImageFacts, open_picture
from handlers.media.probe import MediaFacts
from handlers.media.sniff import READ
from handlers.protocol import Limits
from handlers.video.render.color import Colors, colors
from handlers.video.timeline.plan import Fit, Item, ItemKind, Plan, TextStyle, TrackKind

if TYPE_CHECKING:
    from PIL.Image import Image

#: Containers in which seeking lands anywhere.
_WITHOUT_INDEX = frozenset({"mpegts"})

#: For a view that moves over it a picture is kept so many times larger than it will be seen, at most.
_MOVING = 4


@dataclass(frozen=True, slots=True)
class Film:
    """Film or sound from outside."""

    path: Path
    facts: MediaFacts
    #: Of a film that is shown, once it is prepared.
    colors: Colors | None = None


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
    for item in _used(plan):
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
            sides = _needed(plan, name, asset.facts)
            ready[name] = await ctx.cpu(_still, asset, ctx.limits, of, sides, ctx.scratch / f"still{len(ready)}.png")
        elif isinstance(asset, Film):
            if asset.facts.container in _WITHOUT_INDEX:
                asset = await _indexed(ctx, asset, of, ctx.scratch / f"indexed{len(ready)}.mkv")
            if asset.facts.video is not None:
                asset = replace(asset, colors=await colors(ctx, asset.path, asset.facts.video))
            ready[name] = asset
    return ready


def _used(plan: Plan) -> list[Item]:
    frames = [(plan.first, plan.last)]
    if plan.poster is not None:
        frames.append((plan.poster, plan.poster + 1))
    return [
        item
        for track in plan.tracks
        for item in track.items
        if any(item.start < last and item.end > first for first, last in frames)
        and (
            track.kind is TrackKind.AUDIO or plan.format.has_video or item.sound is not None or plan.poster is not None
        )
    ]


async def _indexed(ctx: Context, film: Film, of: str, path: Path) -> Film:
    streams = [film.facts.video.index] if film.facts.video is not None else []
    streams += [stream.index for stream in film.facts.audio[:1]]
    maps = [word for index in streams for word in ("-map", f"0:{index}")]
    arguments = [*ffmpeg.guards(ctx.limits), "-i", ffmpeg.source(film.path), *maps, "-c", "copy"]
    try:
        await ffmpeg.run(ctx, [*arguments, "-f", "matroska", ffmpeg.source(path)])
    except ffmpeg.FfmpegFailed as error:
        raise InvalidInput(f"{of} cannot be read to its end: upload it again, or convert it to MP4") from error
    facts = film.facts
    video = replace(facts.video, index=0) if facts.video is not None else None
    first = 0 if video is None else 1
    audio = tuple(replace(stream, index=first) for stream in facts.audio[:1])
    return Film(path, replace(facts, container="matroska", video=video, audio=audio))


def _needed(plan: Plan, name: str, facts: ImageFacts) -> tuple[int, int]:
    """How large a picture has to be for the most demanding of its items."""
    needed = 0.0
    for item in _used(plan):
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
                Problem(f"{pointer}/text", "text_too_long", str(error), "make the text shorter or the box larger")
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
