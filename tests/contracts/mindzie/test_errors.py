"""Errors."""

from http import HTTPStatus
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.contracts.mindzie import CONTRACT
from api.toolkit.problems import Problem
from orchestrator.access import tenants
from orchestrator.db.database import Database
from orchestrator.models import Run
from tests.contracts.adapters.mindzie import ADAPTER, body_of
from tests.contracts.mindzie.helpers import (
    BODY,
    JOBS,
    NOBODY,
    a_job,
    fields_of,
    job,
    listed,
    refused,
    submit,
)
from tests.support.api_keys import a_key, with_key
from tests.support.factories import KEY, a_run

WRONG_JOBS: list[tuple[dict[str, Any], str]] = [
    ({"jobName": None}, "/jobName"),
    ({"jobName": " "}, "/jobName"),
    ({"jobName": 7}, "/jobName"),
    ({"jobName": "x" * 201}, "/jobName"),
    ({"jobName": "a\x00b"}, "/jobName"),
    ({"jobType": "Magic"}, "/jobType"),
    ({"jobType": ["Analysis"]}, "/jobType"),
    ({"priority": "Urgent"}, "/priority"),
    ({"resource": None}, "/resource"),
    ({"resource": {"resourceType": "Pipeline"}}, "/resource/resourceId"),
    ({"parameters": [1]}, "/parameters"),
    ({"scheduling": {"executeImmediately": False}}, "/scheduling/scheduledTime"),
    ({"scheduling": {"scheduledTime": "2030-01-01T00:00:00Z"}}, "/scheduling/scheduledTime"),
    ({"scheduling": {"executeImmediately": "no"}}, "/scheduling/executeImmediately"),
    ({"scheduling": {"timeoutMinutes": 0}}, "/scheduling/timeoutMinutes"),
    ({"scheduling": {"timeoutMinutes": 10**30}}, "/scheduling/timeoutMinutes"),
    ({"notifications": {"emailRecipients": ["nobody"]}}, "/notifications/emailRecipients/0"),
    ({"notifications": {"onFailure": 1}}, "/notifications/onFailure"),
]


NO_KEYS: list[dict[str, str]] = [
    {},
    {"X-API-Key": KEY},
    {"Authorization": f"ApiKey {KEY}"},
    {"Authorization": "Bearer wrong"},
    {"Cookie": f"orchestrator_key={KEY}"},
]


@pytest.mark.row("mindzie POST job: 400 with each mistake")
def test_a_wrong_job_is_refused_with_its_place(client: FlaskClient, jobs: str) -> None:
    for change, field in WRONG_JOBS:
        assert fields_of(client.post(f"{jobs}/job", json=a_job(**change))) == [field], change
    assert listed(client, jobs) == []


def test_parameters_must_fit_the_workflow_and_the_body_must_be_json(
    reference_client: FlaskClient,
) -> None:
    wrong = reference_client.post(f"{JOBS}/job", json=BODY | {"parameters": {"limit": "many"}})
    deep = reference_client.post(f"{JOBS}/job", data="[" * 100_000, content_type="application/json")
    form = reference_client.post(f"{JOBS}/job", data=b"<a/>", content_type="application/xml")

    assert fields_of(wrong) == ["/parameters/limit"]
    assert refused(deep)[0] == 400
    assert refused(form)[0] == 415
    for name, value in (("timeoutMinutes", "long"), ("limit", "many")):
        again = {"modifyParameters": True, "updatedParameters": {name: value}}
        answer = reference_client.post(job("failed", "/retry"), json=again)
        assert fields_of(answer) == [f"/updatedParameters/{name}"]
    assert body_of(reference_client.get(f"{JOBS}/jobs"))["summary"]["totalJobs"] == 5


@pytest.mark.row("mindzie every address: 404 for another project or tenant")
def test_another_project_or_tenant_is_not_to_be_seen(
    client: FlaskClient, jobs: str, database: Database, tenant_id: UUID
) -> None:
    run: Run = a_run(database)
    with database.transaction() as session:
        other = tenants.create_project(session, tenant_id, "elsewhere")
        there = f"/api/{tenant_id}/{other.id}/execution"
    try:
        assert listed(client, there) == []
        assert body_of(client.get(f"{there}/jobs"))["summary"]["totalJobs"] == 0
        for answer in (
            client.get(f"{there}/job/{run.id}"),
            client.delete(f"{there}/job/{run.id}"),
            client.post(f"{there}/job/{run.id}/retry"),
            client.get(f"{there}/job/{run.id}/results"),
            client.get(f"{there}/job/{run.id}/logs"),
            client.post(f"{there}/job", json=a_job()),
            client.post(f"{jobs}/job", json=a_job(resource={
                "resourceType": "Pipeline", "resourceId": NOBODY})),
            client.get(f"{jobs}/job/{NOBODY}"),
            client.get(f"/api/{tenant_id}/{NOBODY}/execution/jobs"),
            client.get(f"/api/{tenant_id}/{NOBODY}/execution/ping"),
            client.get(f"/api/{NOBODY}/{other.id}/execution/jobs"),
            client.get(f"/api/{NOBODY}/execution/system/status"),
            client.get(f"{jobs}/nothing"),
            client.get(f"/api/{tenant_id}/execution/"),
        ):  # fmt: skip
            assert refused(answer)[0] == 404
    finally:
        with database.transaction() as session:
            session.delete(session.merge(other))


@pytest.mark.row("mindzie every address: 401 without a bearer key")
def test_only_a_bearer_key_opens(client: FlaskClient, jobs: str) -> None:
    anyone = client.application.test_client(use_cookies=False)

    for headers in NO_KEYS:
        assert refused(anyone.get(f"{jobs}/jobs", headers=headers))[0] == 401
        assert refused(anyone.get(f"{jobs}/ping", headers=headers))[0] == 401
        assert anyone.get(f"{jobs}/unauthorized-ping", headers=headers).text == "Ping Successful"


@pytest.mark.usefixtures("no_keys_left")
def test_a_key_that_may_not_is_refused(client: FlaskClient, jobs: str, tenant_id: UUID) -> None:
    viewer = with_key(client, a_key(client, "viewer")["key"])
    scoped = with_key(client, a_key(client, scopes=["runs"])["key"])
    job_id = submit(client, jobs)["jobId"]

    assert body_of(viewer.get(f"{jobs}/job/{job_id}"))["status"] == "Queued"
    assert refused(viewer.post(f"{jobs}/job", json=a_job()))[0] == 403
    assert refused(viewer.delete(f"{jobs}/job/{job_id}"))[0] == 403
    assert refused(viewer.post(f"{jobs}/job/{job_id}/retry"))[0] == 403
    assert refused(scoped.get(f"/api/{tenant_id}/execution/system/status"))[0] == 403
    assert body_of(scoped.delete(f"{jobs}/job/{job_id}"))


def test_every_answer_names_its_request(client: FlaskClient, jobs: str) -> None:
    mine = {"X-Request-Id": "mine-1", "X-Tenant-Id": NOBODY, "X-Project-Id": "x"}

    assert client.get(f"{jobs}/jobs", headers=mine).headers["X-Request-Id"] == "mine-1"
    wrong = client.put(f"{jobs}/job", headers={"X-Request-Id": "a b"})
    assert (refused(wrong)[0], wrong.allow.as_set()) == (405, {"options", "post"})
    assert wrong.headers["X-Request-Id"].startswith("req_")


def test_an_id_of_a_wrong_form_is_refused(client: FlaskClient, jobs: str) -> None:
    tenant, project = jobs.split("/")[2:4]

    for wrong in ADAPTER.malformed_ids:
        assert fields_of(client.get(f"{jobs}/job/{wrong}")) == ["/path/jobId"]
        assert fields_of(client.get(f"/api/{tenant}/{wrong}/execution/jobs")) == ["/path/projectId"]
        assert fields_of(client.get(f"/api/{wrong}/{project}/execution/jobs")) == ["/path/tenantId"]


def test_other_addresses_are_not_taken(client: FlaskClient, tenant_id: UUID) -> None:
    for path in ("/api/v1/x/execution/jobs", "/api/v1/execution/system/status"):
        assert client.get(path).json["type"].startswith("urn:orchestrator:problem:")
    assert client.get(f"/api/{NOBODY[:-1]}/executions").mimetype == "application/problem+json"
    for path in (f"/api/{tenant_id}/project", f"/api/{tenant_id}/{NOBODY}/notebook", "/api/ping/x"):
        status, error = refused(client.get(path))
        assert status == 404
        assert "this server has the execution jobs" in error["error"]


def test_a_refusal_keeps_the_headers_that_go_with_it(app: Flask) -> None:
    status = HTTPStatus.TOO_MANY_REQUESTS
    problem = Problem(status=status, code="limit", detail="slow", headers={"Retry-After": "3"})

    with app.test_request_context(JOBS, headers={"X-Request-Id": "mine"}):
        answer = CONTRACT.finish(CONTRACT.render(problem))

    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "3")
    assert answer.headers["X-Request-Id"] == "mine"
