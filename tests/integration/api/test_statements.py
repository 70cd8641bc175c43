"""A page costs as many statements as a row: it reads what its rows need together."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from flask.testing import FlaskClient
from sqlalchemy import event

from orchestrator.db.database import Database
from orchestrator.models import Schedule
from tests.contracts.runs import default_tenant
from tests.support.factories import a_run, a_schedule, a_spec

HIDING = {"properties": {"token": {"writeOnly": True}}}
PAGES = {
    "schedules": "/api/v1/schedules",
    "backfills": "/api/v1/backfills",
    "schedules of Mage": "/api/pipeline_schedules",
    "runs": "/api/v1/runs",
    "workflows": "/api/v1/workflows",
    "runs of Mage": "/api/pipeline_runs",
    "runs of virtuousai": "/api/v1/automation-runs",
    "automations": "/api/v1/automations",
    "executions": "/api/process-exec/v1",
    "processes": "/api/process/v1",
    "processes of SolveXia": "/api/v1/processes",
    "jobs": "/api/{tenant}/{project}/execution/jobs",
}


@contextmanager
def _counted(client: FlaskClient) -> Iterator[list[str]]:
    """The statements of the API on all of its connections."""
    services = client.application.extensions["orchestrator"]
    statements: list[str] = []

    def record(*args: object) -> None:
        if not str(args[2]).startswith("PREPARE"):
            statements.append(str(args[2]))

    with ExitStack() as exits:
        for database in (services.database, services.unscoped_database):
            event.listen(database.engine, "before_cursor_execute", record)
            exits.callback(event.remove, database.engine, "before_cursor_execute", record)
        yield statements


def _rows(client: FlaskClient, database: Database, names: range) -> Schedule:
    for name in names:
        spec = a_spec(f"w{name}", params=HIDING)
        params = {"token": f"planted-{name}"}
        run = a_run(database, spec, params=params)
        schedule = a_schedule(database, spec, params=params)
        backfill = {"start_at": "2027-01-01T00:00Z", "end_at": "2027-01-01T03:00Z"}
        path = f"/api/v1/schedules/{schedule.id}/backfills"
        assert client.post(path, json=backfill | {"params": params}).status_code == 201
        client.get(f"/api/v1/runs/{run.id}")  # what a version hides is remembered
    return schedule


@pytest.mark.parametrize("page", PAGES)
def test_a_longer_page_takes_no_more_statements(
    client: FlaskClient, database: Database, page: str
) -> None:
    project = client.get("/api/v1/projects").get_json()["items"][0]["id"]
    address = PAGES[page].format(tenant=default_tenant(database), project=project)
    counts = []
    for names in (range(2), range(2, 9)):
        _rows(client, database, names)
        client.get(address)  # whose key is used is written once a minute
        with _counted(client) as statements:
            answer = client.get(address)
        assert answer.status_code == 200
        assert "planted" not in answer.text
        counts.append(len(statements))
    assert counts[0] == counts[1], statements
