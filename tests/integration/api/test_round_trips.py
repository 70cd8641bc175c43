"""How often a request waits for Postgres."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import event

from orchestrator import workflows
from orchestrator.db.database import Database
from tests.support.factories import a_run, a_spec, a_tenant


@contextmanager
def _round_trips(client: FlaskClient) -> Iterator[list[str]]:
    """What is sent to Postgres: by views, and for the check of the key."""
    services = client.application.extensions["orchestrator"]
    sent: list[str] = []

    def record(*args: Any) -> None:
        if not args[2].startswith("PREPARE"):
            sent.append(args[2])

    with ExitStack() as listeners:
        for database in (services.database, services.unscoped_database):
            event.listen(database.engine, "before_cursor_execute", record)
            listeners.callback(event.remove, database.engine, "before_cursor_execute", record)
        yield sent


@pytest.mark.parametrize(
    ("body", "headers", "most"),
    [
        ({}, {}, 3),
        ({"params": {"day": "monday"}, "tags": ["t"], "priority": 9}, {}, 3),
        ({"run_at": "2099-01-01T00:00:00Z", "sla": "1h"}, {}, 3),
        ({"start": False}, {}, 3),
        ({}, {"Idempotency-Key": "k"}, 4),
    ],
)
def test_a_submission(
    client: FlaskClient,
    database: Database,
    body: dict[str, Any],
    headers: dict[str, str],
    most: int,
) -> None:
    a_run(database)
    warm = {"workflow": "work", "params": {"day": "monday"}}
    client.post("/api/v1/runs", json=warm)  # reads the version, and what of it is hidden

    with _round_trips(client) as sent:
        response = client.post("/api/v1/runs", json={"workflow": "work", **body}, headers=headers)

    assert response.status_code == 201
    assert len(sent) <= most, sent


def test_a_run(client: FlaskClient, database: Database) -> None:
    address = f"/api/v1/runs/{a_run(database).id}"
    client.get(address)
    with _round_trips(client) as sent:
        client.get(address)

    assert len(sent) <= 3, sent


def test_the_version_of_a_submission_is_the_latest_one(
    client: FlaskClient, database: Database
) -> None:
    def submit(**params: Any) -> tuple[int, Any]:
        answer = client.post("/api/v1/runs", json={"workflow": "work", "params": params})
        return answer.status_code, answer.get_json().get("version")

    def register(**properties: Any) -> None:
        schema = {"type": "object", "properties": properties, "additionalProperties": False}
        with database.transaction() as session:
            workflows.register(session, a_tenant(session), a_spec(params=schema))

    register(a={"type": "integer"})
    assert submit(a=1) == (201, 1)
    register(b={"type": "integer"})
    assert submit(b=1) == (201, 2)  # what the first version refuses
    assert submit(a=1)[0] == 422
    register(a={"type": "integer"})
    assert submit(a=1) == (201, 3)
