"""The adapter of the conformance suite to Mage's API."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.contracts.mage.vocabulary import BLOCK_STATES, STATES
from orchestrator.models import Run
from orchestrator.states import RunState

RUNS = "/api/pipeline_runs"
# Refusals with their status in HTTP, too; all others are 200.
_REAL = frozenset({401, 429, 500, 503})


class MageAdapter:
    """Mage's words."""

    name = "mage"
    states: Mapping[RunState, str] = STATES
    step_states: Mapping[str, str] = {**BLOCK_STATES, "skipped": "upstream_failed"}
    unknown_id = "999999999"
    malformed_ids: Sequence[str] = ("nope", "-1", "1.5", "9" * 30, "%F0%9F%92%A5")

    def credentials(self, key: str) -> dict[str, str]:
        return {"X-API-KEY": key}

    def submit(self, client: FlaskClient, tenant_id: UUID, workflow: str) -> TestResponse:
        body = {"pipeline_schedule": {"schedule_type": "api", "status": "active"}}
        made = client.post(f"/api/pipelines/{workflow}/pipeline_schedules", json=body)
        if made.json is None or "pipeline_schedule" not in made.json:
            return made
        trigger = made.json["pipeline_schedule"]
        path = f"/api/pipeline_schedules/{trigger['id']}/pipeline_runs/{trigger['token']}"
        return client.post(path, json={})

    def submitted_id(self, answer: TestResponse) -> str:
        assert answer.json is not None
        return str(answer.json["pipeline_run"]["id"])

    def wire_id(self, run: Run) -> str:
        return str(run.number)

    def read(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> TestResponse:
        return client.get(f"{RUNS}/{wire_id}")

    def state_in(self, answer: TestResponse) -> str:
        assert answer.json is not None
        return str(answer.json["pipeline_run"]["status"])

    def page(
        self, client: FlaskClient, tenant_id: UUID, *, limit: int, offset: int, workflow: str
    ) -> TestResponse:
        query = {"_limit": limit, "_offset": offset, "pipeline_uuid": workflow}
        return client.get(RUNS, query_string=query)

    def ids_in(self, answer: TestResponse) -> list[str]:
        assert answer.json is not None
        return [str(run["id"]) for run in answer.json["pipeline_runs"]]

    def total_in(self, answer: TestResponse) -> int | None:
        assert answer.json is not None
        return int(answer.json["metadata"]["count"])

    def of_state(self, client: FlaskClient, tenant_id: UUID, wire: str) -> TestResponse | None:
        return client.get(RUNS, query_string={"status": wire})

    def cancel(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> TestResponse | None:
        return client.put(f"{RUNS}/{wire_id}", json={"pipeline_run": {"status": "cancelled"}})

    def retry(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> TestResponse | None:
        body = {"pipeline_run": {"pipeline_run_action": "retry_blocks"}}
        return client.put(f"{RUNS}/{wire_id}", json=body)

    def steps(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> dict[str, str] | None:
        answer = self.read(client, tenant_id, wire_id)
        assert answer.json is not None
        blocks = answer.json["pipeline_run"]["block_runs"]
        return {block["block_uuid"]: block["status"] for block in blocks}

    def refusal(self, answer: TestResponse) -> int:
        assert answer.json is not None
        assert answer.content_type == "application/json"
        assert set(answer.json) == {"error", "status"}
        error = answer.json["error"]
        assert set(error) - {"errors"} == {"code", "message", "type"}
        assert isinstance(error["code"], int)
        assert all(isinstance(line, str) for line in error.get("errors", ()))
        assert answer.status_code in (200, error["code"])
        if error["code"] in _REAL:
            assert answer.status_code == error["code"]
        assert answer.json["status"] in (200, answer.status_code)
        return int(error["code"])


ADAPTER = MageAdapter()
