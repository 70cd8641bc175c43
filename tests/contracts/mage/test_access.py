"""Keys, roles and scopes in Mage's API."""

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.contracts.mage import responses
from orchestrator.db.database import Database
from tests.contracts.mage.helpers import (
    CANCEL,
    PIPELINE,
    RUNS,
    a_trigger,
    address,
    answered,
    refused,
    started,
)
from tests.support.api_keys import a_key, with_key
from tests.support.factories import KEY


def _keys(secret: str) -> list[dict[str, Any]]:
    return [
        {"headers": {"Authorization": f"Bearer {secret}"}},
        {"headers": {"X-API-KEY": secret}},
        {"headers": {"OAUTH-TOKEN": secret}},
        {"headers": {"Cookie": f"oauth_token={secret}"}},
        {"query_string": {"api_key": secret}},
        {"data": json.dumps({"api_key": secret})},
    ]


@pytest.mark.row("keys: `api_key` in query and body, X-API-KEY, Bearer, OAUTH-TOKEN, cookie")
def test_a_key_comes_in_many_ways(nobody: FlaskClient) -> None:
    for number, (right, wrong) in enumerate(zip(_keys(KEY), _keys("wrong"), strict=True)):
        assert nobody.get(RUNS, **right).status_code == 200
        reply = nobody.get(RUNS, **wrong)
        kind = "invalid_api_key" if number in (1, 4, 5) else "invalid_oauth_token"
        assert refused(reply, 401, kind)["message"].startswith("Invalid ")
        assert reply.json is not None
        assert (reply.status_code, reply.json["status"]) == (401, 200)


@pytest.mark.row("keys: a wrong one is HTTP 401, `invalid_api_key`")
def test_a_wrong_key_is_refused_as_published(nobody: FlaskClient) -> None:
    error = {"code": 401, "message": "Invalid API key.", "type": "invalid_api_key"}

    assert nobody.get(RUNS).json == {"error": error, "status": 200}
    real = nobody.get(f"{RUNS}?_http_error_codes=1")
    assert real.json == {"error": error, "status": 401}


@pytest.mark.usefixtures("no_keys_left")
def test_a_viewer_reads_and_changes_nothing(client: FlaskClient, database: Database) -> None:
    trigger = a_trigger(client, database)
    number = started(client, trigger)["id"]
    viewer = with_key(client, a_key(client, "viewer")["key"])
    pipeline, schedules = f"/api/pipelines/{PIPELINE}", f"/api/pipeline_schedules/{trigger['id']}"

    (run, _) = answered(viewer.get(RUNS))["pipeline_runs"]
    assert run["pipeline_schedule_token"] == responses.HIDDEN
    assert answered(viewer.get(schedules))["pipeline_schedule"]["token"] == responses.HIDDEN
    for reply in (
        viewer.put(f"{RUNS}/{number}", json=CANCEL),
        viewer.delete(f"{RUNS}/{number}"),
        viewer.post(f"{schedules}/pipeline_runs", json={}),
        viewer.put(pipeline, json={"pipeline": {"status": "cancelled"}}),
        viewer.post(f"{pipeline}/pipeline_schedules", json={"pipeline_schedule": {}}),
        viewer.put(schedules, json={"pipeline_schedule": {}}),
        viewer.delete(schedules),
    ):
        refused(reply, 403, "unauthorized_access")


@pytest.mark.usefixtures("no_keys_left")
def test_scopes_hold(client: FlaskClient) -> None:
    of_runs = with_key(client, a_key(client, scopes=["runs"])["key"])
    of_triggers = with_key(client, a_key(client, scopes=["schedules:read"])["key"])

    refused(of_runs.get("/api/pipeline_schedules"), 403, "unauthorized_access")
    refused(of_triggers.get(RUNS), 403, "unauthorized_access")
    answered(of_runs.get(RUNS))
    answered(of_triggers.get("/api/pipeline_schedules"))


def test_a_token_is_of_one_trigger_of_type_api(
    client: FlaskClient, database: Database, nobody: FlaskClient
) -> None:
    by_clock = a_trigger(client, database, schedule_type="time", schedule_interval="@daily")
    by_token = a_trigger(client, database) | {"token": "0" * 32}

    for trigger in (by_clock, by_token, {"id": "nope", "token": "é"}):
        reply = nobody.post(address(trigger), json={})
        message = f"Invalid token for pipeline schedule ID {trigger['id']}."
        assert reply.status_code == 200
        assert reply.json == {
            "error": {"code": 500, "errors": [message], "exception": message, "message": message},
            "url_parameters": {"pipeline_schedule_id": str(trigger["id"]), "token": "********"},
        }
