"""pydantic's errors, said in the words of the message contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from intake.problems import MOST_PROBLEMS, Code, Path, Problem, nearest, pointer, shorten

_WANTED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "an object",
    "model_type": "an object",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "none_required": "null",
    "finite_number": "a finite number",
}
_CODES = {code.value: code for code in Code}
_RANGES = {
    "greater_than": ("gt", "write a number greater than {}"),
    "greater_than_equal": ("ge", "write a number of at least {}"),
    "less_than": ("lt", "write a number less than {}"),
    "less_than_equal": ("le", "write a number of at most {}"),
    "multiple_of": ("multiple_of", "write a multiple of {}"),
    "string_too_short": ("min_length", "make it at least {} long"),
    "string_too_long": ("max_length", "make it at most {} long"),
    "too_short": ("min_length", "make it at least {} long"),
    "too_long": ("max_length", "make it at most {} long"),
}


def problems_of(error: ValidationError, model: type[BaseModel], base: Path, value: Any, what: str) -> list[Problem]:
    """The problems (the first of very many) that a validation of `value`, which stands at `base`, by `model` found.

    `what` names a key of the model in a sentence: `a key of a message`, `a parameter of image.caption`.
    """
    found: dict[str, Problem] = {}
    schema: dict[str, Any] | None = None
    for details in error.errors(include_url=False):
        path = _path(details, value)
        where = pointer((*base, *path))
        if where in found:
            continue  # a union reports every branch; the first sentence about a place is enough
        if details["type"] == "extra_forbidden" and path:
            schema = schema or model.model_json_schema()
            fix = nearest(path[-1], _keys(schema, schema, path[:-1], value))
            found[where] = Problem(where, Code.UNKNOWN_KEY, f"is not {what}", fix)
        else:
            found[where] = _problem(details, where)
        if len(found) > MOST_PROBLEMS:
            break
    return list(found.values())


def wrong_places(error: ValidationError, value: Any) -> list[Path]:
    """Where a validation of `value` found something, as paths into it."""
    return list(dict.fromkeys(_path(details, value) for details in error.errors(include_url=False)))


def _problem(details: ErrorDetails, where: str) -> Problem:
    kind, context = details["type"], details.get("ctx", {})
    value = shorten(details.get("input"))
    if kind == "missing":
        return Problem(where, Code.MISSING, "is missing", "give it")
    if kind in _WANTED:
        return Problem(where, Code.WRONG_TYPE, f"is {value}", f"write {_WANTED[kind]}")
    if kind in _RANGES:
        key, fix = _RANGES[kind]
        limit = context.get(key)
        said = _length(details.get("input")) if "length" in key else value
        return Problem(where, Code.OUT_OF_RANGE, f"is {said}", fix.format(limit))
    if kind in ("literal_error", "enum"):
        return Problem(where, Code.UNKNOWN_VALUE, f"is {value}", f"write {context.get('expected')}")
    if kind == "string_pattern_mismatch":
        return Problem(where, Code.BAD_VALUE, f"is {value}", f"write what fits {context.get('pattern')}")
    if "fix" in context:  # one of our own, see `wrong`
        return Problem(where, _code(context), context["what"].replace("{}", value), context["fix"])
    if kind == "value_error":
        return Problem(where, Code.BAD_VALUE, str(context.get("error", details["msg"])), "")
    message = details["msg"].removeprefix("Input ")
    return Problem(where, Code.BAD_VALUE, f"is {value}", message[:1].lower() + message[1:])


def _code(context: Mapping[str, Any]) -> str:
    """The contract's code, or one of a job type's own."""
    said = str(context.get("code", Code.BAD_VALUE))
    return _CODES.get(said, said)


def _length(value: Any) -> str:
    unit = "characters" if isinstance(value, str) else "items"
    return f"{len(value)} {unit} long" if hasattr(value, "__len__") else shorten(value)


def _path(details: ErrorDetails, value: Any) -> Path:
    """The location without what pydantic adds to it: names of union branches, `[key]`."""
    path: list[str | int] = []
    loc = list(details["loc"])
    for position, part in enumerate(loc):
        last = position == len(loc) - 1
        inside = (isinstance(value, Mapping) and part in value) or (
            isinstance(value, list) and isinstance(part, int) and part < len(value)
        )
        if inside:
            value = value[part]
            path.append(part)
        elif last and details["type"] == "missing":
            path.append(part)
    return tuple(path)


def _keys(schema: Mapping[str, Any], root: Mapping[str, Any], path: Path, value: Any) -> set[str]:
    """The keys that a JSON Schema knows at a place of a value."""
    if "$ref" in schema:
        return _keys(_resolved(schema, root), root, path, value)
    found: set[str] = set()
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        if not _is_of_another_kind(_resolved(branch, root), value):
            found |= _keys(branch, root, path, value)
    properties = schema.get("properties", {})
    if not path:
        return found | set(properties)
    step, rest = path[0], path[1:]
    container: Any = value if isinstance(value, dict | list) else None
    inner = None if container is None else container[step]
    for child in (properties.get(step), schema.get("items") if isinstance(step, int) else None):
        if isinstance(child, Mapping):
            found |= _keys(child, root, rest, inner)
    additional = schema.get("additionalProperties")
    return found | _keys(additional, root, rest, inner) if isinstance(additional, Mapping) else found


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Mapping[str, Any] = root["$defs"][schema["$ref"].rpartition("/")[2]]
    return found


def _is_of_another_kind(schema: Mapping[str, Any], value: Any) -> bool:
    """Whether an object says by one of its keys (`type: video`) that another branch of a union is meant."""
    return isinstance(value, Mapping) and any(
        "const" in one and value.get(name) != one["const"] for name, one in schema.get("properties", {}).items()
    )


def wrong(code: Code, what: str, fix: str) -> PydanticCustomError:
    """To be raised by a validator of a declaration: `{}` in `what` is where the value is said."""
    return PydanticCustomError("contract", "{what}; {fix}", {"code": code.value, "what": what, "fix": fix})
