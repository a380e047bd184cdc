"""What is wrong with a message, said as a good compiler says it: where, what, and what would be right.

Everything that is quoted from a message is shortened and escaped here, so that a problem can itself be stored in
Postgres and printed on a terminal.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import handlers.errors

#: More than these are not reported: a message of a million wrong values would otherwise become a report longer than it.
MOST_PROBLEMS = 50
_MOST_SHOWN = 60
#: Characters of what a handler says of a message.
_MOST_OF_POINTER, _MOST_OF_CODE, _MOST_OF_SENTENCE = 500, 100, 1000

Path = tuple[str | int, ...]


class Code(StrEnum):
    """Every kind of problem; stable names, for programs."""

    TOO_LARGE = "too_large"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    TOO_DEEP = "too_deep"
    DUPLICATE_KEY = "duplicate_key"
    NUMBER_OUT_OF_RANGE = "number_out_of_range"
    BAD_CHARACTER = "bad_character"
    NOT_AN_OBJECT = "not_an_object"
    BAD_ENVELOPE = "bad_envelope"
    MISSING = "missing"
    UNKNOWN_KEY = "unknown_key"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_INPUT = "unknown_input"
    UNKNOWN_CHECKPOINT = "unknown_checkpoint"
    WRONG_CHECKPOINT = "wrong_checkpoint"
    UNKNOWN_VALUE = "unknown_value"
    WRONG_TYPE = "wrong_type"
    BAD_VALUE = "bad_value"
    OUT_OF_RANGE = "out_of_range"
    WRONG_SHAPE = "wrong_shape"
    TOO_FEW_INPUTS = "too_few_inputs"
    TOO_MANY_INPUTS = "too_many_inputs"
    DUPLICATE_INPUT = "duplicate_input"
    BAD_URI = "bad_uri"
    BUCKET_NOT_ALLOWED = "bucket_not_allowed"
    CONTRADICTION = "contradiction"
    CHECK_FAILED = "check_failed"
    MORE_PROBLEMS = "more_problems"


#: What a newer build may know, or do right: such a message is validated again by the next build that sees it.
_MAY_BE_NEWER = frozenset(
    {
        Code.UNKNOWN_KEY,
        Code.UNKNOWN_TYPE,
        Code.UNKNOWN_INPUT,
        Code.UNKNOWN_CHECKPOINT,
        Code.WRONG_CHECKPOINT,
        Code.UNKNOWN_VALUE,
        Code.CHECK_FAILED,
    }
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong; `pointer` is a JSON pointer (RFC 6901), empty for the message as a whole."""

    pointer: str
    code: str
    """A `Code`, or a job type's own."""
    message: str
    """What was wrong, with the value, shortened."""
    fix: str
    """What would be right."""

    @classmethod
    def of(cls, problem: handlers.errors.Problem) -> Problem:
        """What a job type's handler has found."""
        where, code = safe(problem.pointer, _MOST_OF_POINTER), safe(problem.code, _MOST_OF_CODE)
        return cls(where, code, safe(problem.message, _MOST_OF_SENTENCE), safe(problem.fix, _MOST_OF_SENTENCE))

    def as_json(self) -> dict[str, str]:
        """As it stands in `rejected_messages.error` and in answers over HTTP."""
        return asdict(self) | {"code": str(self.code)}

    @classmethod
    def from_json(cls, said: Mapping[str, str]) -> Problem:
        """What `as_json` has written, perhaps by another build."""
        return cls(said["pointer"], said["code"], said["message"], said["fix"])


class Refused(Exception):
    """A message cannot become a job; `problems` has all the reasons."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(_limited(problems))
        super().__init__("; ".join(describe(self.problems)))

    @property
    def may_be_newer(self) -> bool:
        """Whether a newer build may accept it: every problem is a name or value that this build does not know."""
        return all(problem.code in _MAY_BE_NEWER for problem in self.problems)


def describe(problems: Iterable[Problem]) -> list[str]:
    """One line for each problem: `/params/cuont: there is no such parameter; did you mean count? [unknown_key]`."""
    return [
        f"{problem.pointer or '(message)'}: {'; '.join(filter(None, (problem.message, problem.fix)))} [{problem.code}]"
        for problem in problems
    ]


def pointer(path: Iterable[str | int]) -> str:
    """A JSON pointer; keys are escaped as RFC 6901 says, and shortened and made printable."""
    return "".join("/" + safe(str(part), 100).replace("~", "~0").replace("/", "~1") for part in path)


def shorten(value: object) -> str:
    """A value as one may read it in a sentence, at most some 60 characters."""
    if isinstance(value, str):
        quoted = json.dumps(value[: _MOST_SHOWN + 1], ensure_ascii=False)
        return safe(quoted if len(value) <= _MOST_SHOWN else f'{quoted[:-2]}..."', 2 * _MOST_SHOWN)
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None or isinstance(value, bool | float):
        return json.dumps(value)
    if isinstance(value, int) and value.bit_length() <= 64:
        return str(value)
    return safe(getattr(value, "text", "") or f"a Python {type(value).__name__}", _MOST_SHOWN)


def safe(text: str, most: int) -> str:
    """A text that is at most `most` characters of the original, without NUL, surrogates and control characters."""
    cut = text if len(text) <= most else f"{text[:most]}..."
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def nearest(name: Any, known: Iterable[str]) -> str:
    """`did you mean count?` or, when nothing is near, what there is to choose from."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name)[:100], names, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"there is {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" if names else "there is none"


def _limited(problems: Sequence[Problem]) -> Sequence[Problem]:
    if len(problems) <= MOST_PROBLEMS:
        return problems
    rest = Problem("", Code.MORE_PROBLEMS, f"these are the first {MOST_PROBLEMS} problems", "mend these first")
    return [*problems[:MOST_PROBLEMS], rest]
