"""The keywords with bounded work find the same values valid as jsonschema's own."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from orchestrator.spec.json_schema import TrustedValidator, Validator

NAMES = "abcd"
VALUES: list[Any] = [
    None, True, False, 0, 1, 1.0, 2, -1, 0.5, "", "a", "b", "ab", "1", [], [1], [1, 1.0], [True, 1],
    ["a", 2, 3], {}, {"a": 1}, {"b": "x"}, {"a": {"b": 1}}, {"a": 1, "b": 2, "c": [1]},
    [{"a": 1}, {"a": 1.0}], [[1], [1]],
]  # fmt: skip
LEAVES: list[Any] = [True, False, {}, {"type": "integer"}]
TYPES = ["integer", "string", "object", "array", "null", "boolean", "number", ["object", "array"]]
DEFINITIONS: list[Any] = [
    {"type": "integer"}, {"properties": {"a": {}}}, {"items": {}}, {"prefixItems": [{}]},
]  # fmt: skip


class Schemas:
    """Random schemas and values."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        choice, randrange = self._random.choice, self._random.randrange
        inner = self.schema

        def many(depth: int) -> list[Any]:
            return [inner(depth) for _ in range(randrange(1, 4))]

        def members(names: Any) -> Callable[[int], dict[str, Any]]:
            return lambda depth: {choice(names): inner(depth) for _ in range(2)}

        self._keywords: Mapping[str, Callable[[int], Any]] = {
            "type": lambda _: choice(TYPES),
            "enum": lambda _: [self.value(1) for _ in range(3)],
            "const": lambda _: self.value(1),
            "multipleOf": lambda _: choice([1, 2, 0.5]),
            "uniqueItems": lambda _: True,
            "required": lambda _: [choice(NAMES)],
            "dependentRequired": lambda _: {choice(NAMES): [choice(NAMES)]},
            "$ref": lambda _: f"#/$defs/{choice('xy')}",
            "properties": members(NAMES),
            "dependentSchemas": members(NAMES),
            "patternProperties": members(["^a", "[bc]", "d$"]),
            "pattern": lambda _: choice(["^a", "b$", "[0-9]", ""]),
            **dict.fromkeys(["minimum", "maximum"], lambda _: choice([0, 1, 0.5])),
            **dict.fromkeys(
                ["minLength", "maxLength", "minItems", "maxItems", "minContains", "maxContains"],
                lambda _: randrange(3),
            ),
            **dict.fromkeys(["allOf", "anyOf", "oneOf", "prefixItems"], many),
            **dict.fromkeys(
                ["items", "contains", "additionalProperties", "propertyNames", "not", "if", "then",
                 "else", "unevaluatedItems", "unevaluatedProperties"],
                inner,
            ),
        }  # fmt: skip

    def value(self, depth: int = 0) -> Any:
        if depth > 2 or self._random.random() < 0.5:
            return self._random.choice(VALUES)
        size = self._random.randrange(4)
        if self._random.random() < 0.5:
            return [self.value(depth + 1) for _ in range(size)]
        return {self._random.choice(NAMES): self.value(depth + 1) for _ in range(size)}

    def schema(self, depth: int = 0) -> Any:
        if depth > 3 or self._random.random() < 0.1:
            return self._random.choice(LEAVES)
        names = self._random.choices(list(self._keywords), k=self._random.randrange(1, 5))
        return {name: self._keywords[name](depth + 1) for name in names}

    def document(self) -> Any:
        schema = self.schema()
        if isinstance(schema, dict):
            schema["$defs"] = {name: self._random.choice(DEFINITIONS) for name in "xy"}
        return schema


@pytest.mark.parametrize("kind", [Validator, TrustedValidator])
@pytest.mark.parametrize("seed", range(10))
def test_the_same_values_are_valid(kind: Any, seed: int) -> None:
    schemas = Schemas(seed)
    for _ in range(300):
        schema, value = schemas.document(), schemas.value()
        expected = Draft202012Validator(schema).is_valid(value)
        assert kind(schema).is_valid(value) == expected, (schema, value)


def test_a_loop_of_references_is_an_error_and_no_end() -> None:
    with pytest.raises(RecursionError):
        Validator({"$ref": "#"}).is_valid(1)
