"""`mediamill types`: the job types, from their declarations."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import click

from console import output
from console.compose import Deployment
from console.failures import refused
from console.options import json_option
from console.output import Column
from handlers.declaration import Inputs, Many, Named
from handlers.registry import AnyHandler
from intake.problems import nearest
from intake.references import required, shape
from intake.schema import example, schema_of


@click.command()
@click.argument("type_", metavar="[TYPE]", required=False)
@json_option
def types(type_: str | None, as_json: bool) -> None:
    """List job types, or explain one: its inputs, its parameters, an example.

    With --json, a TYPE's message as JSON Schema.
    """
    with Deployment.load() as deployment:
        registry = deployment.registry
    if type_ is None:
        handlers = [registry[name] for name in registry]
        if as_json:
            output.print_json([_row(handler) for handler in handlers])
        else:
            columns = (
                Column("type"),
                Column("version", right=True),
                Column("inputs"),
                Column("what it does", shrinks=True),
            )
            output.table(
                columns, [(h.type, h.version, ", ".join(h.inputs), _summary(h)) for h in handlers], empty="no job types"
            )
        return
    if type_ not in registry:
        raise refused(f"{type_} is no job type; {nearest(type_, registry)}")
    if as_json:
        output.print_json(schema_of(registry[type_]))
    else:
        _explain(registry[type_])


def _row(handler: AnyHandler) -> dict[str, Any]:
    return {
        "type": handler.type,
        "version": handler.version,
        "inputs": {role: shape(inputs) for role, inputs in handler.inputs.items()},
        "description": _summary(handler),
    }


def _summary(handler: AnyHandler) -> str:
    return (inspect.getdoc(type(handler)) or "").partition("\n")[0]


def _explain(handler: AnyHandler) -> None:
    output.line(f"{handler.type}, version {handler.version}", style="bold")
    output.block(inspect.getdoc(type(handler)) or "")
    output.heading("inputs")
    rows = [(role, inputs.media, _many(inputs)) for role, inputs in handler.inputs.items()]
    output.table((Column("role"), Column("media"), Column("how many")), rows, empty="none")
    output.heading("parameters")
    schema = handler.params_type().model_json_schema()
    needed = schema.get("required", ())
    for name, one in schema.get("properties", {}).items():
        output.line(f"{name}: {_kind(one, schema)}{_default(one, needed=name in needed)}", style="cyan")
        output.block(one.get("description", ""), indent=4)
    output.heading("example")
    output.line("  " + json.dumps(example(handler), ensure_ascii=False))


def _many(inputs: Inputs) -> str:
    if not isinstance(inputs, Many | Named):
        return "one"
    said = f"{inputs.at_least} to {inputs.at_most}"
    names = ", each with a name" if isinstance(inputs, Named) else ""
    return f"{said}{names}" if required(inputs) else f"{said}{names}; may be left out"


def _kind(one: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    if "$ref" in one:
        return _kind(root["$defs"][one["$ref"].rpartition("/")[2]], root)
    if branches := one.get("anyOf", one.get("oneOf")):
        return " or ".join(_kind(branch, root) for branch in branches if branch.get("type") != "null")
    if "enum" in one:
        return ", ".join(json.dumps(value) for value in one["enum"])
    kind = str(one.get("type", "any JSON"))
    if kind == "array":
        kind = f"list of {_kind(one.get('items', {}), root)}"
    limits = [
        words.format(one[key])
        for key, words in (("minimum", "at least {}"), ("exclusiveMinimum", "more than {}"), ("maximum", "at most {}"),
                           ("exclusiveMaximum", "less than {}"), ("maxLength", "at most {} characters"))
        if key in one
    ]  # fmt: skip
    return ", ".join([kind, *limits])


def _default(one: Mapping[str, Any], *, needed: bool) -> str:
    if needed:
        return " (required)"
    default = one.get("default")
    return "" if default is None else f" (default {json.dumps(default, ensure_ascii=False)})"
