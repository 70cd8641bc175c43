"""The OpenAPI documents: what is always there, and every golden body against its operation."""

import json
import re
from collections.abc import Iterator
from typing import Any

from orchestrator.states import RunState, SkipCause
from tests.contracts.goldens import bodies
from tests.support.openapi import NAMES, Answer, documents

# The members that an answer may lack; every other one is always there.
OPTIONAL = {
    "native": ["Problem.errors"],
    "opendatadsl": [
        *("Execution.data", "Execution.end", "Execution.loaderMessage", "Execution.parentId"),
        *("Execution.start", "Execution.triggerTime", "Phase.end", "Process.cron"),
    ],
    "solvexia": ["Property.file", "Property.options", "Property.value"],
    "mage": [
        "Pipeline.schedules",
        *("Reason.errors", "Reason.exception", "Reason.type"),
        *("Refusal.status", "Refusal.url_parameters"),
    ],
    "mindzie": [
        *("Job.error", "JobItem.duration", "JobItem.endTime", "JobItem.estimatedCompletion"),
        *("Output.accuracy", "Output.downloadUrl", "Output.recordCount"),
        *("QueuedJob.estimatedDuration", "QueuedJob.estimatedStartTime"),
        *("Refusal.jobId", "Results.executionMetrics", "Results.qualityMetrics"),
        "Results.results",
    ],
    "virtuousai": [],
}


def _references(value: Any) -> Iterator[str]:
    """The names of the components that a part of a document refers to."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"].rpartition("/")[2]
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


def _schemas_of_answers(document: dict[str, Any]) -> dict[str, Any]:
    """The schemas that answers refer to, also through others."""
    components = document["components"]
    left = [
        name
        for item in document["paths"].values()
        for operation in item.values()
        if isinstance(operation, dict)
        for name in _references(operation["responses"])
    ]
    schemas: dict[str, Any] = {}
    while left:
        name = left.pop()
        part = components["schemas"].get(name) or components["responses"][name]
        if name not in schemas:
            schemas[name] = part
            left += _references(part)
    return {name: part for name, part in schemas.items() if name in components["schemas"]}


def test_an_answer_lacks_only_what_is_said_to_be_optional() -> None:
    for name in NAMES:
        schemas = _schemas_of_answers(documents().documents[name])

        optional = [
            f"{schema}.{member}"
            for schema, document in schemas.items()
            for member in document.get("properties", {})
            if member not in document.get("required", ())
        ]
        assert sorted(optional) == sorted(OPTIONAL[name])


def test_every_member_of_an_answer_has_a_type() -> None:
    free = {"native": ["Step.result"], "solvexia": ["Property.file", "Property.value"]}
    for name in NAMES:
        schemas = _schemas_of_answers(documents().documents[name])

        untyped = [
            f"{schema}.{member}"
            for schema, document in schemas.items()
            for member, part in document.get("properties", {}).items()
            if not part.keys() & {"type", "$ref", "anyOf"}
        ]
        assert sorted(untyped) == free.get(name, [])


def test_each_operation_has_a_name_of_its_own() -> None:
    for document in documents().documents.values():
        names = re.findall(r'"operationId": "(\w+)"', json.dumps(document))

        assert len(names) == len({*names}) >= 10
        assert [name for name in names if re.search(r"\d$", name)] == []


def test_types_formats_and_words_are_those_of_the_values() -> None:
    def member(name: str, path: str) -> Any:
        schema, _, field = path.partition(".")
        return documents().documents[name]["components"]["schemas"][schema]["properties"][field]

    assert member("native", "Run.state") == {"type": "string", "enum": list(RunState)}
    assert member("native", "Run.timeout") == {"type": ["string", "null"]}
    assert member("native", "RunRequest.timeout")["type"] == ["string", "number", "null"]
    assert member("native", "RetryBody.mode")["type"] == "string"
    assert member("native", "Step.skip_cause") == {
        "type": ["string", "null"], "enum": [*SkipCause, None]
    }  # fmt: skip
    assert member("solvexia", "RunStatus.dateStarted") == {
        "type": ["string", "null"], "format": "date-time-local"
    }  # fmt: skip
    assert member("solvexia", "Log.timeStamp")["format"] == "date-time"


def test_every_golden_body_is_as_documented() -> None:
    mistakes = [
        f"{body.name}: {mistake}"
        for body in bodies()
        for mistake in documents().mistakes(
            Answer(
                body.entry.operation,
                body.entry.status,
                body.entry.mimetype,
                json.dumps(body.value).encode(),
            )
        )
    ]
    assert mistakes == []
