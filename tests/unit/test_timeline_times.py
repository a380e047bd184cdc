"""Times of a timeline: exact, and written back as they were read."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from handlers.video.timeline.times import Curve, Length, Moment, Rate, Time, Volume, exact, half_up, plain

MOMENT: TypeAdapter[Any] = TypeAdapter(Moment)
LENGTH: TypeAdapter[Any] = TypeAdapter(Length)
RATE: TypeAdapter[Any] = TypeAdapter(Rate)
VOLUME: TypeAdapter[Any] = TypeAdapter(Volume)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0.1", Fraction(1, 10)),
        ("29.97", Fraction(2997, 100)),
        ('"1001/30000"', Fraction(1001, 30000)),
        ("43200", Fraction(43200)),
        ("0.30000000000000004", Fraction(3, 10)),
        ("1e-9", Fraction(1, 10**9)),
    ],
)
def test_a_time_is_what_its_digits_say(text: str, seconds: Fraction) -> None:
    assert MOMENT.validate_json(text, strict=True) == Time(seconds=seconds)


def test_a_time_in_frames_is_exact_at_any_rate() -> None:
    time = MOMENT.validate_json('{"f": 45}', strict=True)
    assert time.at(Fraction(30000, 1001)) == Fraction(45 * 1001, 30000)
    assert time.at(None) is None


@pytest.mark.parametrize(
    "text",
    ["-1", "43200.1", '"1/0"', '"0.5"', '"-1/2"', "true", "null", "[1]", "{}", '{"f": 1.5}', '{"f": -1}', '{"f": true}',
     '{"f": 1, "g": 2}', '"1/1000000000000000"', "NaN", "1e308"],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        MOMENT.validate_json(text, strict=True)


@pytest.mark.parametrize("text", ["0", '{"f": 0}', '"0/5"', "1e-12", '"long"', '"AUTO"'])
def test_a_duration_is_greater_than_zero_or_auto(text: str) -> None:
    with pytest.raises(ValidationError):
        LENGTH.validate_json(text, strict=True)
    assert LENGTH.validate_json('"auto"', strict=True) == "auto"


def test_a_rate_may_be_a_fraction() -> None:
    assert RATE.validate_json('"30000/1001"') == Fraction(30000, 1001)
    assert RATE.validate_json("23.976") == Fraction(2997, 125)
    assert RATE.dump_python(Fraction(30000, 1001), mode="json") == "30000/1001"
    with pytest.raises(ValidationError):
        RATE.validate_json("0.5")


def test_a_volume_is_a_factor_or_points() -> None:
    assert VOLUME.validate_json("0.5", strict=True) == 0.5
    curve = VOLUME.validate_json('[[0, 1], [{"f": 3}, 0.5], ["1/3", 0]]', strict=True)
    assert curve == Curve(((Time(Fraction(0)), 1.0), (Time(frames=3), 0.5), (Time(Fraction(1, 3)), 0.0)))
    assert VOLUME.dump_python(curve, mode="json") == [[0, 1.0], [{"f": 3}, 0.5], ["1/3", 0.0]]


@pytest.mark.parametrize("text", ["-0.1", "10.5", "true", "[]", "[1, 2]", "[[0]]", "[[0, 1, 2]]", '[["x", 1]]', '"1"'])
def test_what_is_no_volume_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        VOLUME.validate_json(text, strict=True)


@given(st.floats(0, 43200) | st.integers(0, 43200))
def test_any_time_comes_back_from_what_is_written(number: float) -> None:
    time = MOMENT.validate_python(number)
    written = MOMENT.dump_python(time, mode="json")
    assert MOMENT.validate_python(written) == time
    assert isinstance(written, int | float)


@given(st.fractions(0, 1000, max_denominator=100_000))
def test_any_fraction_comes_back_from_what_is_written(fraction: Fraction) -> None:
    assert exact(plain(fraction)) == fraction


@given(st.integers(-1000, 1000), st.integers(1, 50))
def test_the_nearest_frame_is_at_most_half_a_frame_away_and_a_half_goes_up(numerator: int, denominator: int) -> None:
    value = Fraction(numerator, denominator)
    assert -Fraction(1, 2) < half_up(value) - value <= Fraction(1, 2)
