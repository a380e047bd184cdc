"""Subtitles: burnt into the picture, or as a stream; either way from files of our own making."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from handlers.declaration import Context
from handlers.media import captions
from handlers.media.captions import Cue
from handlers.video.render.assets import Asset, Cues
from handlers.video.render.compose import Burnt
from handlers.video.timeline.plan import Format, Plan, SubtitleMode, Subtitles


async def burnt(ctx: Context, plan: Plan, assets: Mapping[str, Asset]) -> tuple[Burnt, ...]:
    """Files for the filter that draws them."""
    wanted = [each for each in plan.subtitles if each.mode is SubtitleMode.BURN] if plan.format.has_video else []
    made = []
    for number, subtitles in enumerate(wanted):
        cues = await ctx.cpu(_read, subtitles, assets)
        folder = ctx.scratch / f"fonts{number}"
        path = ctx.scratch / f"burnt{number}.ass"
        await ctx.cpu(_write_ass, plan, subtitles, cues, ctx.fonts, folder, path)
        made.append(Burnt(path, folder))
    return tuple(made)


async def soft(ctx: Context, plan: Plan, assets: Mapping[str, Asset]) -> list[Path]:
    """Files for streams of subtitles, of the part of the film that is made; in the order of the plan."""
    made = []
    for number, subtitles in enumerate(each for each in plan.subtitles if each.mode is SubtitleMode.SOFT):
        cues = shifted(await ctx.cpu(_read, subtitles, assets), plan)
        path = ctx.scratch / f"soft{number}"
        text = captions.to_vtt(cues) if plan.format is Format.WEBM else captions.to_srt(cues)
        await ctx.cpu(path.write_text, text, "utf-8")
        made.append(path)
    return made


def shifted(cues: list[Cue], plan: Plan) -> list[Cue]:
    """Cues on the clock of the output."""
    start, end = plan.canvas.seconds(plan.first), plan.canvas.seconds(plan.last)
    return [
        replace(cue, start=max(Fraction(0), cue.start - start), end=min(cue.end, end) - start)
        for cue in cues
        if cue.end > start and cue.start < end
    ]


def _read(subtitles: Subtitles, assets: Mapping[str, Asset]) -> list[Cue]:
    asset = assets[subtitles.asset]
    assert isinstance(asset, Cues)
    return captions.parse(asset.path.read_bytes(), f"inputs/assets/{subtitles.asset}")


def _write_ass(
    plan: Plan, subtitles: Subtitles, cues: list[Cue], fonts: Mapping[str, Path], folder: Path, path: Path
) -> None:
    from PIL import ImageFont

    folder.mkdir(exist_ok=True)
    for number, file in enumerate(fonts.values()):
        link = folder / f"font{number}{file.suffix}"
        if not link.exists():
            link.symlink_to(file)
    name = ImageFont.truetype(str(fonts[subtitles.font]), 10).getname()[0] or "sans"
    text = captions.to_ass(cues, width=plan.canvas.width, height=plan.canvas.height, font_name=name)
    path.write_text(text, "utf-8")
