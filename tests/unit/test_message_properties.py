"""What holds for every message there could be."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from intake.message import JobSpec, Refused, canonical, describe, parse, sha256_of
from tests.unit.message_types import REGISTRY, RULES

ANY_TEXT = st.text(st.characters(), max_size=20)  # lone surrogates and NUL too
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4))
KEYS = [
    "type", "inputs", "params", "id", "dedupe_key", "tenant", "lane", "priority", "run_after", "deadline", "timeout_s",
    "max_attempts", "output", "labels", "embed", "callback", "specversion", "data", "source",
]  # fmt: skip
TYPES = st.sampled_from(sorted(REGISTRY))
NEARLY = st.fixed_dictionaries({"type": TYPES}, optional={key: JSON for key in KEYS if key != "type"})

STORABLE = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
VALID = st.fixed_dictionaries(
    {"type": st.just("image.caption"), "inputs": st.just({"image": "s3://media/a"})},
    optional={
        "params": st.fixed_dictionaries(
            {},
            optional={
                "prompt": st.none() | st.text(STORABLE, max_size=500),
                "count": st.integers(1, 8),
                "temperature": st.floats(0, 5, exclude_min=True),
                "size": st.fixed_dictionaries({"width": st.integers(8, 4096)}),
            },
        ),
        "dedupe_key": st.text(STORABLE, min_size=1, max_size=256),
        "priority": st.integers(-100, 100),
        "timeout_s": st.floats(0.1, 604800),
        "labels": st.dictionaries(
            st.text("ab中é.-", min_size=1, max_size=64), st.text(STORABLE, max_size=256), max_size=5
        ),
        "id": st.uuids(allow_nil=False).map(str),
        "run_after": st.datetimes()
        .filter(lambda t: 1970 < t.year < 3000)
        .map(lambda t: t.isoformat("T", "seconds") + "Z"),
    },
)


def outcome(body: Any) -> JobSpec | Refused:
    try:
        return parse(body, REGISTRY, RULES)
    except Refused as refused:
        return refused


def assert_storable(value: Any) -> None:
    """What jsonb takes: valid UTF-8 without U+0000, no NaN, and it comes back as it went."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    assert "\0" not in text
    assert "\\u0000" not in text.replace("\\\\", "")
    assert json.loads(text.encode("utf-8")) == value


@given(JSON | NEARLY)
@settings(max_examples=300, deadline=None)
def test_any_value_is_a_job_or_refused_and_both_can_be_stored(value: Any) -> None:
    for body in (json.dumps(value), value if isinstance(value, dict) else {"params": value}):
        match outcome(body):
            case Refused() as refused:
                assert refused.problems
                assert_storable([problem.as_json() for problem in refused.problems])
                assert all(line.isprintable() for line in describe(refused.problems))
            case job:
                assert_storable(job.message)
                assert_storable(job.params)


@given(st.binary(max_size=200) | st.text(st.sampled_from('{}[]",:\\u0dD8019eE+-.NaInfty \n'), max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_job_or_refused(body: bytes | str) -> None:
    assert isinstance(outcome(body), Refused)


@given(VALID)
@settings(max_examples=200, deadline=None)
def test_a_valid_message_is_accepted_and_survives_being_stored(message: dict[str, Any]) -> None:
    job = outcome(json.dumps(message))
    assert isinstance(job, JobSpec)
    assert job.message == message
    assert_storable(job.message)
    assert_storable(job.params)
    again = outcome(canonical(job.message).encode())
    assert again == job
    assert job.body_sha256 == sha256_of(json.loads(canonical(message)))
