"""The adapter of the conformance suite to VirtuousAI's API."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.contracts.virtuousai import vocabulary
from orchestrator.models import Run
from orchestrator.states import RunState

RUNS = "/api/v1/automation-runs"
AUTOMATIONS = "/api/v1/automations"


def body_of(answer: TestResponse) -> Any:
    """The JSON of an answer that went well."""
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return answer.json


class VirtuousAI:
    """The words of this contract."""

    name = "virtuousai"
    states: Mapping[RunState, str] = vocabulary.STATES
    step_states: Mapping[str, str] = vocabulary.STEP_STATES
    unknown_id = "497f6eca-6276-4993-bfeb-53cbbbba6f08"
    malformed_ids: Sequence[str] = ("1", "x", "497f6eca-6276-4993-bfeb-53cbbbba6f0", "pr-12")

    def credentials(self, key: str) -> dict[str, str]:
        return {"X-API-Key": key}

    def submit(self, client: FlaskClient, tenant_id: UUID, workflow: str) -> TestResponse:
        listed = body_of(client.get(AUTOMATIONS, query_string={"limit": 1000}))
        ids = [each["id"] for each in listed["items"] if each["name"] == workflow]
        return client.post(f"{AUTOMATIONS}/{(ids or [self.unknown_id])[0]}/runs")

    def submitted_id(self, answer: TestResponse) -> str:
        return str(body_of(answer)["id"])

    def wire_id(self, run: Run) -> str:
        return str(run.id)

    def read(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> TestResponse:
        return client.get(f"{RUNS}/{wire_id}")

    def state_in(self, answer: TestResponse) -> str:
        return str(body_of(answer)["status"])

    def page(
        self, client: FlaskClient, tenant_id: UUID, *, limit: int, offset: int, workflow: str
    ) -> TestResponse:
        return client.get(RUNS, query_string={"limit": limit, "offset": offset})

    def ids_in(self, answer: TestResponse) -> list[str]:
        return [run["id"] for run in body_of(answer)["items"]]

    def total_in(self, answer: TestResponse) -> int | None:
        return int(body_of(answer)["total"])

    def of_state(self, client: FlaskClient, tenant_id: UUID, wire: str) -> TestResponse | None:
        return client.get(RUNS, query_string={"status": wire})

    def cancel(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> TestResponse | None:
        return client.post(f"{RUNS}/{wire_id}/cancel")

    def retry(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> TestResponse | None:
        return client.post(f"{RUNS}/{wire_id}/retry")

    def steps(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> dict[str, str] | None:
        body = body_of(client.get(f"{RUNS}/{wire_id}/steps"))
        return {step["key"]: step["status"] for step in body["steps"]}

    def refusal(self, answer: TestResponse) -> int:
        """A text, but for 422 a list of what is wrong and where."""
        assert answer.status_code >= 400, answer.get_data(as_text=True)
        assert answer.mimetype == "application/json"
        body: Any = answer.json
        assert list(body) == ["detail"], body
        if answer.status_code != 422:
            assert isinstance(body["detail"], str), body
            assert body["detail"]
            return answer.status_code
        assert body["detail"]
        for mistake in body["detail"]:
            assert sorted(mistake) == ["loc", "msg", "type"], mistake
            assert mistake["loc"][0] in ("path", "query", "body", "header"), mistake
            assert all(isinstance(part, str | int) for part in mistake["loc"]), mistake
            assert mistake["msg"]
            assert mistake["type"].replace("_", "").isalpha(), mistake
        return answer.status_code


ADAPTER = VirtuousAI()
