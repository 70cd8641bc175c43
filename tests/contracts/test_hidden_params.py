"""What a workflow declares `writeOnly` is in no answer of any of the six APIs to a viewer."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from api.contracts.solvexia.mapping import process_step_number
from orchestrator.db.database import Database
from orchestrator.models import (
    Backfill,
    Delivery,
    Key,
    Project,
    Run,
    Schedule,
    Step,
    Webhook,
    Workflow,
)
from tests.contracts.adapters import ADAPTERS
from tests.contracts.runs import default_tenant
from tests.support.api_keys import a_key, with_key
from tests.support.factories import a_webhook

PLANTED = "planted-value-of-a-parameter"
SPEC: dict[str, Any] = {
    "name": "hiding",
    "params": {
        "type": "object",
        "required": ["token"],
        "properties": {
            "token": {"type": "string", "writeOnly": True, "maxLength": 60},
            "login": {"properties": {"password": {"writeOnly": True}, "user": {}}},
            "day": {"type": "string"},
        },
    },
    "steps": [
        {"key": "s", "uses": "noop", "with": {"t": "{{ params.token }} {{ params.login }}"}},
        {"key": "later", "uses": "noop"},
    ],
}
PARAMS = {"token": PLANTED, "login": {"password": PLANTED, "user": "ana"}, "day": "2026-01-01"}
SHOWN = {"token": "***", "login": {"password": "***", "user": "ana"}, "day": "2026-01-01"}
V1 = "/api/v1"
FILES = ("static", "swagger_ui.show")
# Other answers than 200 that a viewer gets, with the reason.
ELSEWHERE = {
    "/api/v1/keys/<uuid:key_id>": "an admin's",
    "/api/v1/keys": "an admin's",
    "/oauth/authorize": "redirects to a client",
    "/api/v1/access-tokens/<token_id>": "an admin's",
    "/api/v1/access-tokens": "an admin's",
    "/api/v1/audit": "an admin's",
    "/api/v1/audit/export": "an admin's",
    "/api/v1/webhooks/run-secret": "an operator's",
    "/api/v1/webhooks/<uuid:webhook_id>/secret": "an operator's",
    "/api/v1/workers/<name>": "no worker runs",
    "/api/v1/artifacts/<uuid:artifact_id>": "no step has left a file",
    "/api/v1/files/<file_id>": "no step has left a file",
    "/api/v1/files/<file_id>/metadata": "no step has left a file",
    "/": "leads to the documentation",
}


@pytest.fixture
def planted(client: FlaskClient, database: Database) -> FlaskClient:
    """The API, after each of its six contracts was sent the planted value in parameters."""
    workflow = _sent(client, f"{V1}/workflows", SPEC)
    hook = a_webhook(database, "https://example.com/hook", "run.created")
    _sent(client, f"{V1}/webhooks/{hook.id}/test", {})
    run = _sent(client, f"{V1}/runs", {"workflow": "hiding", "params": PARAMS})
    _sent(client, f"{V1}/runs/{run['id']}/cancel", {})
    _sent(client, f"{V1}/runs/{run['id']}/retry", {"mode": "full", "as": "new", "params": PARAMS})
    timed = {"workflow": "hiding", "type": "cron", "cron": "0 0 1 1 *", "params": PARAMS}
    schedule = _sent(client, f"{V1}/schedules", timed)
    _sent(client, f"{V1}/schedules/{schedule['id']}/trigger", {"variables": PARAMS})
    backfill = {"start_at": "2027-01-01T00:00Z", "end_at": "2028-01-02T00:00Z", "params": PARAMS}
    _sent(client, f"{V1}/schedules/{schedule['id']}/backfills", backfill)
    project = _json(client.get(f"{V1}/projects"))["items"][0]["id"]
    job = {"jobName": "j", "jobType": "Analysis", "parameters": PARAMS,
           "resource": {"resourceType": "Pipeline", "resourceId": "hiding"}}  # fmt: skip
    _sent(client, f"/api/{default_tenant(database)}/{project}/execution/job", job)
    _sent(client, f"{V1}/automations/{workflow['id']}/runs", {"input": PARAMS})
    _sent(client, "/api/process-exec/v1", {"name": "hiding", "input": PARAMS})
    _sent(client, f"{V1}/processes/p-{workflow['number']}/processruns", None)
    trigger = {"name": "m", "schedule_type": "api", "status": "active", "variables": PARAMS}
    path = "/api/pipelines/hiding/pipeline_schedules"
    made = _sent(client, path, {"pipeline_schedule": trigger})["pipeline_schedule"]
    path = f"/api/pipeline_schedules/{made['id']}/pipeline_runs"
    _sent(client, path, {"pipeline_run": {"variables": PARAMS}})
    _sent(client, f"{path}/{made['token']}", {"pipeline_run": {"variables": PARAMS}})
    return client


def _sent(client: FlaskClient, path: str, body: Any) -> dict[str, Any]:
    """The answer to a POST, which does not show the planted value either."""
    reply = client.post(path, json=body) if body is not None else client.post(path)
    assert reply.status_code in (200, 201, 202), (path, reply.text)
    assert PLANTED not in reply.text, path
    return _json(reply)


def _json(reply: TestResponse) -> dict[str, Any]:
    body: dict[str, Any] = reply.json or {}
    assert "error" not in body or body["error"] is None, reply.text
    return body


def _values(session: Session) -> dict[str, list[Any]]:
    """What may stand in an address, by the name that it has in the rule."""

    def of(column: Any) -> list[Any]:
        return list(session.scalars(select(column)))

    some = list(session.scalars(select(Run)))
    numbers, steps = of(Run.number), sorted(of(Step.number))[:2]  # of the first run
    place = session.scalars(select(Workflow)).one()
    versions = [f"ds-{process_step_number(place.number, at)}" for at in range(2)]
    return {
        "run_id": [*of(Run.id), *(f"pr-{each}" for each in numbers)],
        "job_id": of(Run.id),
        "execution_id": of(Run.id),
        "key": ["s", "hiding", *(each.wire_id(run) for each in ADAPTERS for run in some)],
        "number": [1],
        "pk": [*numbers, *of(Schedule.number), *of(Backfill.number)],
        "uuid": ["hiding"],
        "name": ["hiding", "default"],
        "process_id": [f"p-{place.number}"],
        "step_id": [*versions, *(f"{kind}-{each}" for each in steps for kind in ("ds", "as"))],
        "wire_id": [f"dsprop-{each * 1000 + at}" for each in steps for at in range(3)],
        "automation_id": [place.id],
        "tenant_id": [place.tenant_id],
        "project_id": of(Project.id),
        "key_id": of(Key.id),
        "token_id": of(Key.id),
        "schedule_id": of(Schedule.id),
        "backfill_id": of(Backfill.id),
        "webhook_id": of(Webhook.id),
        "delivery_id": of(Delivery.id),
        "artifact_id": [place.id],
        "file_id": ["f-1"],
    }


def _addresses(app: Flask, rule: Rule, values: Mapping[str, list[Any]]) -> Iterator[str]:
    """The addresses of a rule, with all that may stand in it."""
    names = sorted(rule.arguments)
    with app.test_request_context():
        for each in product(*(values[name] for name in names)):
            pairs = dict(zip(names, each, strict=True))
            yield app.url_map.bind("localhost").build(rule.endpoint, pairs)


def test_no_get_of_any_api_shows_a_hidden_parameter_to_a_viewer(
    planted: FlaskClient, database: Database
) -> None:
    viewer = with_key(planted, a_key(planted, role="viewer")["key"])
    with database.transaction() as session:
        values = _values(session)
        stored = session.scalars(select(Run.params)).all()
    rules = [
        rule
        for rule in planted.application.url_map.iter_rules()
        if "GET" in (rule.methods or ()) and rule.endpoint not in FILES
    ]

    leaks, reached = [], set()
    for rule in rules:
        for address in _addresses(planted.application, rule, values):
            reply = viewer.get(address)
            if reply.status_code == 200:
                reached.add(rule.rule)
            is_endless = reply.mimetype == "text/event-stream"  # events, as a list has them, too
            if not is_endless and PLANTED in reply.text:
                leaks.append(address)
            reply.close()

    assert leaks == []
    assert {rule.rule for rule in rules} - reached == set(ELSEWHERE)
    assert sum(params == PARAMS for params in stored) >= 8, "handlers get it"


def _stored(database: Database, model: type[Run | Schedule], which: Any) -> dict[str, Any]:
    """The parameters of a row, by id or number."""
    with database.transaction() as session:
        column = model.number if isinstance(which, int) else model.id
        params: dict[str, Any] = session.scalars(select(model.params).where(column == which)).one()
        return params


@pytest.mark.parametrize("where", ["same", "new"])
def test_what_a_retry_sends_back_hidden_is_kept(
    client: FlaskClient, database: Database, where: str
) -> None:
    _sent(client, f"{V1}/workflows", SPEC)
    run = _sent(client, f"{V1}/runs", {"workflow": "hiding", "params": PARAMS})
    assert run["params"] == SHOWN
    _sent(client, f"{V1}/runs/{run['id']}/cancel", {})

    body = {"mode": "full", "as": where, "params": {**run["params"], "day": "2026-02-02"}}
    again = _sent(client, f"{V1}/runs/{run['id']}/retry", body)

    assert again["params"] == {**SHOWN, "day": "2026-02-02"}
    assert _stored(database, Run, again["id"]) == {**PARAMS, "day": "2026-02-02"}


def test_what_a_change_of_a_schedule_sends_back_hidden_is_kept(
    client: FlaskClient, database: Database
) -> None:
    _sent(client, f"{V1}/workflows", SPEC)
    new = {"workflow": "hiding", "type": "api", "params": PARAMS}
    schedule = _sent(client, f"{V1}/schedules", new)
    address = f"{V1}/schedules/{schedule['id']}"

    changed = _json(client.patch(address, json={"params": {**SHOWN, "day": "2026-02-02"}}))
    assert changed["params"] == {**SHOWN, "day": "2026-02-02"}
    assert _stored(database, Schedule, schedule["id"]) == {**PARAMS, "day": "2026-02-02"}

    path = f"/api/pipeline_schedules/{schedule['number']}"
    body = {"pipeline_schedule": {"variables": {**SHOWN, "token": "another"}}}
    assert _json(client.put(path, json=body))["pipeline_schedule"]["variables"] == SHOWN
    assert _stored(database, Schedule, schedule["id"]) == {**PARAMS, "token": "another"}


def test_a_property_is_set_and_not_shown(client: FlaskClient, database: Database) -> None:
    number = _sent(client, f"{V1}/workflows", SPEC)["number"]
    run = _sent(client, f"{V1}/processes/p-{number}/processruns", None)
    at = f"{V1}/steps"
    step = client.get(f"{V1}/processruns/{run['id']}/steps").json[0]["id"]  # type: ignore[index]
    names = {each["name"]: each for each in client.get(f"{at}/{step}/properties").json or ()}
    path = f"{at}/{step}/properties/{names['token']['id']}"
    assert names["token"]["value"] is None

    for value in (PLANTED, "***"):
        reply = client.post(path, json={"value": value})
        assert (reply.status_code, _json(reply)["value"]) == (200, "***")

    assert _stored(database, Run, int(run["id"].removeprefix("pr-")))["token"] == PLANTED


def test_no_mistake_shows_a_hidden_value(client: FlaskClient, database: Database) -> None:
    _sent(client, f"{V1}/workflows", SPEC)
    long = {**PARAMS, "token": PLANTED * 9}
    schedule = {"workflow": "hiding", "type": "cron", "cron": "0 0 1 1 *"}

    replies = [
        client.post(f"{V1}/runs", json={"workflow": "hiding", "params": long}),
        client.post(f"{V1}/runs/batch", json={"runs": [{"workflow": "hiding", "params": long}]}),
        client.post(f"{V1}/schedules", json={**schedule, "params": long}),
    ]

    assert [reply.status_code for reply in replies] == [422] * 3
    assert ["`maxLength`" in reply.text for reply in replies] == [True] * 3
    assert [PLANTED in reply.text for reply in replies] == [False] * 3


@pytest.mark.parametrize("kind", ["native", "mage"])
def test_the_address_of_a_trigger_names_no_secret(
    client: FlaskClient, database: Database, kind: str
) -> None:
    _sent(client, f"{V1}/workflows", SPEC)
    schedule = _sent(client, f"{V1}/schedules", {"workflow": "hiding", "type": "api"})
    variables = {"login": [{"password": "x secret://TOKEN"}]}
    anybody = client.application.test_client()

    if kind == "native":
        path = f"{V1}/schedules/{schedule['id']}/trigger/{schedule['token']}"
        reply = anybody.post(path, json={"variables": variables})
        assert reply.status_code == 422
    else:
        path = f"/api/pipeline_schedules/{schedule['number']}/pipeline_runs/{schedule['token']}"
        reply = anybody.post(path, json={"pipeline_run": {"variables": variables}})

    assert "only a key may name secrets" in reply.text
    payload = {"event": "secret://TOKEN"}  # never resolved
    with_key = client.post(f"{V1}/schedules/{schedule['id']}/trigger", json={
        "variables": {"token": "secret://TOKEN"}, **payload
    })  # fmt: skip
    assert with_key.status_code in (200, 201)
    assert _json(with_key)["params"]["token"] == "***"
