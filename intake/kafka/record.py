"""A record of a lane's topic: the forms that a message may have there, and the trace that it belongs to.

A message stands in a record bare, as a CloudEvents 1.0 event in structured mode (an envelope) or in binary mode (`ce_`
headers). Kafka protocol binding: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config.lanes import Lane
from intake.decoding import decode
from intake.message import Rules
from intake.problems import Code, Problem, Refused, shorten

Header = tuple[str, bytes | None]

#: What an event in binary mode must have.
_ATTRIBUTES = ("ce_specversion", "ce_id", "ce_source", "ce_type")
# https://www.w3.org/TR/trace-context/#traceparent-header-field-values; later versions may append fields.
_TRACEPARENT = re.compile(
    r"(?:00|(?!ff)[0-9a-f]{2}(?=.{53}(?:-|\Z)))-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_TRACESTATE_KEY = r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
_TRACESTATE_MEMBER = re.compile(_TRACESTATE_KEY + r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_TRACESTATE_MEMBERS = 32


@dataclass(frozen=True, slots=True)
class Arrived:
    """A record of a lane's topic, as it was read."""

    lane: Lane
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    """Since 1970; -1: none."""
    key: bytes | None
    headers: Sequence[Header]
    value: bytes | None


def message_in(arrived: Arrived, rules: Rules) -> bytes | dict[str, Any]:
    """What of a record is to be parsed as the message.

    Raises Refused for a tombstone, an empty value, and CloudEvents headers that are incomplete or contradict the value.
    """
    if arrived.value is None:
        what = "has no value (a tombstone), and jobs are not deleted so"
        raise Refused(
            [Problem("", Code.MISSING, what, "send the message as the value; mediamill jobs cancel ends a job")]
        )
    if not arrived.value:
        raise Refused([Problem("", Code.MISSING, "is empty: a value of 0 bytes", "send the message as the value")])
    if not arrived.headers:
        return arrived.value
    headers = {key.lower(): value for key, value in arrived.headers}
    content_type = _media_type(headers.get("content-type"))
    if content_type.startswith("application/cloudevents"):
        return _structured(arrived.value, content_type, rules)
    if any(key in headers for key in _ATTRIBUTES):
        _check_binary(headers, content_type)
    return arrived.value


def trace_of(arrived: Arrived) -> Mapping[str, str] | None:
    """The W3C trace context of a record's headers, else of its event in binary mode; None: none, or malformed."""
    headers: dict[str, list[str]] = {}
    for key, value in arrived.headers:
        name = key.lower().removeprefix("ce_")
        if name in ("traceparent", "tracestate") and value is not None:
            # A header goes before the attribute of the event: whoever sent the record on has a span of its own.
            headers.setdefault(key.lower(), []).append(value.decode("latin-1"))
    if "traceparent" in headers:
        return _trace(headers["traceparent"], headers.get("tracestate", []))
    if "ce_traceparent" in headers:
        return _trace(headers["ce_traceparent"], headers.get("ce_tracestate", []))
    return None


def envelope_trace(message: bytes | Mapping[str, Any]) -> Mapping[str, str] | None:
    """The W3C trace context among the attributes of an event in an envelope (the distributed tracing extension)."""
    if isinstance(message, bytes):
        if b'"traceparent"' not in message or b'"specversion"' not in message:
            return None
        try:
            message = json.loads(message)
        except (ValueError, RecursionError):
            return None  # what is wrong with it is said by the validation
    if not isinstance(message, Mapping) or "specversion" not in message:
        return None
    said = [message.get(name) for name in ("traceparent", "tracestate")]
    return _trace(*([value] if isinstance(value, str) else [] for value in said))


def _trace(parents: Sequence[str], states: Sequence[str]) -> Mapping[str, str] | None:
    if len(parents) != 1 or not (match := _TRACEPARENT.match(parents[0])):
        return None
    if parents[0].startswith("00") and match.end() != len(parents[0]):
        return None
    members = [member.strip(" \t") for state in states for member in state.split(",")]
    members = [member for member in members if member]
    well_formed = len(members) <= _TRACESTATE_MEMBERS and all(map(_TRACESTATE_MEMBER.fullmatch, members))
    if not members or not well_formed:
        return {"traceparent": match[0]}
    return {"traceparent": match[0], "tracestate": ",".join(members)}


def _structured(value: bytes, content_type: str, rules: Rules) -> dict[str, Any]:
    if content_type != "application/cloudevents+json":
        what = f"the header content-type is {shorten(content_type)}"
        fix = "write one event in each record, as application/cloudevents+json"
        raise Refused([Problem("", Code.BAD_ENVELOPE, what, fix)])
    envelope, problems = decode(value, most_bytes=rules.message_bytes, nesting=rules.nesting)
    if problems:
        raise Refused(problems)
    if not isinstance(envelope, dict) or "specversion" not in envelope:
        what = "the header content-type says that this is a CloudEvents envelope, but it has no specversion"
        fix = (
            'write {"specversion": "1.0", "id": ..., "source": ..., "type": ..., "data": ...}, or leave the header out'
        )
        raise Refused([Problem("", Code.BAD_ENVELOPE, what, fix)])
    return envelope


def _check_binary(headers: Mapping[str, bytes | None], content_type: str) -> None:
    problems = []
    for name in _ATTRIBUTES:
        if (text := _text(headers.get(name))) is None:
            what = f"the header {name} is {'empty or not UTF-8' if name in headers else 'missing'}"
            fix = f"a CloudEvents event in headers has {', '.join(_ATTRIBUTES)}"
            problems.append(Problem("", Code.BAD_ENVELOPE, what, fix))
        elif name == "ce_specversion" and text != "1.0":
            problems.append(
                Problem("", Code.BAD_ENVELOPE, f"the header ce_specversion is {shorten(text)}", "write 1.0")
            )
    if content_type not in ("", "application/json") and not content_type.endswith("+json"):
        what = f"the header content-type is {shorten(content_type)}"
        problems.append(Problem("", Code.BAD_ENVELOPE, what, "write application/json"))
    if problems:
        raise Refused(problems)


def _text(value: bytes | None) -> str | None:
    try:
        return (value or b"").decode("utf-8") or None
    except UnicodeDecodeError:
        return None


def _media_type(value: bytes | None) -> str:
    return (value or b"").decode("latin-1").partition(";")[0].strip().lower()
