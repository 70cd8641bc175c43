"""The published document of pipeline runs: its calls in their order, as curl sends them."""

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from orchestrator.db.database import Database
from orchestrator.engine.outcomes import Succeeded
from tests.contracts.mage.helpers import (
    MOMENT,
    a_trigger,
    address,
    answered,
    play,
    shown,
    started,
    the_schedule,
)
from tests.support.factories import KEY
from tests.support.schedule_factories import miss, sweep

FORM = "application/x-www-form-urlencoded"  # what `curl --data` says that it sends
RUN = {
    "backfill_id", "completed_at", "created_at", "event_variables", "execution_date", "id",
    "metrics", "passed_sla", "pipeline_schedule_id", "pipeline_uuid", "status", "updated_at",
    "variables",
}  # fmt: skip
LISTED = RUN | {
    "block_runs", "block_runs_count", "pipeline_schedule_name", "pipeline_schedule_token",
    "pipeline_schedule_type",
}  # fmt: skip
BLOCK = {
    "block_uuid", "completed_at", "created_at", "id", "metrics", "pipeline_run_id", "started_at",
    "status", "updated_at",
}  # fmt: skip
MOMENTS = ("created_at", "updated_at", "execution_date")


def _by_clock(client: FlaskClient, database: Database, **members: Any) -> dict[str, Any]:
    """A run of a trigger of type time, which the scheduler started."""
    times = {"schedule_type": "time", "schedule_interval": "@hourly"}
    trigger = a_trigger(client, database, **times, **members)
    miss(database, the_schedule(database, trigger["id"]))
    assert sweep(database) == 1
    path = f"/api/pipeline_schedules/{trigger['id']}/pipeline_runs"
    (run,) = answered(client.get(path))["pipeline_runs"]
    return dict(run)


@pytest.mark.row("Pipeline run object: all of its fields, of the published types")
def test_the_published_object(client: FlaskClient, database: Database) -> None:
    trigger = a_trigger(client, database)
    number = started(client, trigger)["id"]
    play(database, number, *[Succeeded()] * 3)

    path = f"/api/pipeline_schedules/{trigger['id']}/pipeline_runs"
    (run,) = answered(client.get(path))["pipeline_runs"]

    assert set(run) >= LISTED
    assert (run["status"], run["passed_sla"], run["block_runs_count"]) == ("completed", False, 3)
    assert all(MOMENT.fullmatch(run[name]) for name in (*MOMENTS, "completed_at"))
    for block in run["block_runs"]:
        assert set(block) == BLOCK
        assert (block["status"], block["pipeline_run_id"]) == ("completed", number)
        assert all(MOMENT.fullmatch(block[name]) for name in ("started_at", "completed_at"))


@pytest.mark.row("`variables`, `event_variables`: null in a run of a time trigger that sets none")
def test_a_run_by_the_clock_has_no_variables(client: FlaskClient, database: Database) -> None:
    run = _by_clock(client, database)

    assert (run["variables"], run["event_variables"]) == (None, None)
    assert run["pipeline_schedule_type"] == "time"
    detail = shown(client, run["id"])
    assert (detail["variables"], detail["event_variables"]) == (None, None)


@pytest.mark.row("`variables`: of a run of a time trigger, those that the trigger sets")
def test_a_run_by_the_clock_has_the_variables_of_its_trigger(
    client: FlaskClient, database: Database
) -> None:
    run = _by_clock(client, database, variables={"env": "dev"})

    assert (run["variables"], run["event_variables"]) == ({"env": "dev"}, None)


@pytest.mark.row("GET /api/pipeline_schedules/:id/pipeline_runs: as in curl, with key and Bearer")
def test_the_published_list(client: FlaskClient, database: Database, nobody: FlaskClient) -> None:
    trigger = a_trigger(client, database)
    made = [started(client, trigger)["id"] for _ in range(3)][::-1]
    path = f"/api/pipeline_schedules/{trigger['id']}/pipeline_runs"

    def page(**query: Any) -> Any:
        headers = {"Authorization": f"Bearer {KEY}"}
        return nobody.get(path, query_string={"api_key": KEY, **query}, headers=headers).json

    everything = page()
    assert [run["id"] for run in everything["pipeline_runs"]] == made
    assert everything["metadata"] == {"count": 3, "next": False}
    first, second = page(_limit=2), page(_limit=2, _offset=2)
    assert (first["metadata"]["next"], second["metadata"]["next"]) == (True, False)
    assert [run["id"] for run in first["pipeline_runs"] + second["pipeline_runs"]] == made


@pytest.mark.row("POST /api/pipeline_schedules/:id/pipeline_runs/:token: as in curl, no key")
def test_the_published_trigger(
    client: FlaskClient, database: Database, nobody: FlaskClient
) -> None:
    body = '{\n"env": "dev",\n"test": 1\n}'

    reply = nobody.post(address(a_trigger(client, database)), data=body, content_type=FORM)

    run = answered(reply)["pipeline_run"]
    assert set(run) >= RUN
    assert all(MOMENT.fullmatch(run[name]) for name in MOMENTS)
    assert (run["status"], run["completed_at"], run["passed_sla"]) == ("running", None, False)
    assert (run["variables"], run["event_variables"]) == ({}, {"env": "dev", "test": 1})
    assert (run["metrics"], run["backfill_id"]) == (None, None)


@pytest.mark.row("POST /api/sessions, then GET /api/pipelines with its token: as in the overview")
def test_the_published_session(
    client: FlaskClient, database: Database, nobody: FlaskClient
) -> None:
    a_trigger(client, database)
    body = {"session": {"email": "admin@admin.com", "password": KEY}}

    session = answered(
        nobody.post("/api/sessions", data=json.dumps(body), headers={"X-API-KEY": KEY})
    )["session"]

    assert MOMENT.fullmatch(session["expires"])
    assert isinstance(session["user"]["id"], int)
    cookie = {"Cookie": f"oauth_token={session['token']}"}
    pipelines = answered(nobody.get("/api/pipelines", headers=cookie))["pipelines"]
    assert [each["uuid"] for each in pipelines] == ["invoice_export"]
    header = {"OAUTH-TOKEN": session["token"]}
    assert answered(nobody.get("/api/pipelines/invoice_export", headers=header))["pipeline"]
