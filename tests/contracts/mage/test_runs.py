"""Mage's pipeline runs: shown, listed, cancelled, run again and deleted."""

import json
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import update

from orchestrator import runs
from orchestrator.db.database import Database
from orchestrator.engine.outcomes import Failed, Succeeded
from orchestrator.models import Run
from orchestrator.states import RunState
from tests.contracts.mage.helpers import (
    CANCEL,
    MOMENT,
    PIPELINE,
    RUNS,
    SPEC,
    a_trigger,
    address,
    answered,
    listed,
    play,
    put,
    refused,
    shown,
    started,
)
from tests.support.factories import a_run, a_spec, a_tenant


def test_a_trigger_starts_a_run(
    client: FlaskClient, database: Database, nobody: FlaskClient
) -> None:
    trigger = a_trigger(client, database)
    body = {"pipeline_run": {"variables": {"day": "2026-04-01"}}, "source": "billing"}

    reply = nobody.post(address(trigger), data=json.dumps(body))

    (run,) = answered(reply).values()  # no metadata
    times = [run.pop(name) for name in ("created_at", "updated_at", "execution_date")]
    assert all(MOMENT.fullmatch(time) for time in times)
    assert isinstance(run.pop("id"), int)
    assert run == {
        "pipeline_schedule_id": trigger["id"],
        "pipeline_uuid": PIPELINE,
        "status": "running",
        "started_at": None,
        "completed_at": None,
        "variables": {"day": "2026-04-01"},
        "passed_sla": False,
        "event_variables": {"source": "billing"},
        "metrics": None,
        "backfill_id": None,
        "executor_type": "local_python",
    }


@pytest.mark.row("POST /api/pipeline_schedules/:id/api_trigger: the trigger's token as Bearer")
def test_the_other_trigger_address_takes_the_token_as_bearer(
    client: FlaskClient, database: Database, nobody: FlaskClient
) -> None:
    trigger = a_trigger(client, database)
    path = f"/api/pipeline_schedules/{trigger['id']}/api_trigger"

    reply = nobody.post(path, headers={"Authorization": f"Bearer {trigger['token']}"})

    run = answered(reply)["pipeline_run"]
    assert (run["variables"], run["event_variables"]) == ({}, {})
    wrong: Any = nobody.post(path).json
    assert wrong["url_parameters"] == {"pipeline_schedule_id": str(trigger["id"])}


@pytest.mark.row("GET /api/pipeline_schedules/:id/pipeline_runs: pages, `count` and `next`")
def test_the_runs_of_a_trigger_are_listed(client: FlaskClient, database: Database) -> None:
    trigger = a_trigger(client, database)
    first, second = (started(client, trigger)["id"] for _ in range(2))

    path = f"/api/pipeline_schedules/{trigger['id']}/pipeline_runs"
    page = answered(client.get(path, query_string={"_limit": 1, "_offset": 0}))

    assert page["metadata"] == {"count": 2, "next": True}
    (run,) = page["pipeline_runs"]
    assert run["id"] == second
    assert [block["block_uuid"] for block in run["block_runs"]] == ["s1", "s2", "s3"]
    assert {block["pipeline_run_id"] for block in run["block_runs"]} == {second}
    assert (run["block_runs_count"], run["completed_block_runs_count"]) == (3, 0)
    assert run["pipeline_schedule_name"] == "invoices by API"
    assert run["pipeline_schedule_token"] == trigger["token"]
    assert run["pipeline_schedule_type"] == "api"
    assert listed(client, path, _limit=1, _offset=1) == [first]


@pytest.mark.row("PUT /api/pipeline_runs/:id `cancelled`: nothing happens to a run that has ended")
def test_a_cancel_of_a_finished_run_does_nothing(client: FlaskClient, database: Database) -> None:
    number = started(client, a_trigger(client, database))["id"]
    play(database, number, Succeeded(), Succeeded(), Succeeded())
    before = shown(client, number)
    del before["block_runs"]

    reply = client.put(f"{RUNS}/{number}", json=CANCEL)

    assert answered(reply) == {"pipeline_run": before, "metadata": None}
    assert before["status"] == "completed"
    assert MOMENT.fullmatch(before["completed_at"])


@pytest.mark.row("`status`: `initial`, `running`, `completed`, `failed`, `cancelled`")
def test_every_state_has_its_word(client: FlaskClient, database: Database) -> None:
    number = a_run(database).number
    words = {}
    for state in RunState:
        with database.transaction() as session:
            session.execute(update(Run).where(Run.number == number).values(state=state))
        words[state.value] = shown(client, number)["status"]

    assert words == {
        "pending": "initial",
        "queued": "running",
        "running": "running",
        "succeeded": "completed",
        "failed": "failed",
        "timed_out": "failed",
        "cancelling": "cancelled",
        "cancelled": "cancelled",
    }


@pytest.mark.row("`block_runs`: a `status` of its own for each, and the error in `metrics`")
def test_blocks_tell_how_they_ended(client: FlaskClient, database: Database) -> None:
    spec = {
        "name": "branches",
        "steps": [
            {"key": "load", "uses": "noop"},
            {"key": "fail", "uses": "noop", "needs": ["load"]},
            {"key": "after", "uses": "noop", "needs": ["fail"]},
            {"key": "off", "uses": "noop", "needs": [], "enabled": False},
        ],
    }
    number = a_run(database, spec).number
    failed = Failed("HTTP 503 from target", ("HTTPError",), traceback="Traceback:\n  push()")
    play(database, number, Succeeded(), failed)

    run = shown(client, number)

    assert run["status"] == "failed"
    assert MOMENT.fullmatch(run["completed_at"])
    blocks = {block["block_uuid"]: block for block in run["block_runs"]}
    assert {key: block["status"] for key, block in blocks.items()} == {
        "load": "completed",
        "fail": "failed",
        "after": "upstream_failed",
        "off": "condition_failed",
    }
    assert blocks["load"]["metrics"] is None
    assert blocks["fail"]["metrics"] == {
        "error": {
            "error": "HTTP 503 from target",
            "errors": ["Traceback:", "  push()"],
            "message": "Traceback:\n  push()",
        }
    }
    assert {block["pipeline_schedule_id"] for block in blocks.values()} == {0}


@pytest.mark.row("PUT /api/pipeline_runs/:id `retry_blocks`: the same run goes on")
def test_retry_blocks_runs_again_in_the_same_run(client: FlaskClient, database: Database) -> None:
    number = started(client, a_trigger(client, database))["id"]
    play(database, number, Succeeded(), Failed("no"))

    run = answered(put(client, number, pipeline_run_action="retry_blocks"))["pipeline_run"]

    assert (run["id"], run["status"], run["completed_at"]) == (number, "running", None)
    play(database, number, Succeeded(), Succeeded())
    assert shown(client, number)["status"] == "completed"


@pytest.mark.row("PUT /api/pipeline_runs/:id `from_block_uuid`: that block and all after it")
def test_retry_blocks_of_a_completed_run_needs_a_block(
    client: FlaskClient, database: Database
) -> None:
    number = started(client, a_trigger(client, database))["id"]
    play(database, number, *[Succeeded()] * 3)
    action = {"pipeline_run_action": "retry_blocks"}

    unchanged = answered(put(client, number, **action))["pipeline_run"]
    again = answered(put(client, number, **action, from_block_uuid="s2"))["pipeline_run"]

    assert (unchanged["status"], again["status"]) == ("completed", "running")
    statuses = [block["status"] for block in shown(client, number)["block_runs"]]
    assert statuses == ["completed", "queued", "initial"]
    refused(put(client, number, **action), 400, "api_resource_error")  # it goes on
    play(database, number, *[Succeeded()] * 2)
    unknown = put(client, number, **action, from_block_uuid="nope")
    (line,) = refused(unknown, 400, "record_invalid")["errors"]
    assert line.startswith("/pipeline_run/from_block_uuid: ")


@pytest.mark.row("DELETE /api/pipeline_runs/:id: a run that has ended")
def test_a_run_is_deleted_once_it_has_ended(client: FlaskClient, database: Database) -> None:
    number = a_run(database, SPEC).number
    error = refused(client.delete(f"{RUNS}/{number}"), 400, "api_resource_error")
    assert "cancel it first" in error["message"]
    put(client, number, status="cancelled")

    gone = answered(client.delete(f"{RUNS}/{number}"))

    assert (gone["pipeline_run"]["id"], gone["metadata"]) == (number, None)
    refused(client.get(f"{RUNS}/{number}"), 404, "record_not_found")
    assert answered(client.get(RUNS))["metadata"] == {"count": 0, "next": False}


@pytest.mark.row(
    "GET /api/block_runs, /api/pipeline_runs/:id/block_runs: in the order of the pipeline"
)
def test_block_runs_are_listed(client: FlaskClient, database: Database) -> None:
    number = a_run(database, SPEC).number

    page = answered(client.get(f"{RUNS}/{number}/block_runs?_limit=2"))
    other = answered(client.get(f"/api/block_runs?pipeline_run_id={number}&_offset=2"))

    assert page["metadata"] == {"count": 3, "next": True}
    assert other["metadata"] == {"count": 3, "next": False}
    blocks = [*page["block_runs"], *other["block_runs"]]
    assert [block["block_uuid"] for block in blocks] == ["s1", "s2", "s3"]
    refused(client.get("/api/block_runs"), 400, "record_invalid")


@pytest.mark.row("event_variables: reach every block where no variable has their name")
def test_a_free_body_gives_variables_that_nothing_else_gives(
    client: FlaskClient, database: Database
) -> None:
    properties = {"env": {"type": "string"}, "day": {"default": "today"}, "size": {}}
    params = {"type": "object", "properties": properties}
    trigger = a_trigger(client, database, variables={"region": "north"})
    body = {
        "pipeline_run": {"variables": {"mode": "fast"}},
        "env": "dev", "day": "x", "region": "x", "mode": "x", "free": [1],
    }  # fmt: skip
    rest = {name: value for name, value in body.items() if name != "pipeline_run"}

    for extra, others in (
        ({}, {"free": [1], "mode": "fast", "region": "north"}),
        ({"patternProperties": {"^f": {}}}, {"mode": "fast", "region": "north"}),
    ):
        a_run(database, a_spec(PIPELINE, steps=3, params=params | extra), params={"env": "x"})
        run = started(client, trigger, body)
        assert (run["variables"], run["event_variables"]) == ({"mode": "fast"}, rest)
        with database.transaction() as session:
            row = runs.get(session, a_tenant(session), run["id"])
        assert row.params == {"env": "dev", "day": "today", **others}

    path = f"/api/pipeline_schedules/{trigger['id']}/pipeline_runs"
    for reply, place in (
        (client.post(address(trigger), json={"env": 1}), "/env: "),
        (
            client.post(path, json={"pipeline_run": {"event_variables": {"env": 1}}}),
            "/pipeline_run/event_variables/env: ",
        ),
    ):
        assert reply.json is not None
        assert reply.json["error"]["errors"][0].startswith(place), reply.text


def test_a_free_body_names_no_secret_and_shows_none(
    client: FlaskClient, database: Database
) -> None:
    params = {"type": "object", "properties": {"token": {"type": "string", "writeOnly": True}}}
    trigger = a_trigger(client, database)
    a_run(database, a_spec(PIPELINE, steps=3, params=params))

    run = started(client, trigger, {"token": "hush"})

    texts = [client.get(f"{RUNS}/{run['id']}").text, client.get("/api/v1/runs").text, str(run)]
    assert not any("hush" in text for text in texts)
    reply = client.post(address(trigger), json={"token": "secret://db"})
    assert "only a key may name secrets" in reply.text
