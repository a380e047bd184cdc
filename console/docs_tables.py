"""Tables of a JSON Schema's keys, in Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import PydanticUndefined


def table(schema: Mapping[str, Any], *, defaults: bool = True) -> str:
    """A table of the schema's keys, and one for each of the shapes that a value in it may have."""
    tables = []
    shapes: list[tuple[str, Mapping[str, Any]]] = [("", schema)]
    for place, one in shapes:  # grows while it is gone through
        rows = list(_rows(one, schema, "", shapes, defaults=defaults))
        head = "| key | type | default | limits | meaning |" if defaults else "| key | type | limits | meaning |"
        table = "\n".join([head, "|---" * (head.count("|") - 1) + "|", *rows]) if rows else "None."
        title = [f"#### {_shape(one)} in `{place}`", ""] if place else []
        tables.append("\n".join([*title, table]) + "\n")
    return "\n".join(tables)


def _shape(one: Mapping[str, Any]) -> str:
    """What tells a shape from the others: the keys whose value is given."""
    given = {key: value["const"] for key, value in one.get("properties", {}).items() if "const" in value}
    return ", ".join(f"`{key}: {json.dumps(value)}`" for key, value in given.items())


def _kinds(one: Mapping[str, Any], root: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The forms of a value, null apart; what has a name for all its forms is one."""
    if "x-kind" in one:
        return [one]
    branches = [_resolved(branch, root) for branch in one.get("anyOf", [one])]
    return [kind for branch in branches if branch.get("type") != "null" for kind in _flat(branch, root)]


def _flat(branch: Mapping[str, Any], root: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return _kinds(branch, root) if "anyOf" in branch else [branch]


def _rows(
    schema: Mapping[str, Any],
    root: Mapping[str, Any],
    base: str,
    shapes: list[tuple[str, Mapping[str, Any]]],
    *,
    defaults: bool,
) -> Iterator[str]:
    """A line for each key; what has several shapes is put to the end of `shapes`, for tables of their own."""
    required = schema.get("required", ())
    for name, one in schema.get("properties", {}).items():
        kinds = _kinds(one, root)
        default = "required" if name in required else _default(one)
        limits = "; ".join(filter(None, map(_limits, kinds)))
        cells = [f"`{base}{name}`", " or ".join(dict.fromkeys(_kind(kind, root) for kind in kinds))]
        cells += [default] if defaults else []
        cells += [limits, one.get("description", kinds[0].get("description", "") if kinds else "")]
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
        for kind in kinds:
            items = _resolved(kind.get("items", {}), root)
            if "properties" in kind:
                yield from _rows(kind, root, f"{base}{name}.", shapes, defaults=defaults)
            elif "properties" in items:
                yield from _rows(items, root, f"{base}{name}[].", shapes, defaults=defaults)
            elif "oneOf" in items:
                shapes += [(f"{base}{name}[]", _resolved(branch, root)) for branch in items["oneOf"]]


def _resolved(one: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in one:
        return one
    found: Mapping[str, Any] = root["$defs"][one["$ref"].rpartition("/")[2]]
    return found


def _default(one: Mapping[str, Any]) -> str:
    value = one.get("default", PydanticUndefined)
    return "" if value is PydanticUndefined or value is None else f"`{json.dumps(value, ensure_ascii=False)}`"


def _kind(one: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    if "x-kind" in one:
        return str(one["x-kind"])
    if "enum" in one or "const" in one:
        return " or ".join(f"`{json.dumps(value)}`" for value in one.get("enum", [one.get("const")]))
    kind = str(one.get("type", "value"))
    if "oneOf" in one:
        return "one of the shapes below"
    if kind == "array":
        items = one.get("prefixItems") or [one.get("items", {})]
        return "list of " + ", ".join(_kind(_resolved(item, root), root) for item in items)
    if kind == "string" and one.get("format"):
        return {"uuid": "UUID", "date-time": "time (RFC 3339)", "uri": "URL"}.get(one["format"], "text")
    return {"string": "text", "integer": "whole number", "boolean": "true or false"}.get(kind, kind)


_LIMITS: Mapping[str, str] = {
    "minimum": "at least {:,}",
    "exclusiveMinimum": "more than {:,}",
    "maximum": "at most {:,}",
    "exclusiveMaximum": "less than {:,}",
    "multipleOf": "a multiple of {:,}",
    "minLength": "at least {:,} characters",
    "maxLength": "at most {:,} characters",
    "minItems": "at least {:,}",
    "maxItems": "at most {:,}",
    "maxProperties": "at most {:,} keys",
    "pattern": "`{}`",
}


def _limits(one: Mapping[str, Any]) -> str:
    said = [text.format(one[key]) for key, text in _LIMITS.items() if key in one]
    values = one.get("additionalProperties")
    if isinstance(values, Mapping) and (inner := _limits(values)):
        said.append(f"values {inner}")
    return ", ".join(said).replace("at least 1 characters", "not empty")
