"""Every state of a run and of a step has a word."""

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from orchestrator.db.database import Database
from orchestrator.states import RunState, StepState
from tests.contracts.adapters.solvexia import ADAPTER, RUNS
from tests.contracts.solvexia.helpers import LOAD, RUN, status_of
from tests.support.factories import a_run

OF_RUN = {
    "pending": "Scheduled",
    "queued": "Scheduled",
    "running": "Running",
    "cancelling": "Cancelled",
    "succeeded": "Finished",
    "failed": "Finished",
    "timed_out": "TimedOut",
    "cancelled": "Cancelled",
}
OF_STEP = {
    "pending": "NotStarted",
    "queued": "Scheduled",
    "running": "Running",
    "waiting": "Scheduled",
    "succeeded": "Success",
    "failed": "Failed",
    "skipped": "Skipped",
    "cancelled": "Cancelled",
}


@pytest.mark.row("`status` of runs and steps")
@pytest.mark.parametrize("table", ["runs", "steps"])
def test_every_state_has_a_word(
    client: FlaskClient, database: Database, engine: Engine, table: str
) -> None:
    run = a_run(database)
    wire_id = f"pr-{run.number}"
    words = {}
    for state in RunState if table == "runs" else StepState:
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE {table} SET state = :state"), {"state": state.value})
        steps = ADAPTER.steps(client, run.tenant_id, wire_id) or {}
        words[state.value] = status_of(client, wire_id) if table == "runs" else steps["s1"]

    assert words == (OF_RUN if table == "runs" else OF_STEP)


def test_a_step_that_warned_ends_with_a_warning(reference_client: FlaskClient) -> None:
    status = reference_client.get(f"{RUNS}/{RUN}/steps/{LOAD}/runstatus").json

    assert (status["status"], status["completionMessage"]) == ("Warning", "812 rows")
