"""Helpers of the tests of SolveXia's API."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.engine import attempts
from orchestrator.engine.outcomes import Outcome
from tests.contracts.adapters.solvexia import ADAPTER, PROCESSES, RUNS
from tests.support.api_keys import a_key, with_key
from tests.support.factories import a_claim, messages_in

V1 = "/api/v1"
STEPS = f"{V1}/steps"
TOKEN = "/oauth/token"
RUN, LOAD, PUSH = "pr-1249", "as-12490", "ds-12491"  # of the reference tenant
DAY = {
    "name": "ledger",
    "params": {
        "type": "object",
        "required": ["day"],
        "properties": {
            "day": {"type": "string", "format": "date", "description": "which day"},
            "limit": {"type": "integer", "default": 10},
            "share": {"type": "number"},
            "dry": {"type": "boolean"},
            "area": {"enum": ["north", "south"]},
            "source": {"type": "string", "format": "file"},
        },
    },
    "steps": [
        {"key": "load", "uses": "noop", "with": {"day": "{{ params.day }}"}},
        {"key": "push", "uses": "noop", "with": {"n": "{{ params['limit'] }}"}},
        {"key": "off", "uses": "noop", "enabled": False},
    ],
}


def register(client: FlaskClient, spec: dict[str, Any]) -> str:
    """The id of the process that a workflow is."""
    made = client.post(f"{V1}/workflows", json=spec)
    assert made.status_code in (200, 201), made.json
    return f"p-{made.json['number']}"


def created(client: FlaskClient, spec: dict[str, Any], **body: Any) -> dict[str, Any]:
    """A run that has not started."""
    process = register(client, spec)
    made = client.post(f"{PROCESSES}/{process}/processruns", **({"json": body} if body else {}))
    assert made.status_code == 200, made.json
    run: dict[str, Any] = made.json
    return run


def finish(database: Database, sent: list[Outbound], *outcomes: Outcome) -> None:
    """Claim each step in turn, as a worker does, and record its outcome."""
    for outcome in outcomes:
        claims = (a_claim(database, message.task_id) for message in messages_in(sent))
        claim = next(each for each in claims if each is not None)
        with database.transaction() as session:
            attempts.record_outcome(session, claim, outcome)


def earlier(engine: Engine, run_id: UUID, *, hours: int) -> None:
    """Move what a run has done so far into the past."""
    of_run = "SELECT id FROM steps WHERE run_id = :id"
    with engine.begin() as connection:
        for table, which in (
            ("runs", "id = :id"),
            ("steps", "run_id = :id"),
            ("attempts", f"step_id IN ({of_run})"),
        ):
            moved = ", ".join(
                f"{name} = {name} - make_interval(hours => :hours)"
                for name in ("started_at", "finished_at")
            )
            statement = text(f"UPDATE {table} SET {moved} WHERE {which}")
            connection.execute(statement, {"id": run_id, "hours": hours})


def refused(answer: Any, status: int, *parts: str) -> None:
    """Assert that the answer is a refusal in the published form, with these parts of a message."""
    assert ADAPTER.refusal(answer) == status, answer.json
    assert all(each in answer.json["message"] for each in parts), answer.json


def status_of(client: FlaskClient, wire_id: str) -> str:
    """The status of a run."""
    return str(client.get(f"{RUNS}/{wire_id}/runstatus").json["status"])


def steps_of(client: FlaskClient, wire_id: str) -> list[str]:
    """The ids of a run's steps."""
    return [str(each["id"]) for each in client.get(f"{RUNS}/{wire_id}/steps").json]


def properties(client: FlaskClient, step: str) -> dict[str, dict[str, Any]]:
    """The properties of a step by their names."""
    return {each["name"]: each for each in client.get(f"{STEPS}/{step}/properties").json}


def set_property(client: FlaskClient, step: str, before: Mapping[str, Any], value: Any) -> Any:
    """Send a property back whole, with another value."""
    path = f"{STEPS}/{step}/properties/{before['id']}"
    return client.post(path, json={**before, "value": value})


def ask_token(client: FlaskClient, scope: str | None = None, **options: Any) -> Any:
    """Request a token for a new OAuth client."""
    made = a_key(client, options.pop("role", "operator"), kind="oauth_client", **options)
    body = {name: made[name] for name in ("client_id", "client_secret")}
    body |= {"grant_type": "client_credentials"} | ({"scope": scope} if scope else {})
    return client.application.test_client().post(TOKEN, data=body)


def with_token(client: FlaskClient, scope: str | None = None, **options: Any) -> FlaskClient:
    """A client with such a token."""
    answer = ask_token(client, scope, **options)
    assert answer.status_code == 200, answer.json
    return with_key(client, answer.json["access_token"])
