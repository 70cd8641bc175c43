"""Bodies and addresses of requests, and readers of responses."""

from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.contracts.adapters.mindzie import ADAPTER, body_of
from tests.support import reference_tenant

NOBODY = ADAPTER.unknown_id


BODY = {
    "jobName": "Q1 claims",
    "jobType": "ProcessMining",
    "priority": "High",
    "resource": {"resourceType": "Pipeline", "resourceId": str(reference_tenant.WORKFLOW)},
    "parameters": {"day": "2026-04-01"},
    "scheduling": {"executeImmediately": True, "timeoutMinutes": 90},
}


JOBS = f"/api/{reference_tenant.TENANT}/{reference_tenant.PROJECT}/execution"


def a_job(**more: Any) -> dict[str, Any]:
    """The body of a job that runs the workflow `work`."""
    resource = {"resourceType": "Pipeline", "resourceId": "work"}
    return {"jobName": "Q1", "jobType": "Analysis", "resource": resource, **more}


def job(name: str, more: str = "") -> str:
    """The address of a reference run."""
    return f"{JOBS}/job/{reference_tenant.RUNS[name]}{more}"


def submit(client: FlaskClient, jobs: str, **more: Any) -> dict[str, Any]:
    """Submit a new job, with an idempotency key of its own."""
    key = {"Idempotency-Key": f"{more}{len(listed(client, jobs))}"}
    return body_of(client.post(f"{jobs}/job", json=a_job(**more), headers=key))


def listed(client: FlaskClient, jobs: str, **query: Any) -> list[str]:
    """The ids of the jobs on a page."""
    rows = body_of(client.get(f"{jobs}/jobs", query_string=query))["jobs"]
    return [each["jobId"] for each in rows]


def refused(answer: TestResponse) -> tuple[int, dict[str, Any]]:
    """The status and the body of a refusal in the published form."""
    return ADAPTER.refusal(answer), answer.json


def fields_of(answer: TestResponse) -> list[str]:
    """The fields that a 400 names."""
    status, error = refused(answer)
    assert status == 400, answer.text
    return [each["field"] for each in error["details"]["errors"]]
