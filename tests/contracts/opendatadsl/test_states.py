"""The execution log of a run in every state and of every kind."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.contracts.opendatadsl.executions import DETAILED
from api.contracts.opendatadsl.vocabulary import STEP_STATES
from orchestrator.db.database import Database
from orchestrator.models import Run
from orchestrator.states import FINAL_RUNS, RunState, StepState
from tests.contracts.adapters.opendatadsl import ADAPTER, ROOT
from tests.contracts.opendatadsl.helpers import execute
from tests.support.factories import a_run, a_spec


def set_state(database: Database, run: Run, state: RunState, **values: Any) -> None:
    columns = {"state": state.value, "id": run.id, **values}
    if state in FINAL_RUNS:
        columns["finished_at"] = datetime.now(UTC)
    assignments = ", ".join(f"{name} = :{name}" for name in columns if name != "id")
    execute(database.engine, f"UPDATE runs SET {assignments} WHERE id = :id", **columns)


@pytest.mark.row("`status` and `message`")
def test_every_state_has_its_word_and_its_message(client: FlaskClient, database: Database) -> None:
    messages = {
        RunState.PENDING: "Waiting for a worker",
        RunState.QUEUED: "Waiting for a worker",
        RunState.RUNNING: "Running",
        RunState.CANCELLING: "Cancelling",
        RunState.SUCCEEDED: "Completed Successfully",
        RunState.FAILED: "Failed",
        RunState.TIMED_OUT: "Timed out: after 5 s",
        RunState.CANCELLED: "Cancelled: no more",
    }
    error = '{"message": "after 5 s"}'
    runs = {state: a_run(database) for state in messages}
    for state, run in runs.items():
        more = {"error": error} if state == RunState.TIMED_OUT else {}
        set_state(database, run, state, cancel_reason="no more", **more)

    listed = {each["_id"]: each for each in client.get(ROOT).json}

    for state, run in runs.items():
        shown = listed[str(run.id)]
        assert (shown["status"], shown["message"]) == (ADAPTER.states[state], messages[state])
    for wire in set(ADAPTER.states.values()):
        ids = {str(run.id) for state, run in runs.items() if ADAPTER.states[state] == wire}
        answer = client.get(f"{ROOT}?status={wire}")
        assert {each["_id"] for each in answer.json} == ids
        assert answer.headers["x-total-count"] == str(len(ids))
        others = client.get(f"{ROOT}?status=ne({wire})&_limit=1")
        assert others.headers["x-total-count"] == str(len(runs) - len(ids))


def test_a_run_with_warnings_ends_with_a_warning(client: FlaskClient, database: Database) -> None:
    for warnings in (0, 3):
        set_state(database, a_run(database), RunState.SUCCEEDED, warnings=warnings)

    for wire in ("success", "warning"):
        answer = client.get(f"{ROOT}?status={wire}&name=work")
        assert [each["status"] for each in answer.json] == [wire]
        assert answer.headers["x-total-count"] == "1"
    for query, total in (
        ("status=in(warning,success)", "2"),
        ("status=ne(warning)", "1"),
        ('_filter={"status":{"$nin":["success","warning"]}}', "0"),
        ("name=in(work, other)&status=warning", "1"),
        ("_filter=(status=failed or status=warning) and name=work", "1"),
    ):
        assert client.get(f"{ROOT}?{query}").headers["x-total-count"] == total, query
    assert client.get(f"{ROOT}?_distinct=status").json == ["success", "warning"]


@pytest.mark.row("`phases`: `name`, `start`, `end`, `status`, `message`, `log`")
def test_a_phase_appears_when_its_step_has_begun(client: FlaskClient, database: Database) -> None:
    run = a_run(database)
    assert client.get(f"{ROOT}/{run.id}").json["phases"] == []
    begun = "UPDATE steps SET state = :state, started_at = now() WHERE run_id = :id"

    for state in StepState:
        execute(database.engine, begun, state=state.value, id=run.id)
        shown = ADAPTER.steps(client, run.tenant_id, str(run.id))
        wire = STEP_STATES.get(state)  # none for one that was skipped
        assert list(shown.values()) == [wire] * (wire is not None)
    (phase,) = client.get(f"{ROOT}/{run.id}").json["phases"]
    assert phase["message"] == "Cancelled s1"


def test_a_tenant_may_ask_for_all_words_of_a_status(
    client: FlaskClient, database: Database
) -> None:
    words = {
        "reschedule": "UPDATE steps SET forgiven = 1 WHERE run_id = :id",
        "retrying": "UPDATE steps SET state = 'running', attempt = 2 WHERE run_id = :id",
        "waiting": "UPDATE steps SET state = 'waiting', attempt = 1 WHERE run_id = :id",
    }
    for word, change in words.items():
        run = a_run(database)
        state = "pending" if word == "reschedule" else "running"
        execute(database.engine, "UPDATE runs SET state = :s WHERE id = :id", s=state, id=run.id)
        execute(database.engine, change, id=run.id)

    plain = {each["status"] for each in client.get(ROOT).json}
    settings = "UPDATE tenants SET settings = CAST(:settings AS jsonb) WHERE name = 'default'"
    execute(database.engine, settings, settings=json.dumps({DETAILED: True}))
    try:
        detailed = {each["status"] for each in client.get(ROOT).json}
        totals = {word: client.get(f"{ROOT}?status={word}").headers["x-total-count"]
                 for word in (*words, "running")}  # fmt: skip
    finally:
        execute(database.engine, settings, settings="{}")

    assert plain == {"triggered", "running"}
    assert detailed == set(words)
    assert totals == {**dict.fromkeys(words, "1"), "running": "0"}


@pytest.mark.row("`trigger` and `reason` of a scheduled execution")
def test_a_run_of_a_schedule_says_so_as_published(client: FlaskClient, database: Database) -> None:
    run = a_run(database, a_spec("ECB_FX"))
    execute(
        database.engine,
        "UPDATE runs SET trigger = 'schedule', reason = 'cron(30 16 * * *)',"
        " logical_date = '2021-07-01T16:30:00Z', submitted_by = 'schedule'",
    )

    log = client.get(f"{ROOT}?trigger=scheduled&reason=regex(^crontab)").json[0]

    assert log["_id"] == str(run.id)
    crontab = "crontab(ECB_FX,Thu Jul 01 2021 16:30:00 GMT+0000 (Greenwich Mean Time))"
    assert log["reason"] == crontab
    assert log["triggerTime"] == "2021-07-01T16:30:00.000Z"
    execute(database.engine, "UPDATE runs SET trigger = 'event', reason = NULL, run_as = NULL")
    log = client.get(f"{ROOT}/{run.id}").json
    assert (log["trigger"], log["reason"], log["runAs"]) == (
        "subscription", "subscription", "schedule",
    )  # fmt: skip
