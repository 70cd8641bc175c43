"""Cancel and retry in every published API: one suite over all five."""

import json
from typing import Any

from flask.testing import FlaskClient

from orchestrator.db.database import Database
from orchestrator.models import Run
from orchestrator.states import FINAL_RUNS, RunState
from tests.contracts.adapter import Adapter
from tests.contracts.runs import newest_run, reference_run
from tests.support.factories import a_claim, a_run, a_spec, the_run


def _started(database: Database, spec: dict[str, Any] | None = None) -> Run:
    """A run whose first step a worker has claimed."""
    run = the_run(database, a_run(database, spec or a_spec(steps=2)))
    first = run.steps[0]
    assert first.task_id
    assert a_claim(database, first.task_id)
    return the_run(database, run)


def test_a_run_that_waits_is_cancelled_at_once(
    adapter: Adapter, ours: FlaskClient, database: Database
) -> None:
    run = a_run(database, a_spec(steps=2), window=0)
    answer = adapter.cancel(ours, run.tenant_id, adapter.wire_id(run))

    if answer is None:
        return
    assert answer.status_code == 200, answer.text
    assert the_run(database, run).state == RunState.CANCELLED
    read = adapter.read(ours, run.tenant_id, adapter.wire_id(run))
    assert adapter.state_in(read) == adapter.states[RunState.CANCELLED]


def test_a_running_run_is_cancelled_and_twice_is_harmless(
    adapter: Adapter, ours: FlaskClient, database: Database
) -> None:
    run = _started(database)
    for _ in range(2):
        answer = adapter.cancel(ours, run.tenant_id, adapter.wire_id(run))
        if answer is not None:
            assert answer.status_code == 200, answer.text
            assert the_run(database, run).state == RunState.CANCELLING
            read = adapter.read(ours, run.tenant_id, adapter.wire_id(run))
            assert adapter.state_in(read) == adapter.states[RunState.CANCELLING]


def test_a_run_that_has_ended_is_not_cancelled(
    adapter: Adapter, reference_client: FlaskClient, database: Database
) -> None:
    for name in ("succeeded", "failed"):
        run = reference_run(database, name)
        answer = adapter.cancel(reference_client, run.tenant_id, adapter.wire_id(run))
        if answer is not None and adapter.name != "mage":  # there it is a silent no-op
            assert adapter.refusal(answer) in (400, 409)
        assert reference_run(database, name).state == name


def test_a_failed_run_is_tried_again(
    adapter: Adapter, reference_client: FlaskClient, database: Database
) -> None:
    run = reference_run(database, "failed")
    answer = adapter.retry(reference_client, run.tenant_id, adapter.wire_id(run))

    if answer is None:
        return
    assert answer.status_code == 200, answer.text
    assert not json.loads(answer.text).get("error"), answer.text
    newest = newest_run(database)
    again = newest if newest.retry_of == run.id else reference_run(database, "failed")
    assert again.state not in FINAL_RUNS
