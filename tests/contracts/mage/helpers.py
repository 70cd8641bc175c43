"""Helpers of the tests of Mage's pipeline runs."""

import re
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from orchestrator import runs, schedules
from orchestrator.db.database import Database
from orchestrator.engine import attempts
from orchestrator.engine.outcomes import Outcome
from orchestrator.models import Schedule
from tests.contracts.adapters.mage import ADAPTER, RUNS
from tests.support.factories import a_claim, a_run, a_spec, a_tenant

PIPELINE = "invoice_export"
SPEC = a_spec(PIPELINE, steps=3)
MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{6})?\+00:00")
CANCEL = {"pipeline_run": {"status": "cancelled"}}


def a_trigger(client: FlaskClient, database: Database, **members: Any) -> dict[str, Any]:
    """An active trigger of type api, unless `members` differ, of a registered pipeline."""
    a_run(database, SPEC)
    body = {"name": "invoices by API", "schedule_type": "api", "status": "active", **members}
    path = f"/api/pipelines/{PIPELINE}/pipeline_schedules"
    made = answered(client.post(path, json={"pipeline_schedule": body}))
    trigger: dict[str, Any] = made["pipeline_schedule"]
    return trigger


def address(trigger: dict[str, Any]) -> str:
    """The path that starts a run of the trigger, its token included."""
    return f"/api/pipeline_schedules/{trigger['id']}/pipeline_runs/{trigger['token']}"


def started(client: FlaskClient, trigger: dict[str, Any], body: Any = None) -> dict[str, Any]:
    """The run that the trigger starts."""
    reply = client.application.test_client().post(address(trigger), json=body or {})
    run: dict[str, Any] = answered(reply)["pipeline_run"]
    return run


def shown(client: FlaskClient, number: int) -> dict[str, Any]:
    """A run with its blocks, as it is now."""
    run: dict[str, Any] = answered(client.get(f"{RUNS}/{number}"))["pipeline_run"]
    return run


def listed(client: FlaskClient, path: str = RUNS, **query: Any) -> list[int]:
    """The ids in a list of runs."""
    rows = answered(client.get(path, query_string=query))["pipeline_runs"]
    return [run["id"] for run in rows]


def put(client: FlaskClient, number: int, **change: Any) -> TestResponse:
    """Do something with a run."""
    return client.put(f"{RUNS}/{number}", json={"pipeline_run": change})


def the_schedule(database: Database, number: int) -> Schedule:
    """The trigger as the core has it."""
    with database.transaction() as session:
        return schedules.get_schedule(session, a_tenant(session), number)


def play(database: Database, number: int, *outcomes: Outcome) -> None:
    """Let a worker execute the blocks of a run, each with an outcome of its own."""
    for outcome in outcomes:
        with database.transaction() as session:
            run = runs.get(session, a_tenant(session), number)
            task = next(s.task_id for s in runs.steps(session, run) if s.state == "queued")
        claim = a_claim(database, str(task))
        assert claim is not None
        with database.transaction() as session:
            attempts.record_outcome(session, claim, outcome)


def answered(reply: TestResponse) -> dict[str, Any]:
    """The body of an answer without an error."""
    assert reply.status_code == 200, reply.text
    assert reply.json is not None
    assert "error" not in reply.json, reply.text
    return dict(reply.json)


def refused(reply: TestResponse, code: int, kind: str) -> dict[str, Any]:
    """The error of an answer."""
    assert ADAPTER.refusal(reply) == code, reply.text
    assert reply.json is not None
    assert reply.json["error"]["type"] == kind
    return dict(reply.json["error"])
