"""Numbers: each tenant's rows are counted alone, and no submission waits for another one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, delete, select, text
from sqlalchemy.orm import Session

from orchestrator import runs
from orchestrator.access import tenants
from orchestrator.db.database import Database
from orchestrator.models import (
    Artifact,
    Backfill,
    Key,
    Project,
    Run,
    Schedule,
    Step,
    Tenant,
    Webhook,
    Workflow,
)
from tests.conftest import empty
from tests.support.api_keys import with_key
from tests.support.factories import a_spec

NUMBERED = (Run, Step, Artifact, Schedule, Backfill, Workflow, Project, Webhook)


@pytest.fixture
def both(client: FlaskClient, database: Database, engine: Engine) -> Iterator[list[FlaskClient]]:
    """The API for two new tenants."""
    with database.transaction() as session:
        made = [tenants.create_tenant(session, name) for name in ("one", "two")]
    ids = [tenant.id for tenant, _ in made]
    yield [with_key(client, secret) for _, secret in made]
    with engine.begin() as connection:
        empty(connection)
        for model in (Key, Project):
            connection.execute(delete(model).where(model.tenant_id.in_(ids)))
        connection.execute(delete(Tenant).where(Tenant.id.in_(ids)))


def _use(client: FlaskClient) -> list[int]:
    """Make one of everything that the API makes; gives the numbers."""
    target = {"target": "https://example.com/x", "events": ["run.failed"]}
    hourly = {"workflow": "work", "type": "interval", "every": "1h"}
    span = {"start_at": "2027-01-01T00:00Z", "end_at": "2027-01-02T00:00Z"}
    workflow = client.post("/api/v1/workflows", json=a_spec(steps=2))
    schedule = client.post("/api/v1/schedules", json=hourly)
    replies = [
        workflow,
        schedule,
        client.post(f"/api/v1/schedules/{schedule.json['id']}/backfills", json=span),
        client.post("/api/v1/projects", json={"name": "more"}),
        client.post("/api/v1/webhooks", json=target),
        client.post("/api/v1/runs", json={"workflow": "work"}),
        client.post("/api/v1/runs", json={"workflow": "work"}),
    ]
    assert {reply.status_code for reply in replies} == {201}, [reply.json for reply in replies]
    (tenant,) = client.get("/api/v1/tenants").json["items"]
    steps = [step["number"] for reply in replies[-2:] for step in reply.json["steps"]]
    return [*(reply.json["number"] for reply in replies), *steps, tenant["number"]]


def test_a_tenant_does_not_see_what_the_others_do_in_its_numbers(both: list[FlaskClient]) -> None:
    first, second = (_use(client) for client in both)

    assert first == second == [1, 1, 1, 2, 1, 1, 2, 1, 2, 3, 4, 1]


def test_the_same_number_is_another_thing_for_another_tenant(both: list[FlaskClient]) -> None:
    mage = "/api/pipeline_schedules"
    ids, started = [], []
    for client in both:
        _use(client)
        body = {"pipeline_schedule": {"name": "by API", "status": "active"}}
        trigger = client.post("/api/pipelines/work/pipeline_schedules", json=body).json
        trigger = trigger["pipeline_schedule"]
        ids.append((trigger["id"], client.get("/api/pipeline_runs/2").json["pipeline_run"]["id"]))
        nobody = client.application.test_client()
        address = f"{mage}/{trigger['id']}/pipeline_runs/{trigger['token']}"
        started.append(nobody.post(address, json={}).json["pipeline_run"]["id"])
        wrong: Any = nobody.post(f"{mage}/{trigger['id']}/pipeline_runs/{'0' * 32}", json={}).json
        assert "Invalid token" in wrong["error"]["message"]

    assert ids == [(2, 2)] * 2
    assert started == [3, 3]
    for client in both:
        body = client.get("/api/v1/runs").json["items"]
        assert [each["number"] for each in body] == [3, 2, 1]


def test_a_submission_does_not_wait_for_the_commit_of_another_one(
    both: list[FlaskClient], database: Database, engine: Engine
) -> None:
    _use(both[0])
    with Session(engine) as session:
        tenant_id = session.scalars(select(Tenant.id).where(Tenant.name == "one")).one()
        slow, _ = _submit(session, tenant_id)  # not committed yet
        quick = both[0].post("/api/v1/runs", json={"workflow": "work"}).json
        session.rollback()

    assert (slow, quick["number"]) == (3, 4)


def test_the_first_rows_of_a_tenant_at_once_have_numbers_of_their_own(
    both: list[FlaskClient],
) -> None:
    def submit(name: str) -> int:
        spec = a_spec(name)
        reply = (
            both[0]
            .application.test_client()
            .post("/api/v1/workflows", json=spec, headers=dict(_headers(both[0])))
        )
        assert reply.status_code == 201, reply.json
        number: int = reply.json["number"]
        return number

    with ThreadPoolExecutor(6) as pool:
        numbers = list(pool.map(submit, [f"w{each}" for each in range(12)]))

    assert sorted(numbers) == list(range(1, 13))


def test_a_row_with_a_number_keeps_it(both: list[FlaskClient], database: Database) -> None:
    with database.transaction() as session:
        tenant_id = session.scalars(select(Tenant.id).where(Tenant.name == "one")).one()
        session.add(Project(tenant_id=tenant_id, name="given", number=77))
    with database.transaction() as session:
        project = tenants.get_project(session, tenant_id, "given")
        assert project.number == 77


def test_each_table_that_has_numbers_counts_them_by_tenant(engine: Engine) -> None:
    triggers = text(
        "SELECT relname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid"
        " WHERE tgname = 'assign_number'"
    )
    with engine.connect() as connection:
        assert {*connection.scalars(triggers)} == {model.__tablename__ for model in NUMBERED}


def _headers(client: FlaskClient) -> dict[str, str]:
    return {"Authorization": client.environ_base["HTTP_AUTHORIZATION"]}


def _submit(session: Session, tenant_id: UUID) -> tuple[int, bool]:
    run, is_new = runs.submit(session, tenant_id, runs.NewRun(workflow="work"), window=100)
    return run.number, is_new
