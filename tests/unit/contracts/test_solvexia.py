"""SolveXia's ids, paths, properties and statuses, without a server."""

import time
from http import HTTPStatus
from typing import Any
from uuid import UUID

import pytest
from flask import Flask

from api.contracts.solvexia import mapping
from api.contracts.solvexia.errors import render
from api.contracts.solvexia.surface import owns, rewrite
from api.contracts.solvexia.vocabulary import STATES, STEP_STATES, data_type
from api.toolkit.problems import Problem
from orchestrator.errors import Mistake
from orchestrator.spec.parser import MAX_STEPS
from orchestrator.states import RunState, StepState


def test_every_core_state_has_a_word() -> None:
    assert set(STATES) == set(RunState)
    assert set(STEP_STATES) == set(StepState)


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        ("/api/v1/processruns", True),
        ("/api/v1/ProcessRuns/pr-1", True),
        ("/API/V1/LOGS/", True),
        ("/api/v1/steps\n", False),
        ("/api/v1/processrunsx", False),
        ("/api/v1/runs/processes", False),
        ("/api/v1/logs2", False),
        ("/api/v2/logs", False),
    ],
)
def test_only_its_own_paths_are_its(path: str, ours: bool) -> None:
    assert owns(path) is ours
    assert rewrite(path) == (path.lower() if ours else path)


def test_letters_beyond_ascii_keep_their_case() -> None:
    path = "/api/v1/Processes/É".encode().decode("latin-1")

    assert rewrite(path).encode("latin-1").decode() == "/api/v1/processes/É"


@pytest.mark.parametrize("position", [0, 1, MAX_STEPS - 1])
@pytest.mark.parametrize("process", [1, 9001, 10**9])
def test_the_id_of_a_processs_step_has_its_process_and_position(
    process: int, position: int
) -> None:
    number = mapping.process_step_number(process, position)

    assert mapping.process_and_place(number) == (process, position)


def test_the_id_of_a_property_has_its_step() -> None:
    property_id = mapping.PropertyView(12490, 7, "day", "String").wire_id

    assert mapping.process_and_place(12490) is None
    assert property_id == "dsprop-12490007"


def test_parameters_belong_to_the_steps_that_name_them() -> None:
    spec = {
        "params": {"properties": dict.fromkeys(("a", "b", "c", "d e", "f"), True)},
        "steps": [
            {"key": "x", "with": {"text": "{{ params.a }} and {{ params.b }}"}},
            {"key": "y", "with": {"deep": [{"er": "{{ params['b'] + params[\"d e\"] }}"}]}},
            {"key": "z", "when": "params.c and not subparams.f"},
        ],
    }

    names = [set(mapping.names_of_step(spec, place).values()) for place in range(3)]

    assert names == [{"a", "b", "f"}, {"b", "d e"}, {"c"}]


@pytest.mark.parametrize(
    ("schema", "kind", "value", "parsed"),
    [
        ({"type": "string"}, "String", "7", "7"),
        ({"type": "integer"}, "Number", " -7 ", -7),
        ({"type": ["null", "integer"]}, "Number", "x", "x"),
        ({"type": "number"}, "Decimal", "0.5", 0.5),
        ({"type": "boolean"}, "CheckBox", "FALSE", False),
        ({"type": "boolean"}, "CheckBox", "yes", "yes"),
        ({"type": "string", "format": "date-time"}, "Datepicker", "x", "x"),
        ({"type": "string", "format": "file"}, "File", "f-1", "f-1"),
        ({"enum": [1, 2]}, "Dropdown", 1, 1),
        ({"type": "object"}, "String", {"a": 1}, {"a": 1}),
        ({}, "String", None, None),
    ],
)
def test_a_value_is_read_by_the_type_of_its_property(
    schema: dict[str, Any], kind: str, value: Any, parsed: Any
) -> None:
    assert data_type(schema) == kind
    assert mapping.parse_value(schema, value) == parsed


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (400, 400), (401, 401), (403, 403), (404, 404), (405, 405), (409, 400), (413, 400),
        (415, 400), (416, 400), (422, 400), (429, 429), (500, 500), (503, 503),
    ],
)  # fmt: skip
def test_every_refusal_has_a_published_status_and_form(status: int, shown: int) -> None:
    mistake = Mistake("/day", "missing")
    headers = {"Retry-After": "2", "Allow": "POST"}
    problem = Problem(
        status=HTTPStatus(status), code="x", detail="no", mistakes=(mistake,), headers=headers
    )

    with Flask(__name__).test_request_context():
        answer = render(problem)

    body = answer.get_json()
    assert answer.status_code == shown
    assert answer.headers["Retry-After"] == "2"
    assert body.keys() == {"message", "supportId"}
    assert UUID(body["supportId"])
    assert body["message"] == "no; /day: missing"


@pytest.mark.parametrize(
    "text", ["params['", 'params["', "params" + " " * 50, "params['" + "a" * 300]
)
def test_parameters_are_looked_for_in_linear_time(text: str) -> None:
    spec = {"steps": [{"key": "a", "with": {"a": text * (2_000_000 // len(text))}}]}
    start = time.thread_time()
    assert mapping.names_of_step(spec, 0) == {}
    assert time.thread_time() - start < 2
