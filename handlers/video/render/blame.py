"""Which asset it was, where a render has failed: those of which nothing can be decoded where an item begins."""

from __future__ import annotations

from fractions import Fraction

from handlers.declaration import Context
from handlers.errors import Problem
from handlers.media import ffmpeg
from handlers.video.render.assets import Film, Ready, key
from handlers.video.render.graph import Graph, command, decimal, each
from handlers.video.timeline.faults import Code
from handlers.video.timeline.plan import Item, ItemKind, Plan

#: Places that are looked at.
_MOST = 100


async def faults(ctx: Context, plan: Plan, ready: Ready) -> list[Problem]:
    """What is to be said of the assets; nothing where they are good. Raises what `ffmpeg.run` raises of the worker."""
    seen: dict[tuple[str, Fraction, ItemKind], bool] = {}
    found = []
    for item in (item for track in plan.tracks for item in track.items):
        film = ready.get(key(item))
        if item.source is None or not isinstance(film, Film):
            continue
        place = item.source.asset, item.source.start, item.kind
        if place not in seen and len(seen) < _MOST:
            seen[place] = await _decodes(ctx, item, film, item.source.start)
        if not seen.get(place, True):
            what = f"is {item.source.asset!r}, of which nothing can be decoded from {float(item.source.start):.3f} s on"
            fix = "take another part, or upload it again"
            found.append(Problem(f"{item.pointer}/asset", Code.ASSET_UNSUPPORTED, what, fix))
    return found


async def _decodes(ctx: Context, item: Item, film: Film, start: Fraction) -> bool:
    graph = Graph(ctx.limits)
    out = ctx.scratch / "decoded.raw"
    options: dict[str, object] = {"ss": decimal(film.origin + start)}
    if item.kind is ItemKind.VIDEO and film.facts.video is not None:
        seen = graph.untrusted(film.path, str(film.facts.video.index), options)
        stream = each(seen, ("scale", {"w": 2, "h": 2}))
        made: dict[str, object] = {"format": "rawvideo", "frames:v": 1}
    elif film.facts.audio:
        stream = graph.untrusted(film.path, str(film.facts.audio[0].index), options)
        made = {"format": "f32le", "acodec": "pcm_f32le", "t": 0.1}
    else:
        return True
    try:
        await ffmpeg.run(ctx, command([([stream], out, made)]))
    except ffmpeg.FfmpegFailed:
        return False
    return out.stat().st_size > 0
