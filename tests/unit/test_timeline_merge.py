"""Merge values of a timeline."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from handlers.video.timeline.items import ColorItem, TextItem
from handlers.video.timeline.times import Time
from tests.unit.timelines import color, message, read, refusals

TEXT = f"{'/params/timeline/tracks/0/items/0'}/text"


def title(text: Any, **keys: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, "duration": 2} | keys


def text_of(params: dict[str, Any]) -> str:
    item = read(params).timeline.tracks[0].items[0]
    assert isinstance(item, TextItem)
    return item.text


def test_a_placeholder_alone_becomes_the_value_itself() -> None:
    params = message([color("{{D}}")], merge={"D": 2.5, "W": 640}, width="{{W}}")
    item = read(params).timeline.tracks[0].items[0]
    assert isinstance(item, ColorItem)
    assert item.duration == Time(seconds=Fraction(5, 2))
    assert read(params).output.width == 640


def test_a_placeholder_within_a_text_becomes_the_text_of_the_value() -> None:
    merge = {"NAME": "Ada", "N": 3, "X": 0.5, "YES": True}
    assert text_of(message([title("{{NAME}}: {{ N }} of {{X}}, {{YES}}")], merge=merge)) == "Ada: 3 of 0.5, true"


def test_what_was_put_in_is_not_looked_at_again() -> None:
    params = message([title("{{A}}{{{B}}}")], merge={"A": "{{B}}", "B": "{B}"})
    assert text_of(params) == "{{B}}{{B}}"
    again = read(params).model_dump(mode="json")
    assert text_of(again) == "{{B}}{{B}}"


def test_a_value_of_quotes_and_braces_changes_nothing_around_it() -> None:
    assert text_of(message([title("<{{A}}>")], merge={"A": '", "font": "x'})) == '<", "font": "x>'


def test_a_missing_value_is_refused_where_it_is_named_with_the_nearest_name() -> None:
    params = message([title("{{TITEL}}")], merge={"TITLE": "x"})
    assert refusals(params) == {TEXT: "merge_missing", "/params/merge/TITLE": "merge_unused"}


def test_a_placeholder_without_any_values_is_refused() -> None:
    assert refusals(message([title("{{TITLE}}")])) == {TEXT: "merge_missing"}


def test_null_takes_texts_as_they_are() -> None:
    assert text_of(message([title("{{TITLE}}")]) | {"merge": None}) == "{{TITLE}}"


def test_keys_are_never_filled() -> None:
    params = message([title("x", **{"{{K}}": 1})], merge={"K": "size"})
    assert refusals(params) == {
        "/params/merge/K": "merge_unused",
        "/params/timeline/tracks/0/items/0/{{K}}": "unknown_key",
    }


def test_faults_of_values_and_of_the_timeline_are_said_together() -> None:
    params = message([title("{{A}}", size="{{B}}"), color(-1)], merge={"A": ["list"], "B": "big"})
    assert refusals(params) == {
        "/params/merge/A": "wrong_type",
        "/params/timeline/tracks/0/items/0/size": "wrong_type",
        "/params/timeline/tracks/0/items/1/duration": "out_of_range",
    }


def test_what_is_no_object_of_values_is_refused() -> None:
    assert refusals(message([color()], merge=[1])) == {"/params/merge": "wrong_type"}
    assert refusals(message([color()], merge={"a{b": 1})) == {"/params/merge/a{b": "bad_value"}
    assert refusals(message([color()], merge={str(n): n for n in range(1001)})) == {"/params/merge": "limit_exceeded"}


def test_values_that_would_outgrow_memory_are_refused() -> None:
    params = message([title("{{A}}" * 300, font="{{A}}")], merge={"A": "x" * 10_000})
    assert refusals(params)["/params/merge"] == "limit_exceeded"
