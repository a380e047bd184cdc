"""GIF: one palette for the whole film, found in a first look at it."""

from __future__ import annotations

from pathlib import Path

from handlers.declaration import Context
from handlers.media import ffmpeg
from handlers.video.render import encode
from handlers.video.render.encode import Options
from handlers.video.render.graph import Graph, command, each, together
from handlers.video.render.progress import Stage
from handlers.video.timeline.plan import Plan

#: Of the film that the palette is taken from, lossless and quick.
LOSSLESS: Options = {
    "c:v": "libx264", "qp": 0, "preset": "ultrafast", "pix_fmt": "yuv420p", "colorspace": "bt709", "color_range": "tv",
}  # fmt: skip


#: Seconds in which that look may tell nothing: a GIF is short, by the limits of a timeline.
STALL_S = 900.0


async def made(ctx: Context, plan: Plan, film: Path, demuxer: str, out: Path, stage: Stage) -> None:
    """Makes a GIF of a lossless film."""
    palette = ctx.scratch / "palette.png"
    length = plan.canvas.seconds(plan.length)
    graph = Graph(ctx.limits)
    colors = each(graph.own(film, "v:0", demuxer), ("palettegen", {"stats_mode": "full"}))
    # Nothing is told before the last picture has been looked at.
    await ffmpeg.run(ctx, command([([colors], palette, {"frames:v": 1, "update": 1})]), stall_s=STALL_S)
    graph = Graph(ctx.limits)
    drawn = together(
        [graph.own(film, "v:0", demuxer), graph.own(palette, "v:0", "png_pipe")],
        "paletteuse",
        dither="sierra2_4a",
    )
    # Frames that are as the one before are kept: their number is the film's.
    options = {**encode.container(plan), "c:v": "gif", "loop": 0}
    await ffmpeg.run(ctx, command([([drawn], out, options)]), progress=stage.of(length))
