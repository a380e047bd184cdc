"""Loudness by EBU R 128, in two passes: measured by ffmpeg's `loudnorm`, then set."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from handlers.declaration import Context
from handlers.errors import HandlerBug
from handlers.media import ffmpeg
from handlers.video.render.graph import Graph, command, each
from handlers.video.render.sound import CHANNELS, RAW
from handlers.video.timeline.plan import Loudness

#: R 128 measures in blocks of 400 ms: what is shorter has no loudness.
SHORTEST_S = 0.4
#: Below its absolute gate (-70 LUFS) everything counts as silence.
_SILENCE = -70.0

#: Filters, each with its options.
Setting = tuple[tuple[str, Mapping[str, object]], ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """Integrated loudness (LUFS), true peak (dBTP), loudness range (LU), and the gate's threshold (LUFS)."""

    i: float
    tp: float
    lra: float
    threshold: float


def raw_options(rate: int) -> dict[str, object]:
    """How ffmpeg is to read a mix."""
    return {"ar": rate, "ac": CHANNELS}


async def measure(
    ctx: Context, mix: Path, rate: int, target: Loudness, after: Setting | None = None
) -> Measured | None:
    """The loudness of a mix, or of what a filter makes of it; None for silence."""
    graph = Graph(ctx.limits)
    heard = each(
        graph.own(mix, "a:0", RAW, raw_options(rate)),
        *((*after, ("aresample", {"sample_rate": rate})) if after is not None else ()),
        ("loudnorm", {**_target(target), "print_format": "json"}),
    )
    arguments = command([([heard], Path("-"), {})])[:-1]
    said = await ffmpeg.run(ctx, ["-loglevel", "info", *arguments, "-f", "null", "-"])
    begin = said.rfind("{")
    if begin < 0:
        raise HandlerBug(f"ffmpeg measured no loudness: {said[-500:]}")
    found = json.loads(said[begin : said.index("}", begin) + 1])
    measured = Measured(*(float(found[f"input_{key}"]) for key in ("i", "tp", "lra", "thresh")))
    return measured if math.isfinite(measured.i) and measured.i > _SILENCE else None


def setting(measured: Measured, target: Loudness) -> Setting:
    """The filters that bring a sound so measured to the target.

    One gain for all of it where its peaks and its range allow; else `loudnorm` follows the sound and turns it up and
    down. That takes no sound that is louder than full scale: it too comes after the gain.
    """
    gain = target.i - measured.i
    volume = "volume", {"volume": f"{gain:.4f}dB", "precision": "float"}
    if measured.tp + gain <= target.tp and measured.lra <= target.lra:
        return (volume,)
    measures = {
        "measured_I": target.i,
        "measured_TP": measured.tp + gain,
        "measured_LRA": measured.lra,
        "measured_thresh": measured.threshold + gain,
    }
    return volume, ("loudnorm", {**_target(target), **measures, "linear": 0})


def _target(target: Loudness) -> dict[str, object]:
    return {"I": target.i, "TP": target.tp, "LRA": target.lra}
