"""The sound of every item, as raw samples: decoded, resampled, at its speed, cut to the sample.

Each becomes a file of 32-bit floats, stereo, at the output's rate; gains are the mix's. The disk holds about 0.4 MB for
a second of an item's sound, while the mix is about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any

from handlers.declaration import Context
from handlers.media import ffmpeg
from handlers.video.render.assets import Film, Ready
from handlers.video.render.graph import Graph, command, decimal, each
from handlers.video.render.window import Window
from handlers.video.timeline.plan import Canvas, Item, Plan, Source, Track

CHANNELS = 2
#: Bytes of one moment: a 32-bit float for each channel.
FRAME_BYTES = 4 * CHANNELS
#: Options that tell ffmpeg what such a file is.
RAW = "f32le"

#: As many sounds are decoded in one run of ffmpeg.
AT_ONCE = 12

#: Seconds that are decoded before a sound's part begins, and dropped: codecs need some packets to come to themselves.
_PRE_ROLL = Fraction(1, 2)

#: Containers without an index, in which seeking finds a place by guessing: these are decoded from their beginning.
_GUESSING = frozenset({"mp3", "aac", "ac3", "eac3", "amr"})


@dataclass(frozen=True, slots=True)
class Take:
    """An item's samples, on disk while the mix is about it."""

    track: int
    item: Item
    film: Film
    source: Source
    path: Path
    #: Sample of the timeline at which the file begins.
    start: int
    #: Samples for which the item sounds, from `start` on.
    length: int
    #: Samples of the item that are before the window.
    skip: int

    @property
    def end(self) -> int:
        """The sample of the timeline after its last."""
        return self.start + self.length

    @property
    def loop(self) -> bool:
        """Whether the file is played again and again until the end; else silence follows it."""
        return self.source.loop

    def size(self, rate: int) -> int:
        """Bytes on disk."""
        samples = self.length
        if self.loop and self.source.length is not None:
            samples = round(self.source.length / self.source.speed * rate)
        return samples * FRAME_BYTES


def takes(plan: Plan, window: Window, assets: Ready, folder: Path) -> list[Take]:
    """What is heard in the window, in the order of time; nothing of it is decoded yet."""
    asked = [
        (number, item, asset, item.source)
        for number, track in enumerate(plan.tracks)
        for item in track.items
        if item.sound is not None and item.source is not None and item.start < window.last and item.end > window.first
        for asset in (assets.get(item.source.asset),)
        if isinstance(asset, Film) and asset.facts.audio and not _is_silent(track)
    ]
    found = [
        Take(number, item, film, source, folder / f"sound{index}.{RAW}", *_span(plan.canvas, item, window))
        for index, (number, item, film, source) in enumerate(asked)
    ]
    return sorted((take for take in found if take.length > 0), key=lambda take: take.start)


async def decode(ctx: Context, rate: int, some: Sequence[Take]) -> None:
    """Writes the files of takes, at most `AT_ONCE`."""
    graph = Graph(ctx.limits)
    outputs: list[tuple[Sequence[Any], Path, Mapping[str, object]]] = [
        ([_samples(graph, rate, take)], take.path, {"format": RAW, "acodec": "pcm_f32le"}) for take in some
    ]
    await ffmpeg.run(ctx, command(outputs))


def most_bytes(found: Sequence[Take], rate: int, ahead: int) -> int:
    """How much room takes need at the same time, where each comes `ahead` samples before it is heard."""
    changes = sorted(
        change
        for take in found
        for change in ((take.start - ahead, take.size(rate)), (take.end + ahead, -take.size(rate)))
    )
    return max(accumulate(change for _, change in changes), default=0)


def _is_silent(track: Track) -> bool:
    return track.volume == 0


def _span(canvas: Canvas, item: Item, window: Window) -> tuple[int, int, int]:
    """Where the item's part in the window begins, how long it is, and what of the item is before it, in samples."""
    begin = canvas.samples(item.start)
    first = max(begin, canvas.samples(window.first))
    last = min(canvas.samples(item.end), canvas.samples(window.last))
    return first, last - first, first - begin


def _samples(graph: Graph, rate: int, take: Take) -> Any:
    """The sound of a take: at most `length` samples from the `skip`th on; all of its source where it loops."""
    film, source, skip, length = take.film, take.source, take.skip, take.length
    audio = film.facts.audio[0]
    whole = source.reverse or source.loop
    start = film.origin + source.start + (0 if whole else Fraction(skip, rate) * source.speed)
    seek = Fraction(0) if film.facts.container in _GUESSING else max(Fraction(0), start - _PRE_ROLL)
    options: dict[str, object] = {"vn": None, "sn": None, "dn": None}
    if seek > 0:
        options["ss"] = decimal(seek)
    stream = graph.untrusted(film.path, str(audio.index), options)
    if audio.channels == 1:
        # As loud on both sides as it is; ffmpeg's own mixing would take 3 dB from it.
        stream = each(stream, ("pan", {"args": "stereo|c0=c0|c1=c0"}))
    stream = each(
        stream,
        ("aresample", {"sample_rate": rate, "async": 1, "first_pts": 0}),
        ("aformat", {"sample_fmts": "fltp", "channel_layouts": "stereo", "sample_rates": rate}),
    )
    cut: dict[str, object] = {"start_sample": round((start - seek) * rate)}
    if source.length is not None:
        # Of a part that is played whole, to its end; else to where the item ends.
        wanted = source.length if whole else Fraction(length, rate) * source.speed
        cut["end_sample"] = round((start - seek + min(wanted, source.length)) * rate)
    stream = each(stream, ("atrim", cut), ("asetpts", {"expr": "PTS-STARTPTS"}))
    if source.reverse:
        stream = each(stream, ("areverse", {}))
    stream = each(stream, *(("atempo", {"tempo": f"{tempo:.12g}"}) for tempo in _tempos(source.speed)))
    if source.loop:
        return stream
    first = skip if source.reverse else 0
    return each(stream, ("atrim", {"start_sample": first, "end_sample": first + length}))


def _tempos(speed: Fraction) -> list[float]:
    """Factors for a chain of `atempo`, each of which is good from a half to double."""
    if speed == 1:
        return []
    steps = 1
    while not 0.5 <= float(speed) ** (1 / steps) <= 2:
        steps += 1
    return [float(speed) ** (1 / steps)] * steps
