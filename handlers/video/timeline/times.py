"""Times, rates and proportions of a timeline: exact fractions, read from JSON and written back without loss.

A decimal number is what its digits say, 0.1 is 1/10, to the ninth place (a nanosecond): the errors of a client's
floating point, as 0.30000000000000004, end there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from handlers.video.timeline.faults import wrong

#: Longest film, and longest time that may be named, in seconds.
MOST_SECONDS = 12 * 3600
MOST_FPS = 120
MOST_FRAMES = MOST_SECONDS * MOST_FPS
AUTO: Literal["auto"] = "auto"

_RATIONAL = re.compile(r"(-?[0-9]{1,12})/([0-9]{1,12})")
_DIGITS = 9
_LARGE = 1 << 53
_A_TIME = 'write seconds, as 1.5 or "1001/30000", or frames of the output, as {"f": 45}'
_RATIONAL_SCHEMA = {"type": "string", "pattern": "^[0-9]{1,12}/[0-9]{1,12}$", "examples": ["30000/1001"]}


def half_up(value: Fraction) -> int:
    """The nearest whole number; of two that are equally near the greater."""
    return math.floor(value + Fraction(1, 2))


def exact(value: object) -> Fraction | None:
    """A JSON number or a text as `30000/1001` as a fraction; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return Fraction(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return Fraction(value) if abs(value) >= _LARGE else Fraction(round(Decimal(repr(value)), _DIGITS))
    if isinstance(value, str) and (match := _RATIONAL.fullmatch(value)) and int(match[2]):
        return Fraction(int(match[1]), int(match[2]))
    return None


def plain(value: Fraction) -> int | float | str:
    """What `exact` reads as this fraction: a number where one says it exactly."""
    if value.denominator == 1:
        return value.numerator
    number = float(value)
    return number if exact(number) == value else f"{value.numerator}/{value.denominator}"


def said(value: Fraction) -> str:
    """Seconds as one reads them in a sentence: `1.5 s`."""
    return f"{float(value):.6f}".rstrip("0").rstrip(".") + " s"


@dataclass(frozen=True, slots=True)
class Time:
    """A time or a duration as a timeline says it: in seconds, or in frames of the output."""

    seconds: Fraction | None = None
    frames: int | None = None

    def at(self, fps: Fraction | None) -> Fraction | None:
        """In seconds; None where it is in frames and the frame rate is not known yet."""
        if self.seconds is not None:
            return self.seconds
        assert self.frames is not None
        return None if fps is None else self.frames / fps


@dataclass(frozen=True, slots=True)
class Curve:
    """A gain over the time of an item: factors at times, straight lines between, constant before and after."""

    points: tuple[tuple[Time, float], ...]


@dataclass(frozen=True, eq=False)
class Written:
    """How a type that is no JSON type stands in JSON; for `Annotated`. `write` makes what `read` takes.

    `x-kind` in the schema is what a table of parameters calls it, in place of all its forms.
    """

    read: Callable[[Any], Any]
    write: Callable[[Any], Any]
    schema: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.read, serialization=core_schema.plain_serializer_function_ser_schema(self.write)
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.schema)


def _time(value: Any) -> Time:
    if isinstance(value, Time):
        return value
    if isinstance(value, dict):
        frames = value.get("f")
        if set(value) != {"f"} or not isinstance(frames, int) or isinstance(frames, bool):
            raise wrong("bad_value", "is {}, which is no time", _A_TIME)
        if not 0 <= frames <= MOST_FRAMES:
            raise wrong("out_of_range", f"is {frames} frames", f"write 0 to {MOST_FRAMES:,} frames")
        return Time(frames=frames)
    if (seconds := exact(value)) is None:
        raise wrong("bad_value", "is {}, which is no time", _A_TIME)
    if not 0 <= seconds <= MOST_SECONDS:
        raise wrong("out_of_range", "is {}", f"write 0 to {MOST_SECONDS:,} seconds")
    return Time(seconds=seconds)


def _duration(value: Any) -> Time:
    time = _time(value)
    if not (time.seconds or time.frames):
        raise wrong("out_of_range", "is {}", "write a duration greater than 0")
    return time


def _length(value: Any) -> Time | Literal["auto"]:
    if isinstance(value, str) and "/" not in value:
        if value == AUTO:
            return AUTO
        raise wrong("bad_value", "is {}, which is no duration", f'{_A_TIME}, or "auto"')
    return _duration(value)


def _write_time(time: Time | Literal["auto"]) -> Any:
    if time == AUTO:
        return AUTO
    assert isinstance(time, Time)
    return {"f": time.frames} if time.seconds is None else plain(time.seconds)


def _between(least: Fraction, most: Fraction, fix: str) -> Callable[[Any], Fraction]:
    def read(value: Any) -> Fraction:
        number = value if isinstance(value, Fraction) else exact(value)
        if number is None:
            raise wrong("bad_value", "is {}", f'{fix}, as 1.5 or "3/2"')
        if not least <= number <= most:
            raise wrong("out_of_range", "is {}", fix)
        return number

    return read


_any_rate = _between(Fraction(1), Fraction(MOST_FPS), f"write 1 to {MOST_FPS} frames a second")


def _rate(value: Any) -> Fraction:
    """A rate that a clock of whole numbers keeps exactly: 29.97002997 is 30000/1001."""
    return _any_rate(value).limit_denominator(1001)


def _number_schema(least: float, most: float) -> Mapping[str, Any]:
    number = {"type": "number", "minimum": least, "maximum": most}
    return {"x-kind": 'number or "a/b"', "minimum": least, "maximum": most, "anyOf": [number, _RATIONAL_SCHEMA]}


_MOST_GAIN = 10.0
_MOST_POINTS = 200


def _gain(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong("bad_value", "is {}", "write a factor, as 0.5, or points, as [[0, 1], [2.5, 0.3]]")
    if not 0 <= value <= _MOST_GAIN:
        raise wrong("out_of_range", "is {}", f"write a factor of 0 to {_MOST_GAIN:g}")
    return float(value)


def _volume(value: Any) -> float | Curve:
    if isinstance(value, Curve):
        return value
    if not isinstance(value, list | tuple):
        return _gain(value)
    if not 0 < len(value) <= _MOST_POINTS:
        raise wrong("out_of_range", f"holds {len(value)} points", f"write 1 to {_MOST_POINTS} points")
    if not all(isinstance(point, list | tuple) and len(point) == 2 for point in value):
        raise wrong("bad_value", "is {}", "write each point as [time, factor]")
    return Curve(tuple((_time(time), _gain(factor)) for time, factor in value))


def _write_volume(volume: float | Curve) -> Any:
    if isinstance(volume, Curve):
        return [[_write_time(time), factor] for time, factor in volume.points]
    return volume


_TIME_BRANCHES: list[Mapping[str, Any]] = [
    {"type": "number", "minimum": 0, "maximum": MOST_SECONDS},
    {"type": "string", "pattern": "^[0-9]{1,12}/[0-9]{1,12}$", "examples": ["1001/30000"]},
    {
        "type": "object",
        "properties": {"f": {"type": "integer", "minimum": 0, "maximum": MOST_FRAMES, "description": "Frames."}},
        "required": ["f"],
        "additionalProperties": False,
    },
]
_POSITIVE_BRANCHES: list[Mapping[str, Any]] = [
    {"type": "number", "exclusiveMinimum": 0, "maximum": MOST_SECONDS},
    *_TIME_BRANCHES[1:],
]
_GAIN_SCHEMA = {"type": "number", "minimum": 0, "maximum": _MOST_GAIN}

#: A moment, or a duration that may be 0.
Moment = Annotated[Time, Written(_time, _write_time, {"x-kind": "time", "anyOf": _TIME_BRANCHES})]
#: A duration greater than 0.
Duration = Annotated[Time, Written(_duration, _write_time, {"x-kind": "time", "anyOf": _POSITIVE_BRANCHES})]
#: A duration, or what follows from the material or the film.
Length = Annotated[
    Time | Literal["auto"],
    Written(
        _length,
        _write_time,
        {"x-kind": 'time or `"auto"`', "anyOf": [*_POSITIVE_BRANCHES, {"type": "string", "const": AUTO}]},
    ),
]
#: Frames a second.
Rate = Annotated[
    Fraction,
    Written(
        _rate,
        plain,
        _number_schema(1, MOST_FPS),
    ),
]
Speed = Annotated[
    Fraction,
    Written(
        _between(Fraction(1, 10), Fraction(10), "write a speed of 0.1 to 10"),
        plain,
        _number_schema(0.1, 10),
    ),
]
#: A part of a whole, 0 to 1.
Part = Annotated[
    Fraction,
    Written(_between(Fraction(0), Fraction(1), "write a part of the whole, 0 to 1"), plain, _number_schema(0, 1)),
]
Volume = Annotated[
    float | Curve,
    Written(
        _volume,
        _write_volume,
        {
            "x-kind": "number or list of [time, number]",
            "anyOf": [
                _GAIN_SCHEMA,
                {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": _MOST_POINTS,
                    "items": {
                        "type": "array",
                        "minItems": 2,
                        "maxItems": 2,
                        "prefixItems": [{"anyOf": _TIME_BRANCHES}, _GAIN_SCHEMA],
                    },
                },
            ],
        },
    ),
]
