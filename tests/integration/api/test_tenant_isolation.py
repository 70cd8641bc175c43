"""Every route answers 404 for objects of another tenant, and changes nothing of them."""

import hashlib
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Connection, Engine, delete, select, text
from sqlalchemy.orm import Session
from werkzeug.routing import Rule

from config.settings import Settings
from orchestrator.access.keys import NewKey, key_row, new_secret
from orchestrator.db.migrate import Run
from orchestrator.models import Key, Project, Role, Tenant
from orchestrator.outputs.storage import store_of
from tests.conftest import empty
from tests.support.routes import native
from tests.support.row_per_table import Rows, filled

PREFIX = "/api/v1/"

# The smallest valid body of a route where it is not `{}`.
BODIES: dict[str, dict[str, Any]] = {
    "projects.rename": {"name": "mine now"},
    "runs.change": {"priority": 9},
    "schedules.begin_backfill": {"start_at": "2027-01-01T00:00Z", "end_at": "2027-01-02T00:00Z"},
}
# Routes whose objects belong to no tenant, with the reason.
SHARED = {"system.worker": "machines work for every tenant, each by a name of its own"}
# Where a parameter is not the `id` of its table or the `name` in the table of the address.
OBJECTS = {
    ("queues", "name"): ("queue_uses", "name"),
    ("runs", "key"): ("steps", "key"),
}
# Parameters that authenticate the request: a wrong one is sent.
SECRETS = ("token",)


@pytest.fixture(autouse=True)
def theirs(engine: Engine) -> Iterator[Rows]:
    """Another tenant with one of everything. Made first, so that it goes last."""
    with engine.begin() as connection:
        rows = filled(connection, "theirs")
    yield rows
    tenant_id = rows["tenants"]["id"]
    with engine.begin() as connection:
        empty(connection)
        for model in (Key, Project):
            connection.execute(delete(model).where(model.tenant_id == tenant_id))
        connection.execute(delete(Tenant).where(Tenant.id == tenant_id))


@pytest.fixture
def owner(client: FlaskClient, engine: Engine, settings: Settings, theirs: Rows) -> FlaskClient:
    """The API with a key of the other tenant's admin; its artifact has one byte."""
    store_of(settings).write(theirs["artifacts"]["address"], [b"x"], limit=1)
    secret = new_secret()
    new = NewKey(name="theirs", role=Role.ADMIN)
    with Session(engine) as session, session.begin():
        session.add(key_row(theirs["tenants"]["id"], secret, new))
    owner = client.application.test_client()
    owner.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
    return owner


def _rules(client: FlaskClient, *, with_parameters: bool) -> list[Rule]:
    return [rule for rule in native(client.application) if bool(rule.arguments) == with_parameters]


def _methods(rule: Rule) -> list[str]:
    return sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})


def _address(client: FlaskClient, rule: Rule, rows: Rows) -> str:
    """The address with the other tenant's objects in it."""
    area = rule.rule.removeprefix(PREFIX).partition("/")[0]
    values = {name: _object(rule, area, name, rows) for name in rule.arguments}
    with client.application.test_request_context():
        built: str = client.application.url_map.bind("x").build(rule.endpoint, values)
    return built


def _object(rule: Rule, area: str, name: str, rows: Rows) -> Any:
    if name in SECRETS:
        return "forged"
    table, column = OBJECTS.get((area, name), (area, name))
    if (area, name) not in OBJECTS and name.endswith("_id"):
        word = name.removesuffix("_id")
        plurals = (f"{word}s", f"{word[:-1]}ies")
        table, column = next((each for each in plurals if each in rows), name), "id"
    if column not in rows.get(table, {}):
        pytest.fail(f"{rule.rule}: say in OBJECTS which table and column has a <{name}>")
    return rows[table][column]


def _fingerprints(connection: Connection, tenant_id: UUID) -> dict[str, str]:
    """Hashes of a tenant's rows by table."""
    prints = {}
    for table in Run.metadata.sorted_tables:
        statement = select(text(f'CAST("{table.name}" AS text) AS whole')).select_from(table)
        if "tenant_id" in table.columns:
            statement = statement.where(table.columns["tenant_id"] == tenant_id)
        rows = connection.scalars(statement.order_by(text("whole"))).all()
        prints[table.name] = hashlib.sha256("\n".join(rows).encode()).hexdigest()
    return prints


def test_every_route_denies_that_another_tenants_objects_are_there(
    client: FlaskClient, engine: Engine, theirs: Rows
) -> None:
    tenant_id = theirs["tenants"]["id"]
    with engine.connect() as connection:
        before = _fingerprints(connection, tenant_id)

    answers = {}
    for rule in _rules(client, with_parameters=True):
        address = _address(client, rule, theirs)
        for method in _methods(rule) if rule.endpoint not in SHARED else ():
            body = None if method == "GET" else BODIES.get(rule.endpoint, {})
            reply = client.open(address, method=method, json=body)
            answers[rule.endpoint, method] = reply.status_code, (reply.json or {}).get("code")

    with engine.connect() as connection:
        after = _fingerprints(connection, tenant_id)
    wrong = {key: answer for key, answer in answers.items() if answer != (404, "not_found")}
    assert not wrong, "a route that answers 422 needs a right body in BODIES"
    assert len(answers) > 25
    assert after == before


def test_their_owner_is_shown_the_same_objects(
    client: FlaskClient, owner: FlaskClient, theirs: Rows
) -> None:
    statuses = {
        rule.rule: owner.get(_address(client, rule, theirs)).status_code
        for rule in _rules(client, with_parameters=True)
        if "GET" in _methods(rule) and rule.endpoint not in SHARED
    }

    assert statuses == dict.fromkeys(statuses, 200)


def test_no_list_shows_anything_of_another_tenant(
    client: FlaskClient, owner: FlaskClient, theirs: Rows
) -> None:
    ids = {str(value) for row in theirs.values() for value in row.values() if type(value) is UUID}
    names = {"theirs workflows", "theirs projects", "theirs queue_uses", "theirs keys"}
    lists = [rule for rule in _rules(client, with_parameters=False) if "GET" in _methods(rule)]

    leaks = {}
    for rule in lists:
        reply = client.get(rule.rule)
        assert reply.status_code == 200, rule.rule
        leaks[rule.rule] = {each for each in ids | names if each in reply.text}

    assert leaks == {rule.rule: set() for rule in lists}
    assert any(each in owner.get(f"{PREFIX}runs").text for each in ids)


def test_a_body_or_query_that_names_another_tenants_objects_finds_none(
    client: FlaskClient, engine: Engine, theirs: Rows
) -> None:
    workflow, project = theirs["workflows"]["name"], theirs["projects"]["name"]
    spec = {"name": "mine", "steps": [{"key": "s", "uses": "noop"}]}
    with engine.connect() as connection:
        before = _fingerprints(connection, theirs["tenants"]["id"])

    replies = [
        client.post(f"{PREFIX}runs", json={"workflow": workflow}),
        client.post(f"{PREFIX}workflows", query_string={"project": project}, json=spec),
        client.get(f"{PREFIX}workflows", query_string={"project": project}),
        client.post(f"{PREFIX}schedules", json={"workflow": workflow, "type": "api"}),
    ]
    same_name = client.post(f"{PREFIX}workflows", json=spec | {"name": workflow.replace(" ", "-")})

    assert [reply.status_code for reply in replies] == [404] * len(replies)
    assert same_name.status_code == 201
    with engine.connect() as connection:
        after = _fingerprints(connection, theirs["tenants"]["id"])
    assert {name for name in after if after[name] != before[name]} <= {"versions", "queues"}
