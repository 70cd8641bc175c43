"""What a JSON Schema declares `writeOnly` is hidden at any depth; a hostile schema is bounded."""

import json
import time
from typing import Any

import pytest

from orchestrator.errors import InvalidParams
from orchestrator.spec.graph import plan
from orchestrator.spec.hidden_params import hidden_parts, hidden_texts, hide, keep_hidden
from orchestrator.spec.params import check_params
from orchestrator.spec.parser import parse_spec

TOKEN: dict[str, Any] = {"type": "string", "writeOnly": True}
LOGIN = {"type": "object", "properties": {"user": {"type": "string"}, "password": TOKEN}}


@pytest.mark.parametrize(
    ("schema", "params", "shown"),
    [
        ({"properties": {"t": TOKEN}}, {"t": "hush", "o": 1}, {"t": "***", "o": 1}),
        ({"properties": {"t": TOKEN}}, {}, {}),
        ({"writeOnly": True}, {"t": "hush", "n": 1}, {"t": "***", "n": "***"}),
        ({"allOf": [{"writeOnly": True}]}, {"t": "hush"}, {"t": "***"}),
        ({"properties": {"t": TOKEN}}, {"t": {"a": ["hush"]}}, {"t": "***"}),
        ({"properties": {"t": TOKEN}}, {"t": None}, {"t": "***"}),
        ({"properties": {"l": LOGIN}}, {"l": {"user": "u", "password": "hush"}},
         {"l": {"user": "u", "password": "***"}}),
        ({"properties": {"l": {"items": LOGIN}}}, {"l": [{"password": "hush"}, 7]},
         {"l": [{"password": "***"}, 7]}),
        ({"properties": {"l": {"prefixItems": [{}, TOKEN]}}}, {"l": ["a", "hush"]},
         {"l": ["***", "***"]}),
        ({"additionalProperties": TOKEN}, {"x": "hush"}, {"x": "***"}),
        ({"patternProperties": {"^x": TOKEN}}, {"x": "hush"}, {"x": "***"}),
        ({"allOf": [{"properties": {"t": TOKEN}}]}, {"t": "hush"}, {"t": "***"}),
        ({"if": {}, "then": {"properties": {"t": TOKEN}}}, {"t": "hush"}, {"t": "***"}),
        ({"oneOf": [{"properties": {"t": {}}}, {"properties": {"t": TOKEN}}]}, {"t": "hush"},
         {"t": "***"}),
        ({"dependentSchemas": {"a": {"properties": {"t": TOKEN}}}}, {"t": "hush"}, {"t": "***"}),
        ({"$defs": {"a/b": TOKEN}, "properties": {"t": {"$ref": "#/$defs/a~1b"}}}, {"t": "hush"},
         {"t": "***"}),
        ({"$defs": {"a": LOGIN}, "properties": {"l": {"$ref": "#/$defs/a"}}},
         {"l": {"user": "u", "password": "hush"}}, {"l": {"user": "u", "password": "***"}}),
        # What cannot be followed is hidden.
        ({"properties": {"t": {"$ref": "https://e.org/s"}, "u": TOKEN}}, {"t": "hush"},
         {"t": "***"}),
        ({"properties": {"t": {"$ref": "#anchor"}, "u": TOKEN}}, {"t": "hush"}, {"t": "***"}),
        # A parameter of this name, and a declaration that is none.
        ({"properties": {"writeOnly": {"type": "string"}}}, {"writeOnly": "x"}, {"writeOnly": "x"}),
        ({"properties": {"t": {"writeOnly": False}}}, {"t": "x"}, {"t": "x"}),
        ({}, {"t": "x"}, {"t": "x"}),
        (None, {"t": "x"}, {"t": "x"}),
    ],
)  # fmt: skip
def test_hidden_parts_are_not_shown(schema: Any, params: Any, shown: Any) -> None:
    parts = hidden_parts(schema)

    assert hide(parts, params) == shown
    assert hide(json.loads(json.dumps(parts)), params) == shown
    assert keep_hidden(parts, shown, params) == params


def test_a_schema_that_describes_itself_is_hidden_from_the_second_time_on() -> None:
    node = {"properties": {"password": TOKEN, "child": {"$ref": "#/$defs/node"}}}
    schema = {"$defs": {"node": node}, "properties": {"tree": {"$ref": "#/$defs/node"}}}
    tree = {"a": 1, "password": "hush", "child": {"password": "hush", "b": 2}}

    shown = hide(hidden_parts(schema), {"tree": tree})

    assert "hush" not in str(shown)
    assert shown["tree"]["a"] == 1


def test_a_schema_that_doubles_is_read_in_bounded_time() -> None:
    levels = {
        f"d{n}": {"properties": {x: {"$ref": f"#/$defs/d{n + 1}"} for x in "ab"}} for n in range(40)
    }
    schema = {"$defs": levels | {"d40": TOKEN}, "properties": {"t": {"$ref": "#/$defs/d0"}}}

    began = time.monotonic()
    parts = hidden_parts(schema)

    assert time.monotonic() - began < 20
    assert len(json.dumps(parts)) < 1_000_000
    value: Any = "hush"
    for _ in range(41):
        value = {"b": value}
    assert "hush" not in str(hide(parts, {"t": value["b"]}))


def test_a_new_value_replaces_the_hidden_one() -> None:
    parts = hidden_parts({"properties": {"t": TOKEN, "l": {"items": LOGIN}}})
    before = {"t": "hush", "l": [{"password": "one"}]}

    assert keep_hidden(parts, {"t": "new", "u": "***"}, before) == {"t": "new", "u": "***"}
    assert keep_hidden(parts, {"l": [{"password": "***"}]}, before) == {"l": [{"password": "one"}]}
    assert keep_hidden(parts, {"l": [{"password": "***"}] * 2}, before) == {
        "l": [{"password": "***"}] * 2
    }


def test_texts_of_hidden_parts_are_those_that_logs_must_not_have() -> None:
    parts = hidden_parts({"properties": {"t": TOKEN, "l": LOGIN}})
    params = {"t": {"a": ["hush", 12345, True]}, "l": {"user": "u", "password": "word"}}

    assert list(hidden_texts(parts, params)) == ["hush", "12345", "word"]
    assert list(hidden_texts(None, params)) == []


def test_the_plan_of_a_workflow_tells_its_workers_what_is_hidden() -> None:
    steps = [{"key": "s", "uses": "noop"}]
    plain = {"name": "plain", "steps": steps, "params": {"properties": {"t": {}}}}
    hiding = {**plain, "params": {"properties": {"t": TOKEN}}}

    assert "hides" not in plan(parse_spec(plain))[0]["spec"]
    assert plan(parse_spec(hiding))[0]["spec"]["hides"] == {"t": True}


@pytest.mark.parametrize(
    ("schema", "params", "detail"),
    [
        ({"properties": {"t": {**TOKEN, "pattern": "^x"}}}, {"t": "hush"}, "`pattern`"),
        ({"properties": {"t": {**TOKEN, "enum": ["x"]}}}, {"t": "hush"}, "`enum`"),
        ({"properties": {"t": TOKEN}, "minProperties": 3}, {"t": "hush"}, "`minProperties`"),
        ({"properties": {"t": TOKEN}, "required": ["u"]}, {"t": "hush"}, "'u' is a required"),
        ({"properties": {"t": TOKEN}, "additionalProperties": False}, {"t": "hush", "x": 1},
         "unknown option 'x'"),
    ],
)  # fmt: skip
def test_no_mistake_shows_a_hidden_value(schema: Any, params: Any, detail: str) -> None:
    with pytest.raises(InvalidParams) as refusal:
        check_params(schema, params)

    (mistake,) = refusal.value.mistakes
    assert detail in mistake.detail
    assert "hush" not in mistake.detail
