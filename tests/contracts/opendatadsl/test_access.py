"""Authentication and authorization."""

import base64

import pytest
from flask.testing import FlaskClient

from orchestrator.db.database import Database
from tests.contracts.adapters.opendatadsl import ROOT, refused
from tests.support.api_keys import a_key, with_key
from tests.support.factories import KEY, a_run, a_spec


@pytest.mark.row("Bearer, Basic, and `x-odsl-key`")
def test_a_key_is_taken_in_three_forms(client: FlaskClient) -> None:
    bare = client.application.test_client()
    basic = base64.b64encode(f"ops@acme.example:{KEY}".encode()).decode()
    forms = (
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"Basic {basic}"},
        {"x-odsl-email": "ops@acme.example", "x-odsl-key": KEY},
    )

    assert [bare.get(ROOT, headers=form).status_code for form in forms] == [200] * 3
    for form in ({}, {"x-odsl-email": "ops@acme.example"}, {"Authorization": "Basic x"}):
        for address in ("", "/v1", "/v1/x", "/nowhere"):
            assert refused(bare.get(f"/api/process-exec{address}", headers=form)) == 401


@pytest.mark.usefixtures("no_keys_left")
def test_the_user_of_a_key_runs_what_it_triggers(client: FlaskClient, database: Database) -> None:
    a_run(database, a_spec("P"))
    secret = a_key(client, "operator", user="ops@acme.example")["key"]
    bare = client.application.test_client()
    mine = {"x-odsl-email": "ops@acme.example", "x-odsl-key": secret}

    made = bare.post(ROOT, json={"name": "P"}, headers=mine)

    assert made.json["runAs"] == "ops@acme.example"
    assert refused(bare.get(ROOT, headers={**mine, "x-odsl-email": "eve@acme.example"})) == 401


@pytest.mark.usefixtures("no_keys_left")
def test_a_role_or_scope_that_does_not_reach_is_refused(
    client: FlaskClient, database: Database
) -> None:
    a_run(database, a_spec("P"))
    viewer = with_key(client, a_key(client, "viewer")["key"])
    workflows = with_key(client, a_key(client, "admin", scopes=["workflows:read"])["key"])

    assert refused(viewer.post(ROOT, json={"name": "P"})) == 403
    assert viewer.get(ROOT).status_code == 200
    assert refused(workflows.get(ROOT)) == 403
    assert workflows.get("/api/process/v1").status_code == 200
    assert refused(workflows.post(ROOT, json={"name": "P"})) == 403
