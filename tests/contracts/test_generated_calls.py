"""Calls generated from the OpenAPI documents: no server error, and every answer is as documented.

`CALLS=50000` makes so many; without it, some for each operation.
"""

import os
from typing import Any

import pytest
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from api.contracts import CONTRACTS
from tests.support import reference_tenant

DOCUMENTS = ["/openapi.json", *(f"/openapi/{contract.name}.json" for contract in CONTRACTS)]
CALLS = int(os.environ.get("CALLS", "900"))
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]

# Of the reference tenant: random ids would be answered with 404 only.
_IDS = [
    *map(str, reference_tenant.RUNS.values()),
    *map(str, reference_tenant.NUMBERS.values()),
    str(reference_tenant.TENANT),
    str(reference_tenant.PROJECT),
    str(reference_tenant.WORKFLOW),
    str(reference_tenant.SCHEDULE),
    str(reference_tenant.ARTIFACT),
    reference_tenant.SPEC["name"],
    *(step["key"] for step in reference_tenant.SPEC["steps"]),
]


@pytest.fixture(params=DOCUMENTS)
def document(request: pytest.FixtureRequest) -> str:
    """The address of each document in turn."""
    return str(request.param)


def test_generated_calls_are_answered_as_documented(
    app: Flask, reference_client: FlaskClient, document: str
) -> None:
    operations = [
        each.ok() for each in schemathesis.openapi.from_wsgi(document, app).get_all_operations()
    ]
    for operation in operations:
        content = operation.definition.raw["responses"].get("200", {}).get("content", {})
        if content.keys() != {"text/event-stream"}:  # it goes on
            _try(operation, CALLS // len(DOCUMENTS) // len(operations))


def _try(operation: Any, calls: int) -> None:
    path = st.fixed_dictionaries(
        {each.name: st.sampled_from(_IDS) for each in operation.path_parameters}
    )

    @settings(
        max_examples=max(2, calls),
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(map(operation.as_strategy, GenerationMode)), known=st.none() | path)
    def run(case: Any, known: dict[str, str] | None) -> None:
        if known:
            case.path_parameters = known
        headers = {"Authorization": f"Bearer {reference_tenant.SECRET}"}
        case.call_and_validate(headers=headers, checks=CHECKS)

    run()
