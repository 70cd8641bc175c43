"""The exact body of every address, for the reference tenant."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.contracts.adapters.solvexia import PROCESSES, RUNS
from tests.contracts.conftest import Golden
from tests.contracts.solvexia.helpers import LOAD, PUSH, RUN, V1, steps_of

PROCESS_STEP = 9_000_000_000_000 + 9001 * 10_000
SHOWN = {
    "processrun": f"{RUNS}/{RUN}",
    "processrun_pending": f"{RUNS}/pr-1250",
    "runstatus_succeeded": f"{RUNS}/pr-1248/runstatus",
    "runstatus_failed": f"{RUNS}/{RUN}/runstatus",
    "runstatus_pending": f"{RUNS}/pr-1250/runstatus",
    "runstatus_cancelled": f"{RUNS}/pr-1252/runstatus",
    "processrun_steps": f"{RUNS}/{RUN}/steps",
    "step_runstatus_warning": f"{RUNS}/{RUN}/steps/{LOAD}/runstatus",
    "step_runstatus_failed": f"{RUNS}/{RUN}/steps/{PUSH}/runstatus",
    "step_runstatus_skipped": f"{RUNS}/{RUN}/steps/as-12492/runstatus",
    "processes": PROCESSES,
    "process": f"{PROCESSES}/p-9001",
    "process_processruns": f"{PROCESSES}/p-9001/processruns",
    "process_steps": f"{PROCESSES}/p-9001/steps",
    "step": f"{V1}/steps/ds-12490",
    "step_of_process": f"{V1}/steps/ds-{PROCESS_STEP + 1}",
    "step_properties": f"{V1}/steps/ds-12490/properties",
    "step_properties_of_process": f"{V1}/steps/ds-{PROCESS_STEP}/properties",
    "step_property": f"{V1}/steps/ds-12490/properties/dsprop-12490000",
    "file_metadata": f"{V1}/files/f-501/metadata",
    "logs": f"{V1}/logs",
    "logs_between": f"{V1}/logs?startDate=2026-04-02T08:00:12Z&endDate=2026-04-02T08:00:41Z",
}
DATES = ("dateModified", "dateCreated", "dateStarted", "dateFinished")


@pytest.mark.row(
    "`GET processruns/{id}`, `…/runstatus`, `…/steps`, `…/steps/{id}/runstatus`: the exact bodies"
)
def test_the_reference_tenant_is_shown_as_published(
    reference_client: FlaskClient, golden: Golden
) -> None:
    for name, path in SHOWN.items():
        answer = reference_client.get(path)
        assert answer.status_code == 200, (path, answer.json)
        golden(f"solvexia/{name}", answer.json)


@pytest.mark.row("`POST …/start`, `…/cancel`, `requests`, `…/restartfromhere`: the exact bodies")
def test_what_depends_on_now_is_shown_as_published(
    reference_client: FlaskClient, golden: Golden
) -> None:
    made = reference_client.post(f"{PROCESSES}/p-9001/processruns")
    n, run_name = made.json["id"].removeprefix("pr-"), made.json["name"]

    def compare(name: str, answer: Any) -> None:
        assert answer.status_code == 200, answer.json
        body = {key: _placed(key, value, n, run_name) for key, value in answer.json.items()}
        golden(f"solvexia/{name}", body)

    compare("create", made)
    path = f"{V1}/steps/{steps_of(reference_client, f'pr-{n}')[0]}/properties"
    day = reference_client.get(path).json[0]["id"]
    compare("set_property", reference_client.post(f"{path}/{day}", json={"value": "2026-04-03"}))
    compare("start", reference_client.post(f"{RUNS}/pr-{n}/start"))
    cancel = {"request": "ProcessRun_CancelRq", "processRunId": f"pr-{n}"}
    compare("requests", reference_client.post(f"{V1}/requests", json=cancel))
    compare("cancel", reference_client.post(f"{RUNS}/pr-{n}/cancel"))
    compare("runstatus_running", reference_client.get(f"{RUNS}/pr-1251/runstatus"))
    compare("restartfromhere", reference_client.post(f"{RUNS}/{RUN}/steps/{PUSH}/restartfromhere"))


def _placed(key: str, value: Any, n: str, name: str) -> Any:
    """The value, or its place for one that no two tests have alike."""
    if key.startswith("runDuration") and value:
        return "<seconds>"
    if key in DATES and isinstance(value, str) and value > "2026-05":
        return "<now>"
    places = {f"pr-{n}": "pr-<n>", name: f"{name.rpartition('#')[0]}#<n>"}
    return places.get(str(value), "dsprop-<n>" if str(value).startswith("dsprop-") else value)
