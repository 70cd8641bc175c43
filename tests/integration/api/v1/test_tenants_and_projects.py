"""Tenants and projects over REST, and which project a workflow is in."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from tests.support.factories import a_spec

TENANTS = "/api/v1/tenants"
PROJECTS = "/api/v1/projects"
WORKFLOWS = "/api/v1/workflows"
NOBODY = "01890000-0000-7000-8000-000000000000"


@pytest.fixture(autouse=True)
def _no_projects_left(engine: Engine) -> Iterator[None]:
    """Set up before `database`, which deletes their workflows first."""
    yield
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM projects WHERE name <> 'default'"))


def _create(client: FlaskClient, name: str) -> dict[str, Any]:
    reply = client.post(PROJECTS, json={"name": name})
    assert reply.status_code == 201, reply.json
    project: dict[str, Any] = reply.json
    return project


def test_a_key_speaks_for_one_tenant(client: FlaskClient) -> None:
    (tenant,) = client.get(TENANTS).json["items"]

    assert tenant["name"] == "default"
    assert isinstance(tenant["number"], int)
    assert client.get(f"{TENANTS}/{tenant['id']}").json == tenant
    assert client.get(f"{TENANTS}/{NOBODY}").status_code == 404


def test_settings_of_a_tenant_go_over_those_there_are(client: FlaskClient) -> None:
    (tenant,) = client.get(TENANTS).json["items"]
    address = f"{TENANTS}/{tenant['id']}"

    client.patch(address, json={"settings": {"a": {"b": 1}, "c": True}})
    changed = client.patch(address, json={"settings": {"c": None, "d": "x"}})
    cleared = client.patch(address, json={"settings": {"a": None, "d": None}})

    assert changed.json["settings"] == {"a": {"b": 1}, "d": "x"}
    assert cleared.json == tenant
    assert client.patch(address, json={"settings": {"": 1}}).status_code == 422
    assert client.patch(f"{TENANTS}/{NOBODY}", json={}).status_code == 404


def test_projects_are_made_listed_and_renamed(client: FlaskClient) -> None:
    risk, sales = [_create(client, name) for name in ("risk", "sales")]
    address = f"{PROJECTS}/{risk['id']}"

    first = client.get(PROJECTS, query_string={"limit": 2}).json
    rest = client.get(PROJECTS, query_string={"limit": 2, "cursor": first["next_cursor"]}).json
    renamed = client.patch(address, json={"name": "credit risk"})
    same = client.patch(address, json={"name": "credit risk"})

    listed = [each["name"] for each in first["items"] + rest["items"]]
    assert (listed, rest["next_cursor"]) == (["default", "risk", "sales"], None)
    assert risk["number"] < sales["number"]
    assert renamed.json == same.json == risk | {"name": "credit risk"}
    assert client.get(address).json == renamed.json


def test_a_name_is_given_to_one_project(client: FlaskClient) -> None:
    project = _create(client, "risk")

    replies = [
        client.post(PROJECTS, json={"name": "risk"}),
        client.post(PROJECTS, json={"name": "default"}),
        client.patch(f"{PROJECTS}/{project['id']}", json={"name": "default"}),
    ]

    assert [reply.status_code for reply in replies] == [409, 409, 409]


@pytest.mark.parametrize("name", ["", "a" * 101, "a\nb", "a\x00b", 1, None, ["a"]])
def test_a_name_that_cannot_be_is_refused(client: FlaskClient, name: object) -> None:
    reply = client.post(PROJECTS, json={"name": name})

    assert reply.status_code == 422
    assert [each["pointer"] for each in reply.json["errors"]] == ["/name"]


def test_a_workflow_is_in_the_project_it_is_registered_into(client: FlaskClient) -> None:
    (default,) = client.get(PROJECTS).json["items"]
    risk = _create(client, "risk")

    def register(**query: str) -> tuple[int, str, int]:
        reply = client.post(WORKFLOWS, json=a_spec(), query_string=query)
        return reply.status_code, reply.json["project_id"], reply.json["version"]

    assert register() == (201, default["id"], 1)
    assert register(project="risk") == (200, risk["id"], 1)
    assert register() == (200, risk["id"], 1)
    run = client.post("/api/v1/runs", json={"workflow": "work"})
    assert run.status_code == 201


def test_workflows_are_listed_by_project(client: FlaskClient) -> None:
    _create(client, "risk")
    client.post(WORKFLOWS, json=a_spec("a"), query_string={"project": "risk"})
    client.post(WORKFLOWS, json=a_spec("b"))

    def listed(**query: str) -> list[str]:
        return [each["name"] for each in client.get(WORKFLOWS, query_string=query).json["items"]]

    assert (listed(project="risk"), listed(project="default")) == (["a"], ["b"])
    assert listed() == ["a", "b"]


def test_a_project_that_is_not_there_is_not_found(client: FlaskClient) -> None:
    query = {"project": "nobody's"}

    replies = [
        client.post(WORKFLOWS, json=a_spec(), query_string=query),
        client.get(WORKFLOWS, query_string=query),
        client.get(f"{PROJECTS}/{NOBODY}"),
        client.patch(f"{PROJECTS}/{NOBODY}", json={"name": "mine"}),
    ]

    assert [reply.status_code for reply in replies] == [404] * 4
    assert client.get(WORKFLOWS).json["items"] == []
