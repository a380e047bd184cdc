"""The mix: takes times their gains, summed in blocks, and ducked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from handlers.video.render import curves
from handlers.video.render.sound import CHANNELS, FRAME_BYTES, Take
from handlers.video.render.window import Window
from handlers.video.timeline.plan import Duck, Item, Plan, Track

if TYPE_CHECKING:
    from numpy import ndarray

#: Hops that are mixed at a time: 20 seconds.
_BLOCK_HOPS = 2000

#: No sample is farther from silence (1 is full scale): of sums and gains of such nothing overflows.
_MOST = 1000.0

#: Speech and music are heard above this (root mean square of 10 ms); below, what others duck for counts as silence.
_HEARD_DB = -45.0
_HOP_S = 0.01
#: Pauses between words and sentences up to this long do not bring the music back.
_PAUSE_S = 0.3


@dataclass(slots=True)
class Mixer:
    """Mixes one window into a file, a block for every call of `block`."""

    plan: Plan
    window: Window
    takes: Sequence[Take]
    out: Path
    #: Highest sample so far, 1 is full scale.
    peak: float = 0.0
    #: Samples that were not numbers, and are silence.
    silenced: int = 0
    _done: int = 0
    _ducks: dict[int, _Ducking] = field(default_factory=dict)
    _takes: dict[int, list[Take]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for take in self.takes:
            self._takes.setdefault(take.track, []).append(take)

    @property
    def first(self) -> int:
        """The sample of the timeline at which the next block begins."""
        return self.plan.canvas.samples(self.window.first) + self._done

    @property
    def last(self) -> int:
        """The sample of the timeline at which the next block ends, or would."""
        return self.first + self.block_samples

    @property
    def block_samples(self) -> int:
        """Samples of a block."""
        return _BLOCK_HOPS * _hop(self.plan.canvas.sample_rate)

    @property
    def length(self) -> int:
        """Samples of the whole."""
        return self.plan.canvas.samples(self.window.last) - self.plan.canvas.samples(self.window.first)

    def block(self) -> float:
        """Mixes the next seconds, and returns the part that is done, 0 to 1."""
        import numpy

        count, first = min(self.block_samples, self.length - self._done), self.first
        sums = [self._track(number, track, first, count) for number, track in enumerate(self.plan.tracks)]
        mix = numpy.zeros((count, CHANNELS), numpy.float32)
        for number, (track, sound) in enumerate(zip(self.plan.tracks, sums, strict=True)):
            if track.duck is not None:
                heard = self._heard(track.duck, number, sums, count)
                ducking = self._ducks.setdefault(number, _Ducking(track.duck, self.plan.canvas.sample_rate))
                gains = ducking.gains(heard)
                if sound is not None:
                    sound = sound * gains[:, None]
            if sound is not None:
                mix += sound
        if count:
            self.peak = max(self.peak, float(numpy.abs(mix).max()))
        with self.out.open("ab" if self._done else "wb") as file:
            file.write(mix.tobytes())
        self._done += count
        return self._done / self.length if self.length else 1.0

    def _track(self, number: int, track: Track, first: int, count: int) -> ndarray | None:
        import numpy

        total = None
        for take in self._takes.get(number, ()):
            low, high = max(first, take.start), min(first + count, take.start + take.length)
            if low >= high:
                continue
            samples, bad = _read(take, low - take.start, high - low)
            self.silenced += bad
            samples *= self._gains(track, take, low, len(samples))[:, None]
            if total is None:
                total = numpy.zeros((count, CHANNELS), numpy.float32)
            total[low - first : low - first + len(samples)] += samples
        return total

    def _gains(self, track: Track, take: Take, low: int, count: int) -> ndarray:
        """The gain of each sample of an item, from the timeline's sample `low` on."""
        import numpy

        canvas, item = self.plan.canvas, take.item
        rate = canvas.sample_rate
        begin, end = canvas.samples(item.start), canvas.samples(item.end)
        at = numpy.arange(low, low + count, dtype=numpy.float64)
        assert item.sound is not None
        points = item.sound.volume.points
        gains = numpy.interp((at - begin) / rate, [float(t) for t, _ in points], [v for _, v in points])
        gains = gains * track.volume
        if item.sound.fade_in > 0:
            gains *= numpy.clip((at - begin) / float(item.sound.fade_in * rate), 0, 1)
        if item.sound.fade_out > 0:
            gains *= numpy.clip((end - at) / float(item.sound.fade_out * rate), 0, 1)
        if item.transition is not None:
            length = canvas.samples(item.start + item.transition.frames) - begin
            gains *= curves.gain(item.transition.audio_curve, (at - begin) / max(1, length))
        if (after := _follower(track, item)) is not None and after.transition is not None:
            start = canvas.samples(after.start)
            gains *= curves.gain(after.transition.audio_curve, 1 - (at - start) / max(1, end - start))
        return gains.astype(numpy.float32)

    def _heard(self, duck: Duck, number: int, sums: Sequence[ndarray | None], count: int) -> ndarray:
        """What a track gives way to, on one channel."""
        import numpy

        total = numpy.zeros((count, CHANNELS), numpy.float32)
        for other, (track, sound) in enumerate(zip(self.plan.tracks, sums, strict=True)):
            if other != number and track.role in duck.by and sound is not None:
                total += sound
        return numpy.abs(total).max(axis=1)


class _Ducking:
    """The gain of a track that gives way, carried on from block to block.

    It moves in a straight line of decibels: down within `attack` from where the other is heard, up again within
    `release` when that has been silent for longer than a pause between words.
    """

    def __init__(self, duck: Duck, rate: int) -> None:
        self._hop = _hop(rate)
        seconds = self._hop / rate
        self._down = duck.db / max(1.0, duck.attack / seconds)
        self._up = -duck.db / max(1.0, duck.release / seconds)
        self._floor = duck.db
        self._pause = round(_PAUSE_S / seconds)
        self._quiet = self._pause + 1
        self._db = 0.0

    def gains(self, heard: ndarray) -> ndarray:
        """Linear gains for as many samples as those of the other's level."""
        import numpy

        hops = -(-len(heard) // self._hop)
        level = numpy.zeros(hops * self._hop, numpy.float32)
        level[: len(heard)] = heard
        loud = numpy.sqrt((level.reshape(hops, self._hop) ** 2).mean(axis=1)) > 10 ** (_HEARD_DB / 20)
        decibels = numpy.empty(hops + 1)
        decibels[0] = self._db
        for hop in range(hops):
            self._quiet = 0 if loud[hop] else self._quiet + 1
            step = self._down if self._quiet <= self._pause else self._up
            self._db = min(0.0, max(self._floor, self._db + step))
            decibels[hop + 1] = self._db
        between = numpy.interp(numpy.arange(len(heard)), numpy.arange(hops + 1) * self._hop, decibels)
        return (10.0 ** (between / 20)).astype(numpy.float32)


def _hop(rate: int) -> int:
    """Samples over which a level is taken."""
    return max(1, round(rate * _HOP_S))


def _follower(track: Track, item: Item) -> Item | None:
    return next(
        (other for other in track.items if other.transition is not None and item.start < other.start < item.end), None
    )


def _read(take: Take, at: int, count: int) -> tuple[ndarray, int]:
    """Samples of a take, and how many of them were not numbers. Fewer than asked where the file has ended."""
    import numpy

    with take.path.open("rb") as file:
        available = take.path.stat().st_size // FRAME_BYTES
        if not take.loop or available == 0:
            samples = _from(file, at, max(0, min(count, available - at)))
        elif available < count:  # of a round of one sample there are millions
            samples = _from(file, 0, available)[numpy.arange(at, at + count) % available]
        else:
            samples = _from(file, at % available, min(count, available - at % available))
            samples = numpy.concatenate([samples, _from(file, 0, count - len(samples))])
    bad = int(numpy.count_nonzero(~numpy.isfinite(samples)))
    samples = numpy.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0) if bad else samples
    return numpy.clip(samples, -_MOST, _MOST), bad


def _from(file: BinaryIO, at: int, count: int) -> Any:
    import numpy

    file.seek(at * FRAME_BYTES)
    return numpy.frombuffer(file.read(count * FRAME_BYTES), numpy.float32).reshape(-1, CHANNELS)
