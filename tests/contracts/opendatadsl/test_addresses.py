"""The body of every address, and its documentation."""

import re
from uuid import UUID

import pytest
from flask.testing import FlaskClient

from api.contracts.opendatadsl import responses
from tests.contracts.adapters.opendatadsl import ROOT, refused
from tests.contracts.conftest import Golden
from tests.support import reference_tenant

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
ADDRESSES = [
    ("list", "/api/process-exec/v1"),
    ("list_projected", "/api/process-exec/v1/private?_project=name,status,phases.name"),
    ("execution", f"/api/process-exec/v1/{reference_tenant.RUN}"),
    ("public", "/api/process-exec/v1/public"),
    ("distinct", "/api/process-exec/v1?_distinct=status"),
    ("fieldinfo", "/api/process-exec/v1?_fieldinfo=status"),
    (
        "aggregate",
        '/api/process-exec/v1?_aggregate=[{"$group":{"_id":"$status","count":{"$sum":1}}}]',
    ),
    ("processes", "/api/process/v1"),
    ("process", "/api/process/v1/invoice_export"),
    ("process_version", "/api/process/v1/private/invoice_export/3"),
    ("process_versions", "/api/process/v1/invoice_export/*"),
]


@pytest.mark.row("`GET /v1`, `/v1/private`, `/v1/public`, `/v1/{key}`: the exact bodies")
def test_what_every_address_gives(reference_client: FlaskClient, golden: Golden) -> None:
    for name, address in ADDRESSES:
        answer = reference_client.get(address)
        assert answer.status_code == 200
        assert answer.mimetype == "application/json"
        golden(f"opendatadsl/{name}", answer.json)


@pytest.mark.row("`GET` the base: build information")
def test_the_bare_base_gives_build_information(
    reference_client: FlaskClient, golden: Golden
) -> None:
    for service in ("process-exec", "process", "process-exec"):
        prefix = "service" if service == "process" else "api"
        body = reference_client.get(f"/{prefix}/{service}/").json
        assert INSTANT.fullmatch(body["timestamp"])
        assert body["build"]
        golden(f"opendatadsl/build_{service}", {**body, "timestamp": "…", "build": "…"})


@pytest.mark.row("`POST` the base, `/v1`, `/v1/private`: the new execution, `triggered`")
def test_a_trigger_gives_the_new_execution(reference_client: FlaskClient, golden: Golden) -> None:
    answer = reference_client.post(
        "/api/process-exec/v1?_reason=month%20end%20check&_delay=5000",
        json={"name": "invoice_export", "body": {"day": "2026-03-31"}},
    )

    assert answer.status_code == 200
    assert UUID(answer.json["_id"])
    golden("opendatadsl/triggered", {**answer.json, "_id": "…"})


def test_the_documents_have_every_member_that_is_shown(reference_client: FlaskClient) -> None:
    log = reference_client.get(f"{ROOT}/{reference_tenant.RUN}").json

    assert set(log) <= set(responses.Execution().fields)
    assert set(log["phases"][0]) == set(responses.Phase().fields)
    document = reference_client.get("/openapi/opendatadsl.json").json
    parameters = document["paths"]["/api/process-exec/v1"]["get"]["parameters"]
    assert {"_filter", "_search", "_limit"} <= {each["name"] for each in parameters}


@pytest.mark.row("`GET /v1/{key}` of an unknown execution: 404 with `x-odsl-error`")
def test_an_unknown_execution_is_refused_as_published(reference_client: FlaskClient) -> None:
    answer = reference_client.get(f"{ROOT}/5f0c0000-0000-4000-8000-000000000000")

    assert refused(answer) == 404
    assert answer.text == "Not Found"
    message = "[1004] No process execution with id 5f0c0000-0000-4000-8000-000000000000"
    assert answer.headers["x-odsl-error"] == message
