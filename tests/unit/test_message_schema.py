"""The JSON Schema and the examples that are derived from the declarations."""

from __future__ import annotations

from typing import Any

import pytest

from intake.message import parse
from intake.schema import example, schema, schema_of
from tests.unit.message_types import REGISTRY, RULES


@pytest.mark.parametrize("type_", sorted(REGISTRY))
def test_the_example_of_every_type_is_a_job(type_: str) -> None:
    assert parse(example(REGISTRY[type_]), REGISTRY, RULES).type == type_


def test_the_schema_has_a_branch_for_each_type_with_its_inputs_and_params() -> None:
    branches = {branch["properties"]["type"]["const"]: branch for branch in schema(REGISTRY)["oneOf"]}
    assert sorted(branches) == sorted(REGISTRY)
    caption = branches["image.caption"]
    assert caption["required"] == ["type", "inputs"]
    assert caption["additionalProperties"] is False
    assert caption["properties"]["params"]["properties"]["count"]["maximum"] == 16
    assert branches["audio.speak"]["required"] == ["type", "params"]
    images = branches["image.embed"]["properties"]["inputs"]["properties"]["images"]
    assert (images["type"], images["minItems"], images["maxItems"]) == ("array", 1, 3)
    assert branches["video.edit"]["properties"]["inputs"]["required"] == ["assets"]


@pytest.mark.parametrize("whole", [schema(REGISTRY), schema_of(REGISTRY["image.caption"])])
def test_every_reference_in_the_schema_leads_somewhere(whole: dict[str, Any]) -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if "$ref" in value else []
            return own + [found for child in value.values() for found in references(child)]
        return [found for child in value for found in references(child)] if isinstance(value, list) else []

    found = references(whole)
    assert "#/$defs/image.caption.Size" in found
    assert {name.removeprefix("#/$defs/") for name in found} <= whole["$defs"].keys()
