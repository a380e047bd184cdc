"""How a fault of a timeline is said: where it is, what it is, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from enum import StrEnum

from pydantic_core import PydanticCustomError

from handlers.errors import Problem

#: The type of our own errors among pydantic's; their context has `code`, `what` and `fix`.
CONTRACT = "contract"
_MOST_SHOWN = 60


class Code(StrEnum):
    """Kinds of problems that only timelines have, beside those of every message: stable names, for programs."""

    ASSET_MISSING = "asset_missing"
    ASSET_UNSUPPORTED = "asset_unsupported"
    NO_STREAM = "no_stream"
    RANGE_OUT_OF_MEDIA = "range_out_of_media"
    TRANSITION_TOO_LONG = "transition_too_long"
    FADE_TOO_LONG = "fade_too_long"
    OVERLAP = "overlap"
    BEYOND_END = "beyond_end"
    FONT_UNKNOWN = "font_unknown"
    TEXT_TOO_LONG = "text_too_long"
    LIMIT_EXCEEDED = "limit_exceeded"
    ENCODER_MISSING = "encoder_missing"
    MERGE_MISSING = "merge_missing"
    MERGE_UNUSED = "merge_unused"


class Faults:
    """The problems found so far; of a place only the first is kept: what follows from it would mislead."""

    def __init__(self) -> None:
        self._found: dict[str, Problem] = {}

    def say(self, pointer: str, code: str, message: str, fix: str) -> None:
        """Notes a problem at a pointer into the message."""
        self._found.setdefault(pointer, Problem(pointer, code, message, fix))

    def at(self, pointer: str) -> bool:
        """Whether something is wrong at this place, or below it."""
        return any(found == pointer or found.startswith(f"{pointer}/") for found in self._found)

    @property
    def problems(self) -> Sequence[Problem]:
        """All of them, in the order in which they were found."""
        return list(self._found.values())


def wrong(code: str, what: str, fix: str) -> PydanticCustomError:
    """To be raised by a validator of a declaration: `{}` in `what` is where the value is said."""
    return PydanticCustomError(CONTRACT, "{what}; {fix}", {"code": code, "what": what, "fix": fix})


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean clip?` or, when nothing is near, what there is to choose from."""
    names = sorted(known)
    if near := difflib.get_close_matches(name[:100], names, n=1):
        return f"did you mean {shown(near[0])}?"
    if not names:
        return "there is none"
    return f"there is {', '.join(map(shown, names[:12]))}{', ...' if len(names) > 12 else ''}"


def shown(text: str) -> str:
    """A text of a message, quoted, shortened, and without what a terminal or a table could not hold."""
    cut = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut) + '"'
