"""VirtuousAI's automation runs: cancel and retry."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
from flask.testing import FlaskClient

from orchestrator import runs
from orchestrator.db.database import Database
from orchestrator.states import RunState
from tests.contracts.adapters.virtuousai import ADAPTER, RUNS, body_of
from tests.contracts.virtuousai.helpers import a_completed_run, a_failed_run, a_running_run
from tests.support.factories import KEY, a_run, a_spec, the_run


def test_a_waiting_run_is_cancelled_at_once(client: FlaskClient, database: Database) -> None:
    run = a_run(database)

    shown = body_of(client.post(f"{RUNS}/{run.id}/cancel", content_type="application/json"))

    assert shown["status"] == "cancelled"
    assert shown["completedAt"] is not None
    again = client.post(f"{RUNS}/{run.id}/cancel")
    assert again.status_code == 409
    assert again.json == {"detail": "Run is already in a terminal state: cancelled"}


def test_a_cancelled_run_is_running_until_its_steps_end_and_cancelling_again_changes_nothing(
    client: FlaskClient, database: Database
) -> None:
    run = a_running_run(database)

    first = body_of(client.post(f"{RUNS}/{run.id}/cancel"))
    before = the_run(database, run)
    second = body_of(client.post(f"{RUNS}/{run.id}/cancel"))

    assert first["status"] == second["status"] == "running"
    after = the_run(database, run)
    assert before.state == RunState.CANCELLING
    assert (after.stop_by, after.event_seq) == (before.stop_by, before.event_seq)


@pytest.mark.row("VirtuousAI POST automation-runs/{id}/retry: from_failed")
def test_a_failed_run_is_retried_in_place(client: FlaskClient, database: Database) -> None:
    for body, again in [
        (None, ["s2", "s3"]),
        ({"mode": "from_failed", "stepKey": "nonsense"}, ["s2", "s3"]),
        ({"mode": "from_step", "stepKey": "s2", "more": 1}, ["s2", "s3"]),
        ({"mode": "from_step", "stepKey": "s1"}, ["s1", "s2", "s3"]),
        ({"mode": "full"}, ["s1", "s2", "s3"]),
    ]:
        run = a_failed_run(database)
        shown = body_of(client.post(f"{RUNS}/{run.id}/retry", json=body))
        assert (shown["id"], shown["status"]) == (str(run.id), "pending")
        cleared = ("startedAt", "completedAt", "error", "durationSeconds")
        assert [shown[name] for name in cleared] == [None] * 4
        assert run.finished_at is not None
        assert datetime.fromisoformat(shown["updatedAt"]) > run.finished_at
        steps = body_of(client.get(f"{RUNS}/{run.id}/steps"))["steps"]
        assert [step["key"] for step in steps if step["status"] != "completed"] == again


def test_a_retry_keeps_the_version_and_the_earlier_attempts(
    client: FlaskClient, database: Database
) -> None:
    run = a_failed_run(database)
    a_run(database, a_spec(steps=1))  # a newer version

    shown = body_of(client.post(f"{RUNS}/{run.id}/retry"))

    assert shown["automationVersionId"] == str(run.version_id)
    with database.transaction() as session:
        assert len(runs.attempts(session, run.steps[1])) == 1


def test_a_cancelled_run_is_retried_and_a_completed_one_only_from_a_step_or_whole(
    client: FlaskClient, database: Database
) -> None:
    cancelled, completed = a_run(database), a_completed_run(database)
    client.post(f"{RUNS}/{cancelled.id}/cancel")

    assert body_of(client.post(f"{RUNS}/{cancelled.id}/retry"))["status"] == "pending"
    assert ADAPTER.refusal(client.post(f"{RUNS}/{completed.id}/retry")) == 409
    body = {"mode": "from_step", "stepKey": "s1"}
    again = client.post(f"{RUNS}/{completed.id}/retry", json=body)
    assert body_of(again)["status"] == "pending"
    unfinished = client.post(f"{RUNS}/{completed.id}/retry", json={"mode": "full"})
    assert ADAPTER.refusal(unfinished) == 409


@pytest.mark.row("VirtuousAI POST automation-runs/{id}/cancel, retry: many at once")
def test_of_many_that_change_a_run_at_once_one_does(
    client: FlaskClient, database: Database
) -> None:
    run = a_failed_run(database)

    def answers(verb: str) -> list[tuple[int, str | None]]:
        def answer(_: int) -> tuple[int, str | None]:
            mine = client.application.test_client()
            response: Any = mine.post(f"{RUNS}/{run.id}/{verb}", headers={"X-API-Key": KEY})
            return response.status_code, response.json.get("detail")

        with ThreadPoolExecutor(3) as many:
            return sorted(many.map(answer, range(3)), key=lambda each: each[0])

    waits = "Run is not in a terminal state yet: pending"
    assert answers("retry") == [(200, None), (409, waits), (409, waits)]
    ended = "Run is already in a terminal state: cancelled"
    assert answers("cancel") == [(200, None), (409, ended), (409, ended)]


def test_a_retry_from_an_unknown_step_lists_the_steps(
    client: FlaskClient, database: Database
) -> None:
    run = a_failed_run(database)
    path = f"{RUNS}/{run.id}/retry"

    unknown: Any = client.post(path, json={"mode": "from_step", "stepKey": "x" * 100_000})
    unmet: Any = client.post(path, json={"mode": "from_step", "stepKey": "s3"})

    assert ADAPTER.refusal(unknown) == 422
    message = "The run has no such step; there are s1, s2, s3"
    assert [each["msg"] for each in unknown.json["detail"]] == [message]
    assert ADAPTER.refusal(unmet) == 409
    assert "'s2', which has no result" in unmet.json["detail"]
    assert the_run(database, run).state == RunState.FAILED
