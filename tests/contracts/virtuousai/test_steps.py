"""VirtuousAI's automation runs: steps."""

from uuid import UUID, uuid5

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from orchestrator.db.database import Database
from orchestrator.engine.outcomes import Succeeded
from orchestrator.states import StepState
from tests.contracts.adapters.virtuousai import ADAPTER, RUNS, body_of
from tests.contracts.virtuousai.helpers import NOBODY, a_failed_run, end_step
from tests.support.factories import a_run, a_spec

STATE = "UPDATE steps SET state = :state WHERE run_id = :id AND position = :position"


def test_a_step_shows_its_attempt_and_what_it_gave(client: FlaskClient, database: Database) -> None:
    run = a_failed_run(database)

    first, second, third = body_of(client.get(f"{RUNS}/{run.id}/steps"))["steps"]

    assert first["result"] == {"rows": 812}
    assert first["actionRunId"] == str(uuid5(run.steps[0].id, "1"))
    assert second["error"] == {
        "type": "HTTPError", "message": "HTTP 503 from target", "stepKey": "s2",
    }  # fmt: skip
    assert (third["actionRunId"], third["dependsOn"]) == (None, ["s2"])


def test_a_result_is_an_object_of_at_most_64_kib(client: FlaskClient, database: Database) -> None:
    for result, *shown in [
        (None, None, False),
        ([1, 2], {"value": [1, 2]}, False),
        ("text", {"value": "text"}, False),
        ({}, {}, False),
        ({"a": "x" * (64 * 1024 - 8)}, {"a": "x" * (64 * 1024 - 8)}, False),  # 64 KiB as JSON
        ({"a": "x" * (64 * 1024 - 7)}, {}, True),
        ({"a": 1, "b": "é" * 40_000, "c": 2}, {"a": 1}, True),
        ("x" * 70_000, {}, True),
    ]:
        run = a_run(database)
        end_step(database, run, "s1", Succeeded(result))
        (step,) = body_of(client.get(f"{RUNS}/{run.id}/steps"))["steps"]
        assert [step["result"], step["resultTruncated"]] == shown


def test_a_result_that_is_a_file_is_truncated(client: FlaskClient, database: Database) -> None:
    run = a_run(database)
    end_step(database, run, "s1", Succeeded(None, text="{}", artifact=UUID(NOBODY)))

    (step,) = body_of(client.get(f"{RUNS}/{run.id}/steps"))["steps"]

    assert (step["result"], step["resultTruncated"]) == (None, True)


@pytest.mark.row("VirtuousAI GET automation-runs/{id}/steps: status and the four counters")
def test_each_step_state_has_its_word_and_its_counter(
    client: FlaskClient, database: Database, engine: Engine
) -> None:
    run = a_run(database, a_spec(steps=len(StepState)), start=False)
    with engine.begin() as connection:
        for position, state in enumerate(StepState, start=1):
            params = {"id": run.id, "state": state, "position": position}
            connection.execute(text(STATE), params)

    body = body_of(client.get(f"{RUNS}/{run.id}/steps"))

    assert [step["status"] for step in body["steps"]] == [
        "pending", "queued", "running", "pending", "completed", "failed", "skipped", "cancelled",
    ]  # fmt: skip
    counted = {name: count for name, count in body.items() if name.endswith("Count")}
    assert counted == {
        "completedCount": 1, "failedCount": 1, "pendingCount": 3, "runningCount": 1,
    }  # fmt: skip


def test_a_step_that_is_disabled_is_skipped_also_when_all_is_run_again(
    client: FlaskClient, database: Database
) -> None:
    steps = [{"key": "on", "uses": "noop"}, {"key": "off", "uses": "noop", "enabled": False}]
    run = a_run(database, {"name": "half", "steps": steps})
    end_step(database, run, "on", Succeeded({}))

    ended = body_of(client.get(f"{RUNS}/{run.id}"))["status"]
    body_of(client.post(f"{RUNS}/{run.id}/retry", json={"mode": "full"}))

    shown = body_of(client.get(f"{RUNS}/{run.id}/steps"))["steps"]
    assert (ended, [step["status"] for step in shown]) == ("completed", ["queued", "skipped"])
    refused = client.post(f"{RUNS}/{run.id}/retry", json={"mode": "from_step", "stepKey": "off"})
    assert ADAPTER.refusal(refused) == 409
