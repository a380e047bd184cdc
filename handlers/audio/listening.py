"""From the blocks of a recording to windows of speech: what is gathered, listened to and cut, in the pool's threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from handlers.audio.voice import FRAME, RATE, Voice
from handlers.audio.windows import Cutter, Cutting, Window

#: Samples that are listened to at once: a call for each second would cost as much as the listening.
_AT_ONCE = 8 * RATE // FRAME * FRAME


class Listening:
    """Listens to one recording: `add` each block, take `windows` when `ready`, and `finish` at the end."""

    def __init__(self, cutting: Cutting, probabilities: Callable[[Any], Any] | None = None) -> None:
        """`probabilities` as `Voice.probabilities`, which is what listens by default."""
        self._cutter = Cutter(cutting)
        self._probabilities = probabilities or Voice().probabilities
        self._blocks: list[Any] = []
        self._samples = 0

    @property
    def ready(self) -> bool:
        """Whether enough came together to be listened to."""
        return self._samples >= _AT_ONCE

    @property
    def held(self) -> int:
        """Samples that are held, at most."""
        return self._samples + self._cutter.held * FRAME

    @property
    def begun_s(self) -> float:
        """The second of the recording before which everything was given in windows, or left out."""
        return self._cutter.begun_s

    def add(self, block: Any) -> None:
        """Takes float32 samples, mono, 16 kHz, as many as there are."""
        self._blocks.append(block)
        self._samples += len(block)

    def windows(self) -> list[Window]:
        """Windows that have become full. Computes: for a thread."""
        return list(self._heard(self._samples // FRAME * FRAME))

    def finish(self) -> list[Window]:
        """The last windows. Computes: for a thread."""
        return [*self._heard(self._samples), *self._cutter.finish()]

    def _heard(self, count: int) -> Iterator[Window]:
        import numpy

        if not count:
            return
        samples = numpy.concatenate(self._blocks)
        samples, rest = samples[:count], samples[count:]
        self._blocks, self._samples = [rest], len(rest)
        whole = numpy.pad(samples, (0, -count % FRAME))
        yield from self._cutter.push(samples, self._probabilities(whole))
