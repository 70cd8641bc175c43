"""The errors of Mage's API."""

import json
from http import HTTPStatus
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.contracts.mage import errors
from api.toolkit.problems import Problem
from orchestrator.db.database import Database
from tests.contracts.mage.helpers import PIPELINE, RUNS, a_trigger, address, listed, refused
from tests.support.factories import KEY, a_run, a_spec

RECORD_NOT_FOUND = {"code": 404, "message": "Record not found.", "type": "record_not_found"}


@pytest.mark.row("errors: HTTP 200 with `error`; the real code with `_http_error_codes`")
def test_errors_have_real_codes_only_when_asked_for(client: FlaskClient) -> None:
    plain, real = client.get(f"{RUNS}/999999"), client.get(f"{RUNS}/999999?_http_error_codes=1")

    assert (plain.status_code, real.status_code) == (200, 404)
    assert plain.json == {"error": RECORD_NOT_FOUND, "status": 200}
    assert real.json == {"error": RECORD_NOT_FOUND, "status": 404}


def test_an_unknown_address_has_its_status_in_http_too(client: FlaskClient) -> None:
    for method, path, code in (
        ("GET", "/api/pipeline_runs/1/nothing", 404),
        ("GET", "/api/pipelines/x/nothing", 404),
        ("GET", "/api/pipeline_schedules/71/pipeline_runs/0f3b", 405),
        ("POST", "/api/pipeline_runs", 405),
    ):
        reply = client.open(path, method=method)
        refused(reply, code, "record_not_found" if code == 404 else "api_resource_error")
        assert reply.json is not None
        assert (reply.status_code, reply.json["status"]) == (code, code)
        assert ("Allow" in reply.headers) == (code == 405)


@pytest.mark.row("unknown addresses below /api: refused in Mage's form to whoever sends its key")
def test_an_unknown_address_is_refused_in_the_form_of_the_caller(
    client: FlaskClient, nobody: FlaskClient
) -> None:
    for way in (
        {"query_string": {"api_key": KEY}},
        {"headers": {"OAUTH-TOKEN": KEY}},
        {"headers": {"Cookie": f"oauth_token={KEY}"}},
    ):
        for path in ("/api/blocks", "/api/pipelines_x", "/api/nothing/1/at/all", "/api"):
            reply = nobody.get(path, **way)
            refused(reply, 404, "record_not_found")
            assert reply.status_code == 404
    made = nobody.post("/api/blocks", data=json.dumps({"api_key": KEY, "block": {}}))
    refused(made, 404, "record_not_found")
    wrong = nobody.get("/api/blocks?api_key=wrong")
    assert refused(wrong, 401, "invalid_api_key")
    for path in ("/api/v1/nothing?api_key=x", "/nothing?api_key=x"):
        assert client.get(path).content_type == "application/problem+json"
    assert client.get("/api/blocks").content_type == "application/problem+json"


def test_paths_that_only_begin_alike_are_somebody_elses(client: FlaskClient) -> None:
    assert client.get("/api/pipelines_x").content_type == "application/problem+json"


def test_a_payload_that_cannot_be_used_is_refused(
    client: FlaskClient, database: Database, nobody: FlaskClient
) -> None:
    trigger = a_trigger(client, database)

    for body, pointer in (
        ("[]", "/: "),
        ('"x"', "/: "),
        ("{", "/: "),
        ('{"pipeline_run": 1}', "/pipeline_run: "),
        ('{"pipeline_run": {"variables": []}}', "/pipeline_run/variables: "),
        ('{"a": "\\u0000"}', "/a: "),
        ("[" * 100_000, "/: "),
    ):
        reply = nobody.post(address(trigger), data=body)
        assert reply.status_code == 200
        assert reply.json is not None
        assert reply.json["error"]["code"] == 500
        assert reply.json["error"]["errors"][0].startswith(pointer)
    assert listed(client, f"/api/pipeline_schedules/{trigger['id']}/pipeline_runs") == []


def test_variables_that_do_not_fit_are_refused_with_their_place(
    client: FlaskClient, database: Database
) -> None:
    params = {"type": "object", "properties": {"n": {"type": "integer"}}}
    trigger = a_trigger(client, database)
    a_run(database, a_spec(PIPELINE, steps=3, params=params))
    body = {"pipeline_run": {"variables": {"n": "many"}}}

    by_token: Any = client.post(address(trigger), json=body).json
    path = f"/api/pipeline_schedules/{trigger['id']}/pipeline_runs"
    by_key = refused(client.post(path, json=body), 400, "record_invalid")

    for error in (by_token["error"], by_key):
        assert error["errors"][0].startswith("/pipeline_run/variables/n: ")


def test_transient_errors_have_their_status_in_http_too(client: FlaskClient) -> None:
    app, trigger = client.application, "/api/pipeline_schedules/71/pipeline_runs/secret"
    for status in (429, 500, 503):
        problem = Problem(
            status=HTTPStatus(status), code="x", detail="later", headers={"Retry-After": "2"}
        )
        with app.test_request_context(RUNS):
            generic: Any = errors.render(problem)
        with app.test_request_context(trigger, method="POST"):
            of_trigger: Any = errors.render(problem)
        error = {"code": status, "message": "later", "type": "api_resource_error"}
        assert generic.json == {"error": error, "status": status}
        assert of_trigger.json["error"]["code"] == 500
        assert b"secret" not in of_trigger.data
        for reply in (generic, of_trigger):
            assert (reply.status_code, reply.headers["Retry-After"]) == (status, "2")


BAD: list[tuple[str, str, Any]] = [
    ("GET", f"{RUNS}?_limit=-1", None),
    ("GET", f"{RUNS}?_limit=1001", None),
    ("GET", f"{RUNS}?_offset=9999999999999999999999", None),
    ("GET", f"{RUNS}?status=canceled", None),
    ("GET", f"{RUNS}?start_timestamp=yesterday", None),
    ("GET", f"{RUNS}?start_timestamp=nan", None),
    ("GET", f"{RUNS}?end_timestamp=1e300", None),
    ("GET", f"{RUNS}?order_by[]=id down", None),
    ("GET", f"{RUNS}?backfill_id=x", None),
    ("PUT", f"{RUNS}/1", {"pipeline_run": 1}),
    ("PUT", f"{RUNS}/1", {"pipeline_run": {"status": 1}}),
    ("PUT", f"{RUNS}/1", []),
    ("PUT", "/api/pipelines/x", {"pipeline": {"status": "no"}}),
    ("PUT", "/api/pipelines/x", {"pipeline": {"status": "retry", "pipeline_runs": [1] * 101}}),
    ("PUT", "/api/pipelines/x", {"pipeline": {"status": "retry"}}),
    ("POST", "/api/pipeline_schedules/1/pipeline_runs", {"pipeline_run": {"variables": 1}}),
    (
        "POST",
        "/api/pipeline_schedules/1/pipeline_runs",
        {"pipeline_run": {"execution_date": "now"}},
    ),
    ("POST", "/api/pipelines/x/pipeline_schedules", {"pipeline_schedule": {"sla": -1}}),
]


def test_bad_input_is_refused_with_where_and_why(client: FlaskClient) -> None:
    for method, path, body in BAD:
        reply = client.open(path, method=method, json=body)
        assert refused(reply, 400, "record_invalid")["errors"][0].startswith("/")


def test_what_is_no_json_is_refused(client: FlaskClient) -> None:
    (line,) = refused(client.put(f"{RUNS}/1", data="{"), 400, "api_resource_error")["errors"]
    assert line.startswith("/: not JSON: line 1, column 2: ")
    xml = client.put(f"{RUNS}/1", data="<a/>", content_type="application/xml")
    refused(xml, 415, "api_resource_error")
    large = client.put(f"{RUNS}/1", data=b" " * (4 * 1024 * 1024 + 1))
    refused(large, 413, "api_resource_error")
    assert large.status_code == 200
    refused(client.get(f"{RUNS}/a%00b"), 400, "api_resource_error")
