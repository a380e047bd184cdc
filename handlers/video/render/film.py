"""From a plan and files to a verified film.

Sound and pictures are made apart. All sound becomes one file of raw samples, which is measured where its loudness is to
be set. Pictures are encoded in one run together with it or, with many clips, in segments that are joined without being
encoded again. Then the result is looked over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from handlers.declaration import Context
from handlers.errors import InvalidInput
from handlers.media import ffmpeg
from handlers.video.render import blame, encode, gif, subtitles
from handlers.video.render.assets import Asset, Film, Ready, prepared
from handlers.video.render.color import colors
from handlers.video.render.compose import Burnt, picture
from handlers.video.render.encode import Options
from handlers.video.render.graph import Graph, command, decimal, ratio
from handlers.video.render.languages import iso_639_2
from handlers.video.render.loudness import Measured
from handlers.video.render.progress import Stage
from handlers.video.render.soundtrack import Soundtrack, soundtrack
from handlers.video.render.verify import Stream, VerificationFailed, verified
from handlers.video.render.window import Window, segments
from handlers.video.timeline.plan import Format, Plan, SubtitleMode

#: Seconds in which a run that ends with a whole film may tell nothing: its index is moved to the front at last.
_STALL_S = 900.0

#: Where in the whole the sound is done, and the pictures.
_SOUND, _PICTURES = 0.1, 0.94


@dataclass(frozen=True, slots=True)
class Rendered:
    """A film that was made, and what was noticed meanwhile."""

    streams: tuple[Stream, ...]
    #: Bytes.
    size: int
    #: Of the sound as it is in the file; None where no loudness was asked for, or there is none.
    loudness: Measured | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Material:
    """All that a run of ffmpeg may need."""

    ctx: Context
    plan: Plan
    ready: Ready
    burnt: tuple[Burnt, ...]
    soft: tuple[Path, ...]
    sound: Soundtrack | None

    def picture(self, graph: Graph, window: Window) -> Any:
        return picture(graph, self.plan, self.ready, window, self.burnt)

    def others(self, graph: Graph) -> tuple[list[Any], Options]:
        """What goes into the file beside its pictures, with its options."""
        streams: list[Any] = []
        options: Options = {}
        if self.sound is not None:
            streams.append(self.sound.stream(graph))
            options |= encode.audio(self.plan)
        if self.soft:
            demuxer = "webvtt" if self.plan.format is Format.WEBM else "srt"
            streams += [graph.own(path, "s:0", demuxer) for path in self.soft]
            languages = [each.language for each in self.plan.subtitles if each.mode is SubtitleMode.SOFT]
            options |= encode.subtitles(self.plan, [iso_639_2(language) for language in languages])
        return streams, options | encode.container(self.plan)


async def render(
    ctx: Context, plan: Plan, assets: Mapping[str, Asset], out: Path, poster: Path | None = None
) -> Rendered:
    """Makes the film `out`, and of the plan's poster frame the picture `poster` (JPEG).

    Raises InvalidInput for what this worker cannot make, and for an asset that is broken; VerificationFailed; what
    `ffmpeg.run` raises.
    """
    await encode.refuse_missing(ctx, plan)
    ready = await prepared(ctx, plan, assets)
    burnt = await subtitles.burnt(ctx, plan, assets)
    soft = await subtitles.soft(ctx, plan, assets) if encode.soft(plan) else []
    try:
        return await _made(_Material(ctx, plan, ready, burnt, tuple(soft), None), out, poster)
    except (ffmpeg.FfmpegFailed, VerificationFailed) as error:
        if problems := await blame.faults(ctx, plan, ready):
            raise InvalidInput(problems=problems) from error
        raise


async def _made(material: _Material, out: Path, poster: Path | None) -> Rendered:
    ctx, plan = material.ctx, material.plan
    whole = Stage(ctx)
    material = replace(material, sound=await soundtrack(ctx, plan, material.ready, whole.part(0, _SOUND)))
    if poster is not None and plan.poster is not None:
        await _poster(material, plan.poster, poster)
    pictures = whole.part(_SOUND, _PICTURES, "pictures")
    if not plan.format.has_video:
        await _sound_alone(material, out, pictures)
    elif plan.format is Format.GIF:
        await _gif(material, out, pictures)
    else:
        await _film(material, out, pictures)
    whole.part(_PICTURES, 1, "verify").tell(0)
    streams = await verified(ctx, plan, out)
    sound = material.sound
    return Rendered(
        streams,
        out.stat().st_size,
        sound.measured if sound is not None else None,
        (*_noticed(material.ready), *(sound.warnings if sound is not None else ())),
    )


def _noticed(ready: Ready) -> list[str]:
    """What is odd about the films that are used."""
    films = [(name, film) for name, film in ready.items() if isinstance(film, Film)]
    return [
        f"inputs/assets/{name} ends before it says it does; its last picture is held"
        for name, film in films
        if film.facts.damaged
    ] + [
        f"inputs/assets/{name} has a high dynamic range, which is shown without tone mapping: it looks pale"
        for name, film in films
        if film.facts.video is not None and colors(film.facts.video).high_dynamic_range
    ]


async def _film(material: _Material, out: Path, stage: Stage) -> None:
    plan = material.plan
    assert plan.video is not None
    options = encode.video(plan.video, plan)
    windows = segments(plan)
    if len(windows) == 1:
        graph = Graph(material.ctx.limits)
        pictures = material.picture(graph, windows[0])
        others, more = material.others(graph)
        arguments = command([([pictures, *others], out, {**options, **more})])
        done = stage.of(plan.canvas.seconds(plan.length))
        await ffmpeg.run(material.ctx, arguments, stall_s=_STALL_S, progress=done)
        return
    listing = await _segments(material, windows, options, stage)
    graph = Graph(material.ctx.limits)
    others, more = material.others(graph)
    joined = graph.own(listing, "v:0", "concat")
    tags = {key: value for key, value in options.items() if key == "tag:v"}
    arguments = command([([joined, *others], out, {"c:v": "copy", **tags, **more})])
    await ffmpeg.run(material.ctx, arguments, stall_s=_STALL_S)


async def _segments(material: _Material, windows: Sequence[Window], options: Options, stage: Stage) -> Path:
    """Encodes the windows, each in a run of its own, and returns the list that joins them."""
    plan = material.plan
    names = []
    for number, window in enumerate(windows):
        part = stage.part((window.first - plan.first) / plan.length, (window.last - plan.first) / plan.length)
        names.append(f"segment{number}.mp4")
        graph = Graph(material.ctx.limits)
        arguments = command([([material.picture(graph, window)], material.ctx.scratch / names[-1], options)])
        await ffmpeg.run(material.ctx, arguments, progress=part.of(plan.canvas.seconds(window.length)))
    listing = material.ctx.scratch / "segments.ffconcat"
    lines = [
        f"file {name}\nduration {decimal(plan.canvas.seconds(window.length))}\n"
        for name, window in zip(names, windows, strict=True)
    ]
    await material.ctx.cpu(listing.write_text, "ffconcat version 1.0\n" + "".join(lines), "utf-8")
    return listing


async def _gif(material: _Material, out: Path, stage: Stage) -> None:
    lossless = {**gif.LOSSLESS, "r": ratio(material.plan.canvas.fps)}
    listing = await _segments(material, segments(material.plan), lossless, stage.part(0, 0.5))
    await gif.made(material.ctx, material.plan, listing, "concat", out, stage.part(0.5, 1))


async def _sound_alone(material: _Material, out: Path, stage: Stage) -> None:
    graph = Graph(material.ctx.limits)
    streams, options = material.others(graph)
    done = stage.of(material.plan.canvas.seconds(material.plan.length))
    await ffmpeg.run(material.ctx, command([(streams, out, options)]), stall_s=_STALL_S, progress=done)


async def _poster(material: _Material, frame: int, out: Path) -> None:
    graph = Graph(material.ctx.limits)
    seen = material.picture(graph, Window(frame, frame + 1))
    made = material.ctx.scratch / "poster.png"
    await ffmpeg.run(material.ctx, command([([seen], made, {"frames:v": 1, "c:v": "png", "update": 1})]))
    await material.ctx.cpu(_save_poster, made, out)


def _save_poster(made: Path, out: Path) -> None:
    from PIL import Image

    with Image.open(made, formats=["PNG"]) as opened:
        opened.convert("RGB").save(out, "JPEG", quality=90)
