"""The whole sound of a film: one file of samples, and what remains to be done to it when it is encoded."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from handlers.declaration import Context
from handlers.errors import InvalidInput, Problem, ResourceExhausted
from handlers.video.render import loudness
from handlers.video.render.assets import Ready
from handlers.video.render.graph import Graph, each
from handlers.video.render.loudness import Measured, Setting
from handlers.video.render.mix import Mixer
from handlers.video.render.progress import Stage
from handlers.video.render.sound import AT_ONCE, FRAME_BYTES, RAW, Take, decode, most_bytes, takes
from handlers.video.render.window import Window
from handlers.video.timeline.faults import Code
from handlers.video.timeline.plan import Loudness, Plan

#: Highest sample that is left as it is; 1 is full scale.
_FULL_SCALE = 1.0
#: Where sounds together are louder, they are held down to this.
_LIMIT = 0.98
#: Bytes of raw sound that one film may need at a time.
_MOST_BYTES = 64_000_000_000


@dataclass(frozen=True, slots=True)
class Soundtrack:
    """A mix, and how it is finished."""

    mix: Path
    #: Samples a second of the mix.
    rate: int
    #: Filters that finish it: to its loudness, its rate and its length.
    filters: tuple[tuple[str, Mapping[str, object]], ...]
    #: As it is finished; None where no loudness is asked for, or there is none.
    measured: Measured | None
    warnings: tuple[str, ...]

    def stream(self, graph: Graph) -> Any:
        """The finished sound, as long as the film to the sample."""
        return each(graph.own(self.mix, "a:0", RAW, loudness.raw_options(self.rate)), *self.filters)


async def soundtrack(ctx: Context, plan: Plan, ready: Ready, stage: Stage) -> Soundtrack | None:
    """The sound of the plan's range; None where the film has none."""
    if plan.audio is None or not plan.format.has_audio:
        return None
    rate = plan.canvas.sample_rate
    mixer = await _mixed(ctx, plan, ready, stage.part(0, 0.7, "sound"))
    warnings = []
    if mixer.silenced:
        warnings.append(f"{mixer.silenced:,} samples of the sound were not numbers: they are silence")
    filters: list[tuple[str, Mapping[str, object]]] = []
    measured = None
    if plan.loudness is not None:
        found = await _loudness(ctx, mixer, rate, plan.loudness, warnings)
        if found is not None:
            setting, measured = found
            filters += setting
    if not filters and mixer.peak > _FULL_SCALE:
        warnings.append(
            f"the sounds together are {mixer.peak:.2f} times full scale: their peaks are held down by a limiter"
        )
        filters.append(("alimiter", {"limit": _LIMIT, "level": 0, "attack": 5, "release": 50, "latency": 1}))
    filters += [
        ("aresample", {"sample_rate": rate}),
        ("apad", {}),
        ("atrim", {"end_sample": mixer.length}),
        ("asetpts", {"expr": "N/SR/TB"}),
    ]
    return Soundtrack(mixer.out, rate, tuple(filters), measured, tuple(warnings))


async def _mixed(ctx: Context, plan: Plan, ready: Ready, stage: Stage) -> Mixer:
    """Decodes what a block needs before it is mixed, and removes what is over after it: only the mix lasts."""
    window, rate = Window(plan.first, plan.last), plan.canvas.sample_rate
    waiting = takes(plan, window, ready, ctx.scratch)
    mixer = Mixer(plan, window, waiting, ctx.scratch / f"mix.{RAW}")
    await ctx.cpu(_check_room, ctx.scratch, waiting, mixer, rate)
    here: list[Take] = []
    done = 0.0
    while done < 1:
        while waiting and waiting[0].start < mixer.last:
            # Some of the next block too: few runs of many.
            count = sum(take.start < mixer.last + mixer.block_samples for take in waiting[:AT_ONCE])
            some, waiting = waiting[:count], waiting[count:]
            await decode(ctx, rate, some)
            here += some
        done = await ctx.cpu(mixer.block)
        stage.tell(done)
        for take in here:
            if take.end <= mixer.first:
                take.path.unlink()
        here = [take for take in here if take.end > mixer.first]
    return mixer


def _check_room(scratch: Path, found: list[Take], mixer: Mixer, rate: int) -> None:
    """Raises InvalidInput for more sound at a time than any worker takes, ResourceExhausted for more than fits now."""
    needed = most_bytes(found, rate, 2 * mixer.block_samples) + mixer.length * FRAME_BYTES
    if needed > _MOST_BYTES:
        what = f"hold so much sound at the same time that it takes {needed / 1e9:,.0f} GB"
        fix = f"keep to {_MOST_BYTES / 1e9:,.0f} GB: make parts of the film first, each by a job, or lower sample_rate"
        raise InvalidInput(problems=[Problem("/params/timeline/tracks", Code.LIMIT_EXCEEDED, what, fix)])
    free = shutil.disk_usage(scratch).free
    if needed > free:
        raise ResourceExhausted(
            f"the sound of this film takes {needed / 1e9:,.1f} GB of scratch space, and {free / 1e9:,.1f} GB are free:"
            " give the worker a larger disk, or make parts of the film first"
        )


async def _loudness(
    ctx: Context, mixer: Mixer, rate: int, target: Loudness, warnings: list[str]
) -> tuple[Setting, Measured] | None:
    """How the mix comes to its loudness, and what it then has."""
    if mixer.length < loudness.SHORTEST_S * rate:
        warnings.append("the sound is shorter than 0.4 seconds and has no loudness: it is left as it is")
        return None
    before = await loudness.measure(ctx, mixer.out, rate, target)
    if before is None:
        warnings.append("the sound is silence and has no loudness: it is left as it is")
        return None
    setting = loudness.setting(before, target)
    if len(setting) == 1:  # one gain for all
        gain = target.i - before.i
        return setting, replace(before, i=target.i, tp=before.tp + gain, threshold=before.threshold + gain)
    warnings.append("one gain for all of the sound would not reach the loudness: it is turned up and down as it goes")
    return setting, await loudness.measure(ctx, mixer.out, rate, target, setting) or before
