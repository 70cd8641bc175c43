"""The addresses that only the published SDK calls."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from mindzie_api.models.execution import ExecutionHistory, ExecutionQueueItem, ExecutionStatus
from sqlalchemy import Engine, text

from orchestrator.db.database import Database
from orchestrator.states import RunState
from tests.contracts.adapters.mindzie import body_of
from tests.contracts.mindzie.helpers import JOBS, NOBODY, fields_of, listed, refused
from tests.support import reference_tenant
from tests.support.factories import a_run

WORDS = {
    RunState.PENDING: "Pending",
    RunState.QUEUED: "Queued",
    RunState.RUNNING: "InProgress",
    RunState.CANCELLING: "InProgress",
    RunState.SUCCEEDED: "Completed",
    RunState.FAILED: "Failed",
    RunState.TIMED_OUT: "Timeout",
    RunState.CANCELLED: "Cancelled",
}


@pytest.mark.row("mindzie-api 2.0.0 get_status: the words and members of the SDK")
def test_every_state_is_a_status_of_the_sdk(reference_client: FlaskClient, engine: Engine) -> None:
    run = reference_tenant.RUNS["running"]
    for state, word in WORDS.items():
        with engine.begin() as connection:
            change = text("UPDATE runs SET state = :state WHERE id = :id")
            connection.execute(change, {"state": state, "id": run})

        body = body_of(reference_client.get(f"{JOBS}/status/{run}"))

        status = ExecutionStatus(**body)
        assert (status.execution_id, status.status) == (str(run), word)
        assert 0 <= (status.progress_percentage or 0) <= 100
        assert status.current_step
        assert bool(status.messages) or word not in ("Failed", "Timeout")


@pytest.mark.row("mindzie-api 2.0.0 get_history: what has ended, newest first")
def test_the_history_has_what_ended(reference_client: FlaskClient) -> None:
    body = body_of(reference_client.get(f"{JOBS}/history"))

    ended = [ExecutionHistory(**each) for each in body["Executions"]]
    assert [each.status for each in ended] == ["Cancelled", "Failed", "Completed"]
    assert (body["TotalCount"], body["Page"], body["PageSize"]) == (3, 1, 50)
    assert ended[1].error_message == "HTTP 503 from target"
    assert all(each.end_time and each.duration_ms is not None for each in ended)
    second = body_of(reference_client.get(f"{JOBS}/history?page=2&pageSize=2"))
    assert [each["Status"] for each in second["Executions"]] == ["Completed"]
    assert second["TotalCount"] == 3
    assert body_of(reference_client.get(f"{JOBS}/history?pageSize=1000"))["PageSize"] == 100
    assert fields_of(reference_client.get(f"{JOBS}/history?page=0")) == ["/query/page"]


def test_a_repeated_post_queues_no_second_execution(
    client: FlaskClient, jobs: str, database: Database
) -> None:
    workflow = a_run(database).workflow_id
    before = len(listed(client, jobs))

    def queue(what: str, **headers: str) -> ExecutionQueueItem:
        answer = client.post(f"{jobs}/queue/{what}/{workflow}", headers=headers)
        return ExecutionQueueItem(**body_of(answer))

    same = {queue("notebook").execution_id for _ in range(2)}
    other = queue("investigation")
    keyed = queue("notebook", **{"Idempotency-Key": "mine"})

    assert len({*same, other.execution_id, keyed.execution_id}) == 3
    assert len(listed(client, jobs)) == before + 3
    assert (other.resource_type, other.resource_id) == ("Investigation", str(workflow))
    assert listed(client, jobs, jobType="Notebook") == [keyed.execution_id, *same]


def test_what_is_no_execution_is_refused_as_a_job_is(
    client: FlaskClient, reference_client: FlaskClient, jobs: str
) -> None:
    calls: list[tuple[str, str, int]] = [
        ("GET", f"{jobs}/status/{NOBODY}", 404),
        ("DELETE", f"{jobs}/queue/{NOBODY}", 404),
        ("POST", f"{jobs}/queue/notebook/{NOBODY}", 404),
        ("POST", f"{jobs}/queue/investigation/{NOBODY}", 404),
        ("GET", f"{jobs}/status/17", 400),
        ("DELETE", f"{jobs}/queue/17", 400),
        ("POST", f"{jobs}/queue/notebook/17", 400),
        ("POST", f"{jobs}/queue/workbook/{NOBODY}", 404),
        ("PUT", f"{jobs}/queue/{NOBODY}", 405),
    ]
    for method, path, status in calls:
        answer: Any = client.open(path, method=method)
        assert refused(answer)[0] == status, (method, path)
    ended = reference_tenant.RUNS["succeeded"]
    status, body = refused(reference_client.delete(f"{JOBS}/queue/{ended}"))
    assert (status, body["code"], body["jobId"]) == (409, "job_not_cancellable", str(ended))
