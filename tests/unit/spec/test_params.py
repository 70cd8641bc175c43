"""Which values of a trigger's free body become parameters."""

from typing import Any

import pytest

from orchestrator.spec.params import without_value

VALUES = {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize(
    ("schema", "names"),
    [
        ({}, "abc"),
        ({"type": "object", "properties": {"a": {}}}, "abc"),
        ({"properties": {"a": {"default": 0}}}, "bc"),
        ({"properties": {"a": {"default": None}, "b": True}}, "bc"),
        ({"properties": {"a": {}}, "additionalProperties": True}, "abc"),
        ({"properties": {"a": {}}, "additionalProperties": False}, "a"),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "string"}}, "a"),
        ({"properties": {"a": {}, "b": {"default": 0}}, "propertyNames": {"maxLength": 1}}, "a"),
        ({"maxProperties": 2}, ""),
        ({"required": ["d"], "title": "x"}, "abc"),
        ({"allOf": [{"additionalProperties": False}]}, ""),
    ],
)
def test_values_become_parameters_where_the_schema_lets_them(
    schema: dict[str, Any], names: str
) -> None:
    assert without_value(schema, VALUES) == {name: VALUES[name] for name in names}
