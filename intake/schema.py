"""JSON Schema of the message contract, and an example for each type, derived from the declarations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.declaration import Inputs, Many, One, Params
from handlers.registry import AnyHandler, Registry
from intake.fields import Message, Reference
from intake.references import required

DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: A file's usual ending, for examples.
_SUFFIX = {"image": "jpg", "audio": "wav", "video": "mp4", "any": "bin"}


def schema(registry: Registry) -> dict[str, Any]:
    """The JSON Schema of a bare message: one branch for each type."""
    definitions: dict[str, Any] = {"Reference": Reference.model_json_schema()}
    return {
        "$schema": DIALECT,
        "title": "mediamill job, version 1",
        "oneOf": [_branch(registry[type_], definitions) for type_ in registry],
        "$defs": definitions,
    }


def schema_of(handler: AnyHandler) -> dict[str, Any]:
    """The JSON Schema of a bare message of one type."""
    definitions: dict[str, Any] = {"Reference": Reference.model_json_schema()}
    return {"$schema": DIALECT, **_branch(handler, definitions), "$defs": definitions}


def example(handler: AnyHandler) -> dict[str, Any]:
    """The shortest message of a type: the inputs and parameters that it requires, with values of the right kind."""
    message: dict[str, Any] = {"type": handler.type}
    if inputs := {role: _example_input(role, one) for role, one in handler.inputs.items() if required(one)}:
        message["inputs"] = inputs
    parameters = handler.params_type().model_json_schema()
    wanted = {name: parameters["properties"][name] for name in parameters.get("required", ())}
    if params := {name: example_value(one, parameters) for name, one in wanted.items()}:
        message["params"] = params
    return message


def example_value(one: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """A value that fits a JSON Schema: its own first example or default, else a plain one of its type."""
    if "$ref" in one:
        return example_value(root["$defs"][one["$ref"].rpartition("/")[2]], root)
    for key in ("examples", "enum", "anyOf", "oneOf", "allOf"):
        if key in one:
            first = one[key][0]
            return first if key in ("examples", "enum") else example_value(first, root)
    for key in ("default", "const"):
        if key in one:
            return one[key]
    match one.get("type"):
        case "array":
            return [example_value(one.get("items", {}), root)] * max(1, one.get("minItems", 1))
        case "object":
            properties = one.get("properties", {})
            return {name: example_value(properties[name], root) for name in one.get("required", ())}
        case "integer" | "number":
            return one.get("minimum", one.get("maximum", 1))
        case "boolean":
            return True
        case _:
            return "a red bicycle"


def _branch(handler: AnyHandler, definitions: dict[str, Any]) -> dict[str, Any]:
    branch = Message.model_json_schema()
    params = _params_schema(handler.params_type(), handler.type, definitions)
    properties = branch["properties"] | {
        "type": {"const": handler.type},
        "inputs": _inputs_schema(handler.inputs),
        "params": params,
    }
    wanted = ["type"]
    if any(required(one) for one in handler.inputs.values()):
        wanted.append("inputs")
    if params.get("required"):
        wanted.append("params")
    return branch | {"title": handler.type, "properties": properties, "required": wanted}


def _params_schema(params: type[Params], type_: str, definitions: dict[str, Any]) -> dict[str, Any]:
    own = params.model_json_schema(ref_template=f"#/$defs/{type_}.{{model}}")
    definitions.update({f"{type_}.{name}": one for name, one in own.pop("$defs", {}).items()})
    return own


def _inputs_schema(declared: Mapping[str, Inputs]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {role: _input_schema(one) for role, one in declared.items()},
        "required": [role for role, one in declared.items() if required(one)],
        "additionalProperties": False,
    }


def _input_schema(declared: Inputs) -> dict[str, Any]:
    uri = {
        "type": "string",
        "format": "uri",
        "pattern": "^s3://",
        "description": f"{declared.media} at s3://bucket/key",
    }
    reference = {"anyOf": [uri, {"$ref": "#/$defs/Reference"}]}
    if isinstance(declared, One):
        return reference
    least, most = declared.at_least, declared.at_most
    if isinstance(declared, Many):
        return {"type": "array", "items": reference, "minItems": least, "maxItems": most, "uniqueItems": True}
    return {"type": "object", "additionalProperties": reference, "minProperties": least, "maxProperties": most}


def _example_input(role: str, declared: Inputs) -> Any:
    suffix = _SUFFIX[declared.media]
    if isinstance(declared, One):
        return f"s3://media/photos/{role}.{suffix}"
    count = max(1, declared.at_least)
    uris = [f"s3://media/photos/{index}.{suffix}" for index in range(1, count + 1)]
    return uris if isinstance(declared, Many) else {f"{role}-{index}": uri for index, uri in enumerate(uris, start=1)}
