"""Declarations of fields, vocabularies and pointers, without a contract."""

from enum import StrEnum
from typing import Any, NamedTuple

import pytest
from marshmallow import fields, missing

from api.toolkit.fields import Duration, Timestamp
from api.toolkit.wire import (
    CamelCase,
    Vocabulary,
    WireSchema,
    columns,
    computed,
    constant,
    relocated,
)
from orchestrator.errors import Invalid, Mistake
from orchestrator.models import Schedule


class _Light(StrEnum):
    RED = "red"
    AMBER = "amber"
    GREEN = "green"


class _View(NamedTuple):
    row: dict[str, Any]
    light: _Light
    run: Any = None


class _Answer(CamelCase, WireSchema):
    is_red = computed(fields.Boolean, lambda view: view.light == _Light.RED, "or not")
    light = fields.String()
    only_green = computed(fields.String, lambda view: "go" if view.light == "green" else missing)
    imaginary = fields.Float(attribute="run.imag")
    kind = constant(fields.String(data_key="type"), "light")


def test_a_declaration_reads_the_view_and_leaves_out_what_is_missing() -> None:
    red, green = _View({}, _Light.RED, 2j), _View({}, _Light.GREEN, 0j)

    assert _Answer(many=True).dump([red, green]) == [
        {"isRed": True, "light": "red", "imaginary": 2.0, "type": "light"},
        {"isRed": False, "light": "green", "onlyGreen": "go", "imaginary": 0.0, "type": "light"},
    ]


def test_fields_are_made_from_columns_in_the_order_of_their_names() -> None:
    url = fields.String()
    made = columns(
        Schedule, "id type every at active tags params priority url", at="the moment", url=url
    )

    assert {name: type(field) for name, field in made.items()} == {
        "id": fields.UUID,
        "type": fields.String,
        "every": Duration,
        "at": Timestamp,
        "active": fields.Boolean,
        "tags": fields.List,
        "params": fields.Dict,
        "priority": fields.Integer,
        "url": fields.String,
    }
    assert list(made) == [
        "id",
        "type",
        "every",
        "at",
        "active",
        "tags",
        "params",
        "priority",
        "url",
    ]
    assert [name for name, field in made.items() if field.allow_none] == ["every", "at", "priority"]
    assert made["at"].metadata == {"description": "the moment"}
    assert made["url"] is url


def test_a_name_without_a_column_is_refused() -> None:
    with pytest.raises(KeyError):
        columns(Schedule, "id wheel")


def test_a_vocabulary_has_a_word_for_every_state() -> None:
    words = {_Light.RED: "stop", _Light.AMBER: "stop", _Light.GREEN: "go"}
    vocabulary = Vocabulary(_Light, words)

    assert (vocabulary[_Light.AMBER], vocabulary.words) == ("stop", ["stop", "go"])
    assert vocabulary.states("stop") == [_Light.RED, _Light.AMBER]
    with pytest.raises(ValueError, match="_Light without a word: green"):
        Vocabulary(_Light, {_Light.RED: "stop", _Light.AMBER: "stop"})


def test_mistakes_are_moved_by_the_longest_prefix() -> None:
    pointers = ["/params/day", "/params", "/paramsx", "/"]
    with (
        pytest.raises(Invalid, match="no") as error,
        relocated({"": "/run", "/params": "/run/variables"}),
    ):
        raise Invalid("no", *(Mistake(pointer, "wrong") for pointer in pointers))

    assert [mistake.pointer for mistake in error.value.mistakes] == [
        "/run/variables/day", "/run/variables", "/run/paramsx", "/run/",
    ]  # fmt: skip
