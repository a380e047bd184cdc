"""`handlers.runtime.outcome`: whatever a handler gives or raises, the courier can read the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.errors import InvalidInput, Retry
from handlers.protocol import Outcome, Text, unstorable
from handlers.runtime import outcome as outcomes
from handlers.runtime.outcome import clean, encode, failure_of


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (float("nan"), "NaN"),
        (float("-inf"), "the number -inf"),
        ("a\x00b", "a NUL character"),
        ({"a\x00": 1}, "a NUL character"),
        ("a\ud800b", "surrogates not allowed"),
        (object(), "unknown type"),
        (10**5000, "number"),
        (nested(300), "depth|recursion"),
    ],
    ids=["nan", "infinity", "nul", "nul in a key", "lone surrogate", "object", "endless number", "deep nesting"],
)
def test_a_result_that_cannot_be_recorded_fails_its_own_job_with_a_sentence(value: Any, what: str) -> None:
    told = Outcome.model_validate_json(encode(Outcome(key="k", result={"x": value})))
    assert told.result is None
    assert told.failure is not None
    assert told.failure.type == "HandlerBug"
    assert "the result cannot be recorded" in told.failure.message
    assert any(word.lower() in told.failure.message.lower() for word in what.split("|")), told.failure.message


def test_text_with_a_nul_is_refused_and_text_that_only_speaks_of_one_is_not() -> None:
    bad = Outcome(key="k", result={}, texts=(Text(of="inputs/image", kind="caption", text="a\x00"),))
    good = Outcome(key="k", result={"a": "the escape \\u0000, NaN and Infinity"})
    assert Outcome.model_validate_json(encode(bad)).failure is not None
    assert Outcome.model_validate_json(encode(good)) == good


def test_a_result_too_long_for_a_line_names_its_size_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "MAX_OUTCOME_BYTES", 1000)
    told = Outcome.model_validate_json(encode(Outcome(key="k", result={"x": "y" * 1000})))
    assert told.failure is not None
    assert "of 1000: write it to an output file" in told.failure.message


def test_a_result_of_more_parts_than_the_courier_would_parse_fails_its_own_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handlers.protocol.MOST_CONTAINERS", 100)
    told = Outcome.model_validate_json(encode(Outcome(key="k", result={"x": [[]] * 100})))
    assert told.failure is not None
    assert "the limit is 100: write it to an output file" in told.failure.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_every_outcome_is_one_line_that_can_be_read_and_kept(value: Any) -> None:
    line = encode(Outcome(key="k", result={"value": value}))
    assert b"\n" not in line
    told = Outcome.model_validate_json(line)
    assert unstorable(told.model_dump()) is None
    assert (told.failure is None) != (told.result is None)


def test_errors_raised_on_purpose_keep_their_type_sentence_and_delay() -> None:
    refused, later = failure_of(InvalidInput("it is a text file")), failure_of(Retry("busy", after=7))
    assert (refused.type, refused.message, refused.retry_after_s) == ("InvalidInput", "it is a text file", None)
    assert (later.type, later.retry_after_s) == ("Retry", 7)


def test_in_a_group_the_error_raised_on_purpose_counts() -> None:
    group = ExceptionGroup("tasks", [ValueError("x"), ExceptionGroup("inner", [InvalidInput("the cause")])])
    failure = failure_of(group)
    assert (failure.type, failure.message) == ("InvalidInput", "the cause")
    assert "ValueError: x" in failure.traceback


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ValueError("x\x00\ud800"),
        lambda: ValueError("long " * 10_000),
        Unspeakable,
        lambda: InvalidInput(None),  # type: ignore[arg-type]
        lambda: KeyError(b"\xff"),
    ],
    ids=["nul and surrogate", "long", "unspeakable", "no message", "bytes"],
)
def test_whatever_is_raised_becomes_a_failure_of_bounded_clean_text(make: Callable[[], Exception]) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - one of many kinds
        raise make()
    failure = failure_of(raised.value)
    assert raised.value.__traceback__ is None
    line = encode(Outcome(key="k", failure=failure))
    told = Outcome.model_validate_json(line)
    assert told.failure == failure
    assert len(line) < 60_000
    assert unstorable(told.model_dump()) is None


def test_a_deep_recursion_keeps_the_end_of_its_traceback() -> None:
    def deeper(n: int) -> int:
        return deeper(n + 1) + n

    with pytest.raises(RecursionError) as raised:
        deeper(0)
    failure = failure_of(raised.value)
    assert len(failure.traceback) <= 16 << 10
    assert failure.traceback.rstrip().endswith("maximum recursion depth exceeded")


def test_a_full_memory_of_the_host_is_resource_exhausted() -> None:
    assert failure_of(MemoryError()).type == "ResourceExhausted"


def test_clean_text_replaces_what_cannot_be_kept_and_nothing_else() -> None:
    assert clean("ü 漢 \U0001f600 a\x00b\ud800c") == "ü 漢 \U0001f600 a\ufffdb?c"
