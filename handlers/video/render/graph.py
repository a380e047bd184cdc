"""A filter graph for one run of ffmpeg, built with ffmpeg-python.

Of that library only the graph and its arguments are used; the run is `handlers.media.ffmpeg`'s. What it does not do by
itself: inputs that look alike stay apart (it would merge them into one, and one input that feeds two places makes
ffmpeg hold all frames between them), and every untrusted file has its guards before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

from handlers.media.ffmpeg import guards, source
from handlers.protocol import Limits

#: Options, or None for those that are only named (`-an`).
Options = Mapping[str, object]


class Graph:
    """Inputs, filters and outputs of one run. Streams are ffmpeg-python's."""

    def __init__(self, limits: Limits) -> None:
        self._guards = _pairs(guards(limits))
        self._numbers = count()

    def untrusted(self, path: Path, stream: str, options: Options | None = None) -> Any:
        """One stream (`v:0`, `2`) of a file from outside, opened for it alone."""
        return self._input(source(path), {**self._guards, **(options or {})})[stream]

    def own(self, path: Path, stream: str, demuxer: str, options: Options | None = None) -> Any:
        """One stream of a file that the job itself made."""
        return self._input(source(path), {"format": demuxer, **(options or {})})[stream]

    def generated(self, description: str) -> Any:
        """The picture or sound that a source filter (`color`, `anullsrc`) makes."""
        return self._input(description, {"format": "lavfi"})

    def _input(self, name: str, options: dict[str, Any]) -> Any:
        from ffmpeg.nodes import InputNode

        # The arguments are part of a node's identity and do not reach the command line.
        return InputNode("input", args=[next(self._numbers)], kwargs={**options, "filename": name}).stream()


def each(stream: Any, *filters: tuple[str, Mapping[str, object]]) -> Any:
    """The stream after a chain of filters."""
    for name, options in filters:
        stream = stream.filter(name, **{key: argument(value) for key, value in options.items()})
    return stream


def together(streams: Sequence[Any], name: str, **options: object) -> Any:
    """What a filter of several inputs makes of them."""
    import ffmpeg

    return ffmpeg.filter(list(streams), name, **{key: argument(value) for key, value in options.items()})


def split(stream: Any) -> tuple[Any, Any]:
    """The stream twice."""
    both = stream.filter_multi_output("split")
    return both[0], both[1]


def joined(streams: Sequence[Any]) -> Any:
    """Pictures of one stream after those of the other."""
    import ffmpeg

    return streams[0] if len(streams) == 1 else ffmpeg.concat(*streams, v=1, a=0)


def command(outputs: Sequence[tuple[Sequence[Any], Path, Options]]) -> list[str]:
    """ffmpeg's arguments: of each output its streams, its file and its options."""
    import ffmpeg

    made = [
        ffmpeg.output(*streams, source(path), **{key: argument(value) for key, value in options.items()})
        for streams, path, options in outputs
    ]
    arguments: list[str] = (made[0] if len(made) == 1 else ffmpeg.merge_outputs(*made)).get_args()
    return arguments


def argument(value: object) -> object:
    """A value as ffmpeg reads it: a fraction as decimals, exact to the nanosecond."""
    if isinstance(value, Fraction):
        return decimal(value)
    if isinstance(value, bool):
        return int(value)
    return value


def decimal(value: Fraction) -> str:
    """Seconds (or any number) in decimals, rounded at the ninth."""
    if value.denominator == 1:
        return str(value.numerator)
    scaled = round(value * 10**9)
    whole, part = divmod(abs(scaled), 10**9)
    return f"{'-' if scaled < 0 else ''}{whole}.{part:09d}"


def ratio(value: Fraction) -> str:
    """A rate as `numerator/denominator`, exactly."""
    return f"{value.numerator}/{value.denominator}"


def _pairs(options: Sequence[str]) -> dict[str, str]:
    return {key.removeprefix("-"): value for key, value in zip(options[::2], options[1::2], strict=True)}
