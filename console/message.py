"""A message from the options of the command line.

Nothing is judged here that `intake.message` judges: options become the JSON that they mean, and the door says what is
wrong with it, in the same words as for a message from anywhere else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.failures import refused
from console.uploads import LocalFile

if TYPE_CHECKING:
    from handlers.declaration import Inputs
    from handlers.registry import AnyHandler

_SCALARS = {"string", "integer", "number", "boolean", "null"}


@dataclass(slots=True)
class Composed:
    """A message, and the local files whose objects it names."""

    message: dict[str, Any]
    files: list[LocalFile] = field(default_factory=list)


def compose_inputs(
    handler: AnyHandler, given: Sequence[str], read: Callable[[Path], LocalFile]
) -> tuple[dict[str, Any], list[LocalFile]]:
    """`inputs` from `role=WHAT`, `role.name=WHAT` (of a map) or, where the type has one role, `WHAT` alone."""
    inputs: dict[str, Any] = {}
    files: list[LocalFile] = []
    for words in given:
        role, name, what = _parted(handler, words)
        reference = _reference(what, read, files)
        _place(inputs, handler.inputs.get(role), role, name, reference)
    return inputs, files


def _parted(handler: AnyHandler, words: str) -> tuple[str, str, str]:
    """Role, name in its map, and what it is."""
    roles = list(handler.inputs)
    place, separator, what = words.partition("=")
    role, _, name = place.partition(".")
    if separator and (role in handler.inputs or len(roles) != 1 or not Path(words).exists()):
        return role, name, what
    if len(roles) == 1:
        return roles[0], "", words
    known = ", ".join(roles) or "no inputs at all"
    raise refused(f"--input {words}: write role=URI or role=FILE; {handler.type} has {known}")


def _reference(what: str, read: Callable[[Path], LocalFile], files: list[LocalFile]) -> Any:
    if "://" in what:
        return what
    file = read(Path(what).expanduser())
    files.append(file)
    return dict(file.reference)


def _place(inputs: dict[str, Any], declared: Inputs | None, role: str, name: str, reference: Any) -> None:
    from handlers.declaration import Many, Named

    if name or isinstance(declared, Named):
        place = inputs.setdefault(role, {})
        if not name:
            raise refused(f"--input {role}=...: it is a map; write {role}.NAME=URI")
        if not isinstance(place, dict) or name in place:
            raise refused(f"--input {role}.{name} is given twice")
        place[name] = reference
    elif isinstance(declared, Many):
        inputs.setdefault(role, []).append(reference)
    elif role in inputs:
        raise refused(f"--input {role} is given twice; it is one object")
    else:
        inputs[role] = reference


def compose_params(handler: AnyHandler, given: Mapping[str, str]) -> dict[str, Any]:
    """`params`, each value read as the type that its field declares. Raises CommandFailed for what is no JSON."""
    schema = handler.params_type().model_json_schema()
    properties = schema.get("properties", {})
    return {name: _value(name, words, _types(properties.get(name, {}), schema)) for name, words in given.items()}


def _value(name: str, words: str, types: set[str]) -> Any:
    if "string" in types:
        return None if words == "null" and "null" in types else words
    try:
        return json.loads(words, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        if not types or types <= _SCALARS:
            return words  # the door knows the field's limits, and says what would be right
        raise refused(f"--param {name}={words}: is not JSON; write --param '{name}={_shape(types)}'") from None


def _no_constant(word: str) -> float:
    raise ValueError(word)  # NaN and infinities, which Python's reader would take


def _shape(types: set[str]) -> str:
    return '{"key": ...}' if "object" in types else "[...]"


def _types(one: Mapping[str, Any], root: Mapping[str, Any]) -> set[str]:
    """The JSON types that a schema allows."""
    if "$ref" in one:
        return _types(root["$defs"][one["$ref"].rpartition("/")[2]], root)
    found = {one["type"]} if isinstance(one.get("type"), str) else set(one.get("type", ()))
    for branch in (*one.get("anyOf", ()), *one.get("oneOf", ()), *one.get("allOf", ())):
        found |= _types(branch, root)
    return found
