"""Permissions of a key: its role, scopes and user, and the keys it can create."""

from base64 import b64encode
from typing import Any

import pytest
from flask.testing import FlaskClient

from orchestrator.db.database import Database
from tests.support.api_keys import KEYS, RUNS, a_key, with_key
from tests.support.factories import a_run, a_spec

SCHEDULES, WEBHOOKS = "/api/v1/schedules", "/api/v1/webhooks"
WORKFLOWS = "/api/v1/workflows"
NOBODY = "01890000-0000-7000-8000-000000000000"


pytestmark = pytest.mark.usefixtures("no_keys_left")


def test_a_key_that_may_only_read_is_shown_no_secret_that_writes(
    client: FlaskClient, database: Database
) -> None:
    a_run(database)
    made: Any = client.post("/api/v1/schedules", json={"workflow": "work", "type": "api"}).json
    reads = ["schedules:read", "webhooks:read"]
    reader = with_key(client, a_key(client, scopes=reads)["key"])

    shown: Any = reader.get(f"/api/v1/schedules/{made['id']}").json

    assert made["token"]
    assert (shown["token"], shown["url"]) == (None, None)
    assert reader.get("/api/v1/webhooks/run-secret").status_code == 403


def test_a_key_with_scopes_does_only_that(client: FlaskClient, database: Database) -> None:
    a_run(database)
    reader = with_key(client, a_key(client, scopes=["runs:read", "keys"])["key"])
    writer = with_key(client, a_key(client, scopes=["workflows"])["key"])

    assert reader.get(RUNS).status_code == 200
    assert reader.head(RUNS).status_code == 200
    assert reader.get(KEYS).status_code == 200
    for refused, scope in (
        (reader.post(RUNS, json={"workflow": "work"}), "runs"),
        (reader.get(WORKFLOWS), "workflows:read"),
        (writer.get(RUNS), "runs:read"),
    ):
        assert (refused.status_code, refused.json["code"]) == (403, "forbidden")
        assert f"the scope {scope}," in refused.json["detail"]
    assert writer.get(WORKFLOWS).status_code == 200
    assert writer.post(WORKFLOWS, json=a_spec("more")).status_code == 201


def test_a_scope_does_not_lift_the_role(client: FlaskClient, database: Database) -> None:
    a_run(database)
    viewer = with_key(client, a_key(client, "viewer", scopes=["runs"])["key"])

    assert viewer.get(RUNS).status_code == 200
    assert viewer.post(RUNS, json={"workflow": "work"}).status_code == 403


def test_nobody_gives_away_more_than_they_have(client: FlaskClient) -> None:
    scoped = with_key(client, a_key(client, scopes=["keys", "runs:read"])["key"])
    whole = a_key(client)

    def create(**options: Any) -> int:
        return scoped.post(KEYS, json={"name": "x", "role": "admin", **options}).status_code

    assert create(scopes=["runs:read"]) == 201
    assert create() == 403
    assert create(scopes=["runs"]) == 403
    assert create(scopes=["keys:read", "workflows"]) == 403
    assert scoped.post(f"{KEYS}/{whole['id']}/rotate").status_code == 403


def test_nobody_changes_a_key_with_more_rights_than_their_own(client: FlaskClient) -> None:
    own = a_key(client, scopes=["keys", "runs:read"])
    scoped, reader = with_key(client, own["key"]), with_key(client, a_key(client)["key"])
    wider: list[dict[str, Any]] = [{}, {"scopes": ["runs"]}, {"scopes": ["keys", "webhooks"]}]
    same: list[dict[str, Any]] = [{"scopes": ["runs:read"]}, {"scopes": ["keys:read", "keys"]}]

    def statuses(caller: FlaskClient, verb: str, fields: list[dict[str, Any]]) -> set[int]:
        made = [
            a_key(client, role, **each, kind=kind)
            for each in fields
            for role in ("viewer", "operator", "admin")
            for kind in ("key", "oauth_client")
        ]
        return {caller.post(f"{KEYS}/{each['id']}/{verb}").status_code for each in made}

    assert statuses(scoped, "revoke", wider) == statuses(scoped, "rotate", wider) == {403}
    assert (statuses(scoped, "revoke", same), statuses(scoped, "rotate", same)) == ({200}, {201})
    assert statuses(reader, "revoke", wider) == {200}
    bootstrap = next(each for each in client.get(KEYS).json["items"] if each["name"] == "admin")
    assert scoped.post(f"{KEYS}/{bootstrap['id']}/revoke").status_code == 403
    assert client.get(KEYS).status_code == 200


def test_only_an_admin_lends_the_rights_of_a_user(client: FlaskClient, database: Database) -> None:
    a_run(database)
    operator = with_key(client, a_key(client, "operator", user="ada")["key"])
    scoped = with_key(client, a_key(client, "admin", scopes=["runs", "schedules"])["key"])
    new = {"workflow": "work", "type": "api"}

    def submit(caller: FlaskClient, user: str) -> tuple[int, int, int]:
        run = {"workflow": "work", "run_as": user}
        return (
            caller.post(RUNS, json=run).status_code,
            caller.post(f"{RUNS}/batch", json={"runs": [run]}).status_code,
            caller.post(SCHEDULES, json=new | {"run_as": user}).status_code,
        )

    assert submit(operator, "root") == (403, 403, 403)
    assert submit(operator, "ada") == (201, 201, 201)
    assert submit(scoped, "root") == (201, 201, 201)


def test_only_an_admin_changes_what_runs_with_the_rights_of_a_user(
    client: FlaskClient, database: Database
) -> None:
    a_run(database)
    operator = with_key(client, a_key(client, "operator")["key"])
    new = {"workflow": "work", "type": "api"}
    lent, plain = (
        client.post(SCHEDULES, json=new | {"run_as": user}).json for user in ("root", None)
    )

    def statuses(schedule: dict[str, Any]) -> list[int]:
        address = f"{SCHEDULES}/{schedule['id']}"
        mage = f"/api/pipeline_schedules/{schedule['number']}?_http_error_codes=1"
        body = {"pipeline_schedule": {"variables": {}}}
        return [
            operator.patch(address, json={"params": {"x": 1}}).status_code,
            operator.post(f"{address}/rotate-token").status_code,
            operator.put(mage, json=body).status_code,
            operator.delete(mage).status_code,
            operator.delete(address).status_code,
        ]

    assert statuses(lent) == [403] * 5
    assert statuses(plain) == [200, 200, 200, 200, 404]


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_only_an_admin_sees_or_makes_keys(client: FlaskClient, role: str) -> None:
    made = a_key(client, role)
    caller = with_key(client, made["key"])

    replies = [
        caller.get(KEYS),
        caller.get(f"{KEYS}/{made['id']}"),
        caller.post(KEYS, json={"name": "x", "role": "viewer"}),
        caller.post(f"{KEYS}/{made['id']}/rotate"),
        caller.post(f"{KEYS}/{made['id']}/revoke"),
    ]

    assert {reply.status_code for reply in replies} == {403}


def test_a_run_is_submitted_by_the_user_of_the_key(client: FlaskClient) -> None:
    client.post(WORKFLOWS, json=a_spec())
    named, plain = a_key(client, user="ada"), a_key(client)
    stranger = client.application.test_client()
    basic = b64encode(f"grace:{plain['key']}".encode()).decode()

    runs = [
        with_key(client, named["key"]).post(RUNS, json={"workflow": "work"}),
        with_key(client, plain["key"]).post(RUNS, json={"workflow": "work"}),
        stranger.post(RUNS, json={"workflow": "work"}, headers={"Authorization": f"Basic {basic}"}),
    ]

    assert [run.json["submitted_by"] for run in runs] == ["ada", "ci", "grace"]


def test_a_webhook_is_changed_by_who_may_read_the_events_that_it_sends(client: FlaskClient) -> None:
    new = {"target": "https://example.com/x", "events": ["run.failed"]}
    made: Any = client.post(WEBHOOKS, json=new).json
    address = f"{WEBHOOKS}/{made['id']}"
    blind = with_key(client, a_key(client, scopes=["webhooks", "runs"])["key"])
    owner = with_key(client, a_key(client, scopes=["webhooks", "events:read"])["key"])

    def statuses(caller: FlaskClient) -> list[int]:
        return [
            caller.post(WEBHOOKS, json=new).status_code,
            caller.patch(address, json={"workflow": None}).status_code,
            caller.get(f"{address}/secret").status_code,
            caller.get(f"{WEBHOOKS}/run-secret").status_code,
            caller.post(f"{address}/rotate-secret").status_code,
            caller.post(f"{address}/test").status_code,
            caller.delete(address).status_code,
        ]

    assert blind.get(address).status_code == 200
    assert statuses(blind) == [403] * 7
    assert statuses(owner) == [201, 200, 200, 200, 200, 201, 204]


def test_parameters_of_a_run_with_the_rights_of_a_user_are_changed_by_an_admin(
    client: FlaskClient,
) -> None:
    spec = a_spec() | {"params": {"type": "object", "properties": {"x": {"type": "integer"}}}}
    client.post(WORKFLOWS, json=spec)
    operator = with_key(client, a_key(client, "operator")["key"])
    new = {"workflow": "work", "run_as": "root", "start": False}

    for body, status in (({"mode": "full", "params": {"x": 2}}, 403), ({"mode": "full"}, 200)):
        run: Any = client.post(RUNS, json=new).json
        client.post(f"{RUNS}/{run['id']}/cancel")
        assert operator.post(f"{RUNS}/{run['id']}/retry", json=body).status_code == status
    held: Any = client.post(RUNS, json=new).json
    step = f"/api/v1/steps/ds-{held['steps'][0]['number']}/properties"
    wire_id = client.get(step).json[0]["id"]
    for caller, status in ((operator, 403), (client, 200)):
        assert caller.post(f"{step}/{wire_id}", json={"value": 7}).status_code == status
