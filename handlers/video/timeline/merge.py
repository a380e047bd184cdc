"""Merge values: `{{NAME}}` in the texts of a timeline becomes what the message gives for NAME.

They are put into parsed values, never into JSON text: a value can fill a place, it cannot change what stands around it.
What was put in is not looked at again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import InitErrorDetails

from handlers.video.timeline.faults import Code, nearest, shown, wrong

Scalar = str | int | float | bool
Location = tuple[str | int, ...]

#: Characters that may come of placeholders within texts: a value named very often would else outgrow memory.
MOST_CHARACTERS = 1_000_000
MOST_NAMES = 1000
#: Beyond these, further faults would say the same again.
_MOST_FAULTS = 100
_PLACEHOLDER = re.compile(r"\{\{([^{}]{1,200})\}\}")
_KEY = "merge"


def merged(params: Mapping[str, Any]) -> tuple[dict[str, Any], list[InitErrorDetails]]:
    """The params with every placeholder filled and `merge` as None (done), and what was wrong.

    A text that is nothing but a placeholder becomes the value itself; within a text, the value's own text. Without
    `merge` there are no values; where it is null the params are taken as they are: `{{` stands for itself.
    """
    if params.get(_KEY, {}) is None:
        return dict(params), []
    pass_ = _Merge(params.get(_KEY, {}))
    done = {key: value if key == _KEY else pass_.fill(value, (key,)) for key, value in params.items()}
    pass_.finish()
    return done | {_KEY: None}, pass_.faults


class _Merge:
    """One pass over the params."""

    def __init__(self, given: Any) -> None:
        self.faults: list[InitErrorDetails] = []
        self._given = given
        self._values: dict[str, Scalar] = {}
        self._names: set[str] = set()
        self._used: set[str] = set()
        self._characters = 0
        if not isinstance(given, dict):
            self._fault((_KEY,), given, "wrong_type", "is {}", 'write an object of values by name: {"NAME": "a value"}')
        elif len(given) > MOST_NAMES:
            self._fault((_KEY,), given, Code.LIMIT_EXCEEDED, "is {}", f"give at most {MOST_NAMES:,} values")
            self._names.update(given)
        else:
            for name, value in given.items():
                self._take(name, value)

    def _take(self, name: str, value: Any) -> None:
        self._names.add(name)
        if not isinstance(value, Scalar):
            self._fault((_KEY, name), value, "wrong_type", "is {}", "write a text, a number, true or false")
        elif not _PLACEHOLDER.fullmatch(f"{{{{{name}}}}}"):
            self._fault((_KEY, name), value, "bad_value", "has a name that no text can hold", "leave out braces")
        else:
            self._values[name] = value

    def finish(self) -> None:
        """Says which values nobody asked for."""
        for name in self._values:
            if name not in self._used:
                fix = f"write {shown(f'{{{{{name}}}}}')} where it belongs, or leave it out"
                self._fault((_KEY, name), self._values[name], Code.MERGE_UNUSED, "is used nowhere", fix)

    def fill(self, value: Any, location: Location) -> Any:
        """The value with its placeholders filled; keys are left as they are."""
        if isinstance(value, str):
            return self._text(value, location) if "{{" in value else value
        if isinstance(value, dict):
            return {key: self.fill(item, (*location, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item, (*location, index)) for index, item in enumerate(value)]
        return value

    def _text(self, text: str, location: Location) -> Scalar:
        if (whole := _PLACEHOLDER.fullmatch(text)) and (name := self._name(whole, text, location)):
            return self._values[name]
        return _PLACEHOLDER.sub(self._filler(text, location), text)

    def _filler(self, text: str, location: Location) -> Callable[[re.Match[str]], str]:
        def filled(match: re.Match[str]) -> str:
            if (name := self._name(match, text, location)) is None:
                return match[0]
            value = self._values[name]
            put = value if isinstance(value, str) else json.dumps(value)
            self._characters += len(put)
            if self._characters > MOST_CHARACTERS:
                what = f"the values come to more than {MOST_CHARACTERS:,} characters in the end"
                self._fault((_KEY,), self._given, Code.LIMIT_EXCEEDED, what, "name long values less often")
                return ""
            return put

        return filled

    def _name(self, match: re.Match[str], text: str, location: Location) -> str | None:
        name = match[1].strip() if match[1] not in self._names else match[1]
        if name in self._names:
            self._used.add(name)
            return name if name in self._values else None  # else its own fault is said already
        what = f"names {shown(name)}, which merge does not have"
        self._fault(location, text, Code.MERGE_MISSING, what, nearest(name, self._names))
        return None

    def _fault(self, location: Location, value: Any, code: str, what: str, fix: str) -> None:
        if len(self.faults) < _MOST_FAULTS and all(fault.get("loc") != location for fault in self.faults):
            self.faults.append(InitErrorDetails(type=wrong(code, what, fix), loc=location, input=value))
