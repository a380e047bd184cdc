"""From bytes to a JSON value that Postgres can hold: I-JSON (RFC 7493) with a limit on size and nesting.

Python's parser lets through what a database refuses later, together with its neighbours: NUL, lone surrogates, NaN,
integers of any size, doubled keys. All of it is found here, with its place.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from intake.problems import MOST_PROBLEMS, Code, Path, Problem, Refused, pointer, safe, shorten

_LEAST, _MOST = -(2**63), 2**63 - 1
# A string, or a bracket; strings are passed over whole. Possessive, so that no text makes it go back.
_TOKENS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
# How NUL and surrogates can stand in JSON text: a parsed value without these needs no second look.
_ESCAPES = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Unstorable:
    """Stands in a decoded value where something stood that is no value: NaN, a number out of range."""

    text: str


class _Object(dict[str, Any]):
    """An object with the keys that it names more than once."""

    doubled: tuple[str, ...] = ()


class _Reader:
    """The parser's hooks: they keep what is no value in its place, and remember that there was something."""

    def __init__(self) -> None:
        self.odd = False

    def constant(self, text: str) -> Unstorable:
        self.odd = True
        return Unstorable(safe(text, 30))

    def int(self, text: str) -> int | Unstorable:
        # Python refuses to read integers of more than 4,300 digits, and takes its time before that.
        if len(text) <= 20 and _LEAST <= (number := int(text)) <= _MOST:
            return number
        return self.constant(text)

    def float(self, text: str) -> float | Unstorable:
        number = float(text)
        return number if math.isfinite(number) else self.constant(text)

    def object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) == len(pairs):
            return value
        self.odd = True
        doubled = _Object(value)
        doubled.doubled = tuple(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        return doubled


def decode(body: bytes | str, *, most_bytes: int, nesting: int) -> tuple[Any, list[Problem]]:
    """The JSON value of a body, and what in it cannot be stored (at those places the value is of no use).

    Raises Refused when there is no value at all: too long, not UTF-8, not JSON, nested too deeply.
    """
    text = _text(body, most_bytes)
    if (at := _too_deep(text, nesting)) is not None:
        raise Refused([_deep("", nesting, f" (character {at})")])
    reader = _Reader()
    try:
        value = json.loads(
            text,
            object_pairs_hook=reader.object,
            parse_constant=reader.constant,
            parse_int=reader.int,
            parse_float=reader.float,
        )
    except json.JSONDecodeError as error:
        what = f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        near = shorten(text[error.pos : error.pos + 20]) if error.pos < len(text) else "the end"
        raise Refused([Problem("", Code.NOT_JSON, f"{what}, before {near}", "send one JSON object")]) from None
    odd = reader.odd or (isinstance(body, str) and not text.isascii()) or _ESCAPES.search(text) is not None
    return value, list(unstorable(value, nesting)) if odd else []


def unstorable(value: Any, nesting: int) -> Iterator[Problem]:
    """What in a value cannot be stored. Goes on its own stack: the interpreter's has an end."""
    found = 0
    stack: list[tuple[Path, Any]] = [((), [value])]
    while stack:
        path, container = stack.pop()
        inside: list[tuple[Path, Any]] = []
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for step, item in items:
            if isinstance(item, dict | list):
                inside.append(((*path, step), item))
            elif (what := _problem_of(item)) is not None:
                found += 1
                yield Problem(pointer((*path[1:], step) if path else ()), *what)
                if found > MOST_PROBLEMS:
                    return
        if isinstance(container, dict):
            for problem in _problems_of_keys(path[1:], container):
                found += 1
                yield problem
                if found > MOST_PROBLEMS:
                    return
        if inside and len(path) >= nesting:
            yield _deep(pointer(inside[0][0][1:]), nesting, "")
            return
        stack += reversed(inside)


def _problem_of(item: Any) -> tuple[Code, str, str] | None:
    """Of what is no container: code, message, fix."""
    if isinstance(item, str):
        what = _bad_character(item)
        return None if what is None else (Code.BAD_CHARACTER, f"{shorten(item)} holds {what}", "leave it out")
    if item is None or isinstance(item, bool):
        return None
    if isinstance(item, int):
        fits = _LEAST <= item <= _MOST
        return None if fits else (Code.NUMBER_OUT_OF_RANGE, "is too large for 64 bits", "write a number of 64 bits")
    if isinstance(item, float):
        fits = math.isfinite(item)
        return None if fits else (Code.NUMBER_OUT_OF_RANGE, f"{item} is no JSON number", "write a finite number")
    if isinstance(item, Unstorable):
        number = item.text.lstrip("-+")[:1].isdigit()
        what = "is too large for 64 bits" if number else "is no JSON number"
        return Code.NUMBER_OUT_OF_RANGE, f"{item.text} {what}", "write a finite number of 64 bits"
    return Code.NOT_JSON, f"is {shorten(item)}", "write a JSON value"


def _problems_of_keys(path: Path, item: dict[Any, Any]) -> Iterator[Problem]:
    for key in item:
        if not isinstance(key, str):
            yield Problem(pointer(path), Code.NOT_JSON, f"has a key that is {shorten(key)}", "write it as a text")
        elif (what := _bad_character(key)) is not None:
            yield Problem(pointer((*path, key)), Code.BAD_CHARACTER, f"the key holds {what}", "leave it out")
    for key in getattr(item, "doubled", ()):
        yield Problem(pointer((*path, key)), Code.DUPLICATE_KEY, "stands twice in one object", "keep one of them")


def _text(body: bytes | str, most_bytes: int) -> str:
    # A text of n characters has at least n bytes: no need to encode what is too long anyway.
    length = len(body)
    if length <= most_bytes and isinstance(body, str):
        length = len(body.encode("utf-8", "surrogatepass"))
    if length > most_bytes:
        what = f"is {length:,} bytes long, the limit is {most_bytes:,}"
        raise Refused([Problem("", Code.TOO_LARGE, what, "put large data into the object store and send its URI")])
    if isinstance(body, str):
        return body
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"is not UTF-8: byte 0x{body[error.start]:02x} at {error.start}"
        raise Refused([Problem("", Code.NOT_UTF8, what, "send JSON as UTF-8")]) from None


def _too_deep(text: str, nesting: int) -> int | None:
    """The position of the bracket that goes deeper than `nesting`, or None."""
    if text.count("[") + text.count("{") <= nesting:
        return None
    depth = 0
    for token in _TOKENS.finditer(text):
        first = text[token.start()]
        if first in "[{":
            depth += 1
            if depth > nesting:
                return token.start()
        elif first in "]}":
            depth -= 1
    return None


def _deep(where: str, nesting: int, at: str) -> Problem:
    return Problem(where, Code.TOO_DEEP, f"nests deeper than {nesting} levels{at}", "make it flatter")


def _bad_character(text: str) -> str | None:
    if "\0" in text:
        return "NUL (U+0000)"
    if (match := _SURROGATE.search(text)) is not None:
        return f"a lone surrogate (U+{ord(match[0]):04X})"
    return None
