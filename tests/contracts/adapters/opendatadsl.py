"""The adapter of the conformance suite to OpenDataDSL's API."""

import re
from typing import ClassVar

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.contracts.opendatadsl.vocabulary import STATES, STEP_STATES
from orchestrator.models import Run
from orchestrator.states import StepState

ROOT = "/api/process-exec/v1"


def refused(answer: TestResponse) -> int:
    """The status of a refusal in the published form: a phrase as text, and why in a header."""
    assert answer.status_code >= 400
    assert answer.headers["Content-Type"] == "text/plain"
    assert answer.text == answer.status.partition(" ")[2].title().replace("Uri", "URI")
    code = (
        answer.status_code - 400 + 1000
        if answer.status_code < 500
        else answer.status_code - 500 + 5000
    )
    header = answer.headers["x-odsl-error"]
    assert re.fullmatch(rf"\[{code}\] \S.*", header), header
    return answer.status_code


class OpenDataDSL:
    """Executions by the id of the run, processes by the name of the workflow."""

    name = "opendatadsl"
    states = STATES
    # A phase shows once its step has begun.
    step_states: ClassVar = {
        state: STEP_STATES[StepState(state)] for state in ("running", "succeeded", "failed")
    }
    unknown_id = "5f0c0000-0000-4000-8000-000000000000"
    malformed_ids = ("6090915ad6a48d0b3c4f663d", "no id", "#ECB:FX.x", "5f0c0000", "0", "a/b")

    def credentials(self, key):
        return {"x-odsl-email": "ana.ruiz", "x-odsl-key": key}

    def submit(self, client: FlaskClient, tenant_id, workflow: str) -> TestResponse:
        return client.post(ROOT, json={"name": workflow})

    def submitted_id(self, answer: TestResponse) -> str:
        return answer.json["_id"]

    def wire_id(self, run: Run) -> str:
        return str(run.id)

    def read(self, client: FlaskClient, tenant_id, wire_id: str) -> TestResponse:
        return client.get(f"{ROOT}/private/{wire_id.replace('#', '%23')}")

    def state_in(self, answer: TestResponse) -> str:
        return answer.json["status"]

    def page(self, client: FlaskClient, tenant_id, *, limit, offset, workflow) -> TestResponse:
        query = {"name": workflow, "_limit": limit, "_skip": offset}
        return client.get(ROOT, query_string=query)

    def ids_in(self, answer: TestResponse) -> list[str]:
        return [each["_id"] for each in answer.json]

    def total_in(self, answer: TestResponse) -> int:
        return int(answer.headers["x-total-count"])

    def of_state(self, client: FlaskClient, tenant_id, wire: str) -> TestResponse:
        return client.get(f"{ROOT}/private", query_string={"status": wire})

    def cancel(self, client: FlaskClient, tenant_id, wire_id: str) -> None:
        return None

    def retry(self, client: FlaskClient, tenant_id, wire_id: str) -> None:
        return None

    def steps(self, client: FlaskClient, tenant_id, wire_id: str) -> dict[str, str]:
        execution = self.read(client, tenant_id, wire_id).json
        return {phase["name"]: phase["status"] for phase in execution["phases"]}

    def refusal(self, answer: TestResponse) -> int:
        return refused(answer)


ADAPTER = OpenDataDSL()
