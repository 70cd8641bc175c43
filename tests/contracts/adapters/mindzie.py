"""The adapter of the conformance suite to Mindzie's API."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from orchestrator.access import tenants
from orchestrator.models import Run
from orchestrator.states import RunState

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


class MindzieAdapter:
    """Jobs of the tenant's first project."""

    name = "mindzie"
    states: Mapping[RunState, str] = {
        RunState(core): wire
        for wire, all_of_them in {
            "Queued": "pending queued",
            "Running": "running cancelling",
            "Completed": "succeeded",
            "Failed": "failed timed_out",
            "Cancelled": "cancelled",
        }.items()
        for core in all_of_them.split()
    }
    step_states: Mapping[str, str] = {}  # steps show only as a stage
    unknown_id = "01a201d7-4de9-70d3-85c2-4ae3f02dab80"
    malformed_ids: Sequence[str] = ("17", "run-1", f"{unknown_id}0", "zz" + unknown_id[2:])

    def credentials(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def submit(self, client: FlaskClient, tenant_id: UUID, workflow: str) -> TestResponse:
        resource = {"resourceType": "Pipeline", "resourceId": workflow}
        body = {"jobName": workflow, "jobType": "Analysis", "resource": resource}
        # Without it, the same words would soon afterwards mean the same job.
        headers = {"Idempotency-Key": str(uuid4())}
        return client.post(f"{place(client, tenant_id)}/job", json=body, headers=headers)

    def submitted_id(self, answer: TestResponse) -> str:
        return str(body_of(answer)["jobId"])

    def wire_id(self, run: Run) -> str:
        return str(run.id)

    def read(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> TestResponse:
        return client.get(f"{place(client, tenant_id)}/job/{wire_id}")

    def state_in(self, answer: TestResponse) -> str:
        return str(body_of(answer)["status"])

    def page(
        self, client: FlaskClient, tenant_id: UUID, *, limit: int, offset: int, workflow: str
    ) -> TestResponse:
        assert offset % limit == 0, "there are only whole pages"
        query = {"page": offset // limit + 1, "pageSize": limit}
        return client.get(f"{place(client, tenant_id)}/jobs", query_string=query)

    def ids_in(self, answer: TestResponse) -> list[str]:
        return [job["jobId"] for job in body_of(answer)["jobs"]]

    def total_in(self, answer: TestResponse) -> int | None:
        return int(body_of(answer)["summary"]["totalJobs"])

    def of_state(self, client: FlaskClient, tenant_id: UUID, wire: str) -> TestResponse | None:
        return client.get(f"{place(client, tenant_id)}/jobs", query_string={"status": wire})

    def cancel(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> TestResponse | None:
        return client.delete(f"{place(client, tenant_id)}/job/{wire_id}")

    def retry(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> TestResponse | None:
        return client.post(f"{place(client, tenant_id)}/job/{wire_id}/retry")

    def steps(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> dict[str, str] | None:
        return None

    def refusal(self, answer: TestResponse) -> int:
        body = answer.json
        assert isinstance(body, dict)
        assert [name for name in body if name != "jobId"] == [
            "error", "code", "details", "timestamp", "requestId",
        ]  # fmt: skip
        assert isinstance(body["error"], str)  # the published SDK joins it with other texts
        assert body["error"]
        assert body["code"]
        assert set(body["details"]) <= {"errors", "status"}
        assert MOMENT.fullmatch(body["timestamp"])
        assert body["requestId"] == answer.headers["X-Request-Id"]
        assert answer.mimetype == "application/json"
        assert answer.status_code >= 400
        assert answer.status_code != 422
        return answer.status_code


ADAPTER = MindzieAdapter()


def body_of(answer: TestResponse) -> dict[str, Any]:
    """The body of an answer that went well."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Request-Id"]
    body: dict[str, Any] = answer.json
    return body


def place(client: FlaskClient, tenant_id: UUID) -> str:
    """Where the jobs of the tenant's first project are."""
    with client.application.extensions["orchestrator"].unscoped_database.transaction() as session:
        return f"/api/{tenant_id}/{tenants.default_project(session, tenant_id)}/execution"
