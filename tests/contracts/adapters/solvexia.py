"""The adapter of the conformance suite to SolveXia's API."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.contracts.solvexia.vocabulary import STATES, STEP_STATES
from orchestrator.models import Run
from orchestrator.states import RunState

RUNS = "/api/v1/processruns"
PROCESSES = "/api/v1/processes"


class Solvexia:
    """A run is created, then started; its steps have a status each."""

    name = "solvexia"
    states: Mapping[RunState, str] = STATES
    step_states: Mapping[str, str] = STEP_STATES
    unknown_id = "pr-999999999999"
    malformed_ids: Sequence[str] = ("1", "p-1", "pr-", "pr-0", "pr-x", f"pr-{'9' * 30}")

    def credentials(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def submit(self, client: FlaskClient, tenant_id: UUID, workflow: str) -> TestResponse:
        made = client.post(f"{PROCESSES}/{self._process(client, workflow)}/processruns")
        if made.status_code != 200:
            return made
        return client.post(f"{RUNS}/{made.json['id']}/start")

    def submitted_id(self, answer: TestResponse) -> str:
        return str(answer.json["id"])

    def wire_id(self, run: Run) -> str:
        return f"pr-{run.number}"

    def read(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> TestResponse:
        return client.get(f"{RUNS}/{wire_id}/runstatus")

    def state_in(self, answer: TestResponse) -> str:
        return str(answer.json["status"])

    def page(
        self, client: FlaskClient, tenant_id: UUID, *, limit: int, offset: int, workflow: str
    ) -> TestResponse:
        return client.get(f"{PROCESSES}/{self._process(client, workflow)}/processruns")

    def ids_in(self, answer: TestResponse) -> list[str]:
        return [each["id"] for each in answer.json]

    def total_in(self, answer: TestResponse) -> int | None:
        return None

    def of_state(self, client: FlaskClient, tenant_id: UUID, wire: str) -> TestResponse | None:
        return None

    def cancel(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> TestResponse | None:
        return client.post(f"{RUNS}/{wire_id}/cancel")

    def retry(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> TestResponse | None:
        """From the first step that did not go well, else from the first of all."""
        steps = client.get(f"{RUNS}/{wire_id}/steps")
        if steps.status_code != 200:
            return steps
        good = ("Success", "Warning")
        ids = [each["id"] for each in steps.json]
        bad = [each for each in ids if self._step(client, wire_id, each)["status"] not in good]
        return client.post(f"{RUNS}/{wire_id}/steps/{[*bad, *ids][0]}/restartfromhere")

    def steps(self, client: FlaskClient, tenant_id: UUID, wire_id: str) -> dict[str, str] | None:
        steps = client.get(f"{RUNS}/{wire_id}/steps").json
        return {each["name"]: self._step(client, wire_id, each["id"])["status"] for each in steps}

    def refusal(self, answer: TestResponse) -> int:
        assert answer.content_type == "application/json"
        assert set(answer.json) == {"message", "supportId"}, answer.json
        assert answer.json["message"]
        assert str(UUID(answer.json["supportId"])) == answer.json["supportId"]
        return answer.status_code

    def _process(self, client: FlaskClient, workflow: str) -> str:
        answer = client.get(PROCESSES, query_string={"name": workflow})
        listed = answer.json if answer.status_code == 200 else []
        named = [str(each["id"]) for each in listed if each["name"] == workflow]
        return named[0] if named else "p-999999999999"

    def _step(self, client: FlaskClient, wire_id: str, step_id: str) -> dict[str, Any]:
        status: dict[str, Any] = client.get(f"{RUNS}/{wire_id}/steps/{step_id}/runstatus").json
        return status


ADAPTER = Solvexia()
