"""What a rejection says of its message, before it is stored."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from intake.identity import new_id
from intake.kafka.record import Arrived
from intake.problems import MOST_PROBLEMS, Code, Problem, Refused
from intake.rejections import error_of, fingerprint_of, refused_by_postgres, rejection_of
from storage.database import DataError
from storage.rejections import headers_json, headers_of


def problem(pointer: str, code: Code = Code.WRONG_TYPE, message: str = "is 3", fix: str = "write a text") -> Problem:
    return Problem(pointer, code, message, fix)


def arrived(timestamp_ms: int = 0, value: bytes | None = b"{") -> Arrived:
    return Arrived("upload", "t", 0, 1, timestamp_ms, None, [], value)


def test_messages_with_other_values_at_the_same_places_have_one_fingerprint() -> None:
    first = fingerprint_of([problem("/params/a", message="is 3"), problem("/type", Code.UNKNOWN_TYPE)])
    second = fingerprint_of([problem("/type", Code.UNKNOWN_TYPE), problem("/params/a", message="is 4", fix="x")])
    assert first == second
    assert len(first) == 16


def test_which_item_of_a_list_is_wrong_and_how_many_does_not_tell_messages_apart() -> None:
    one = fingerprint_of([problem("/inputs/images/7")])
    assert one == fingerprint_of([problem("/inputs/images/8"), problem("/inputs/images/123")])


@pytest.mark.parametrize("other", [problem("/params/b"), problem("/params/a", Code.MISSING)])
def test_another_place_or_kind_of_problem_is_another_fingerprint(other: Problem) -> None:
    assert fingerprint_of([problem("/params/a")]) != fingerprint_of([other])


def test_the_error_of_a_message_that_is_built_to_have_a_long_one_is_bounded() -> None:
    many = [problem("/" + "x" * 6000, message="y" * 100) for _ in range(MOST_PROBLEMS)]
    error = error_of(many)
    assert len(json.dumps(error)) < 20_000
    assert error[-1]["code"] == Code.MORE_PROBLEMS
    assert error[-1]["message"] == f"and {MOST_PROBLEMS - len(error) + 1} problems more"
    assert error_of(many[:1]) == [many[0].as_json()]


@pytest.mark.parametrize(
    ("timestamp_ms", "sent_at"),
    [(0, datetime(1970, 1, 1, tzinfo=UTC)), (-1, None), (2**62, None), (253_402_300_799_001, None)],
)
def test_a_time_that_no_calendar_has_is_no_time(timestamp_ms: int, sent_at: datetime | None) -> None:
    one = rejection_of(arrived(timestamp_ms), new_id(), Refused([problem("")]), "1")
    assert one.sent_at == sent_at


def test_a_trace_is_kept_where_it_can_be_passed_on() -> None:
    trace = {"traceparent": "00-ab-cd-01", "tracestate": "a=\0", "more": "\ud800"}
    one = rejection_of(arrived(), new_id(), Refused([problem("")]), "1", trace)
    assert one.trace == {"traceparent": "00-ab-cd-01"}
    assert rejection_of(arrived(), new_id(), Refused([problem("")]), "1", {"x": "\n"}).trace is None


def test_what_postgres_refuses_is_told_in_one_line() -> None:
    [told] = refused_by_postgres(DataError("out of range\nDETAIL: more")).problems
    assert (told.code, told.message) == (Code.BAD_VALUE, "Postgres refuses it: out of range")


def test_headers_are_json_that_postgres_can_hold_and_come_back_as_they_were() -> None:
    headers = [
        ("plain", b"text"),
        ("nul", b"a\0b"),
        ("not utf-8", b"\xff"),
        ("null", None),
        ("a\0", b""),
        ("\udcff", "ü".encode()),
        ("braces", b'{"base64": "no"}'),
    ]
    said = headers_json(headers)
    assert "\\u0000" not in json.dumps(said)
    assert "\\ud" not in json.dumps(said)
    assert headers_of(json.loads(json.dumps(said))) == headers
    assert "\\ud" not in json.dumps(headers_json([("half \ud800", b"")]))
