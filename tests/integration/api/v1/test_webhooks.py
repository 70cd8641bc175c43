"""`/api/v1/webhooks`: creation, changes, secrets, validation and access."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from orchestrator.access import tenants
from orchestrator.db.database import Database
from orchestrator.db.outbox import SUBSCRIBABLE_EVENTS
from tests.support.factories import a_spec

WEBHOOKS, DELIVERIES, RUNS = "/api/v1/webhooks", "/api/v1/deliveries", "/api/v1/runs"
NOBODY = "01890000-0000-7000-8000-000000000000"
URL = "https://hooks.example/in"
MAIL = {"kind": "mail", "target": "team@b.example"}


@pytest.fixture
def stranger(client: FlaskClient, engine: Engine, database: Database) -> Iterator[FlaskClient]:
    """Another tenant's admin."""
    with database.transaction() as session:
        tenant, secret = tenants.create_tenant(session, "a stranger to webhooks")
    other = client.application.test_client()
    other.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
    yield other
    with engine.begin() as connection:
        for table in ("webhooks", "keys", "projects"):
            connection.execute(
                text(f"DELETE FROM {table} WHERE tenant_id = :id"), {"id": tenant.id}
            )
        connection.execute(text("DELETE FROM tenants WHERE id = :id"), {"id": tenant.id})


def _post(client: FlaskClient, **fields: Any) -> TestResponse:
    return client.post(WEBHOOKS, json={"target": URL, "events": ["run.failed"]} | fields)


def _create(client: FlaskClient, **fields: Any) -> dict[str, Any]:
    reply = _post(client, **fields)
    assert reply.status_code == 201, reply.json
    webhook: dict[str, Any] = reply.json
    return webhook


def _errors(reply: TestResponse) -> dict[str, str]:
    assert reply.status_code == 422, reply.json
    return {each["pointer"]: each["detail"] for each in reply.json["errors"]}


def _role(client: FlaskClient, role: str, engine: Engine) -> FlaskClient:
    key = client.post("/api/v1/keys", json={"name": f"webhook-{role}", "role": role}).json
    other = client.application.test_client()
    other.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key['key']}"
    return other


def test_a_webhook_is_made_shown_changed_and_deleted(client: FlaskClient) -> None:
    client.post("/api/v1/workflows", json=a_spec("daily"))
    reply = _post(client, workflow="daily", description="to the team")
    webhook = reply.json
    address = reply.headers["Location"]

    shown = client.get(address).json
    assert webhook["secret"].startswith("whsec_")
    assert shown == {name: value for name, value in webhook.items() if name != "secret"}
    assert (shown["kind"], shown["target"], shown["events"]) == ("webhook", URL, ["run.failed"])
    assert (shown["workflow"], shown["active"], shown["created_by"]) == ("daily", True, "admin")

    changed = client.patch(
        address, json={"events": ["run.late"], "workflow": None, "active": False}
    ).json
    assert (changed["events"], changed["workflow"], changed["active"]) == (
        ["run.late"],
        None,
        False,
    )
    assert changed["updated_at"] > shown["updated_at"]
    assert client.patch(address, json={}).json["events"] == ["run.late"]

    assert client.delete(address).status_code == 204
    assert client.get(address).status_code == 404
    assert client.delete(address).status_code == 404


def test_a_secret_is_shown_again_and_rotated(client: FlaskClient) -> None:
    webhook = _create(client)
    address = f"{WEBHOOKS}/{webhook['id']}"

    before = client.get(f"{address}/secret").json
    assert before == {"secret": webhook["secret"], "previous": None, "previous_until": None}
    after = client.post(f"{address}/rotate-secret").json
    assert after["previous"] == webhook["secret"]
    assert after["secret"] != webhook["secret"]
    assert after["previous_until"] > client.get(address).json["rotated_at"]
    assert client.get(f"{address}/secret").json == after
    again = client.post(f"{address}/rotate-secret").json
    assert again["previous"] == after["secret"]


def test_secrets_differ_by_webhook_and_tenant(client: FlaskClient, stranger: FlaskClient) -> None:
    secrets = [
        _create(client)["secret"],
        _create(client)["secret"],
        client.get(f"{WEBHOOKS}/run-secret").json["secret"],
        stranger.get(f"{WEBHOOKS}/run-secret").json["secret"],
    ]

    assert len(set(secrets)) == 4


def test_webhooks_are_listed_newest_first_in_pages(client: FlaskClient) -> None:
    numbers = [_create(client)["number"] for _ in range(5)]

    seen, query = [], {"limit": "2"}
    while True:
        page = client.get(WEBHOOKS, query_string=query).json
        seen += [each["number"] for each in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert seen == numbers[::-1]


def test_an_unknown_event_is_refused_with_those_there_are(client: FlaskClient) -> None:
    errors = _errors(_post(client, events=["run.failed", "run.fialed"]))

    assert errors.keys() == {"/events/1"}
    assert all(name in errors["/events/1"] for name in SUBSCRIBABLE_EVENTS)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"target": "http://127.0.0.1/"}, "/target"),
        ({"target": "http://169.254.169.254/latest/meta-data"}, "/target"),
        ({"target": "http://[::ffff:10.0.0.1]/"}, "/target"),
        ({"target": "https://u:p@hooks.example/"}, "/target"),
        ({"target": "ftp://hooks.example/"}, "/target"),
        ({"target": "https://hooks.example/\n"}, "/target"),
        ({"target": "x" * 3000}, "/target"),
        ({"target": ""}, "/target"),
        ({"target": 1}, "/target"),
        ({"target": None}, "/target"),
        ({"target": "a\u0000b"}, "/target"),
        ({"events": []}, "/events"),
        ({"events": ["run.failed"] * 2}, "/events"),
        ({"events": "run.failed"}, "/events"),
        ({"events": [1]}, "/events/0"),
        ({"events": None}, "/events"),
        ({"active": 1}, "/active"),
        ({"active": "yes"}, "/active"),
        ({"active": None}, "/active"),
        ({"kind": "sms"}, "/kind"),
        (MAIL, "/kind"),
        ({"description": "x" * 1001}, "/description"),
        ({"workflow": ""}, "/workflow"),
        ({"secret": "mine"}, "/secret"),
    ],
)
def test_what_is_wrong_is_named(client: FlaskClient, fields: dict[str, Any], pointer: str) -> None:
    assert _errors(_post(client, **fields)).keys() == {pointer}


@pytest.mark.parametrize(
    "changes", [{"target": "http://10.0.0.1/"}, {"events": ["x"]}, {"kind": "mail"}]
)
def test_a_change_is_checked_as_strictly(client: FlaskClient, changes: dict[str, Any]) -> None:
    webhook = _create(client)

    assert _errors(client.patch(f"{WEBHOOKS}/{webhook['id']}", json=changes))


def test_a_refusal_names_the_setting_that_would_allow_it(client: FlaskClient) -> None:
    private = _errors(_post(client, target="http://10.0.0.1/"))
    mail = _errors(_post(client, **MAIL))

    assert "ORCHESTRATOR_ALLOW_PRIVATE_TARGETS" in private["/target"]
    assert "ORCHESTRATOR_SMTP_URL" in mail["/kind"]


def test_an_unknown_workflow_is_refused(client: FlaskClient) -> None:
    reply = _post(client, workflow="nobody-made-this")

    assert reply.status_code == 404
    assert "nobody-made-this" in reply.json["detail"]


def test_a_tenant_has_at_most_a_hundred_webhooks(client: FlaskClient) -> None:
    for _ in range(100):
        _create(client)

    assert _post(client).status_code == 409


def test_mail_has_no_secret(open_client: FlaskClient) -> None:
    webhook = _create(open_client, **MAIL)
    address = f"{WEBHOOKS}/{webhook['id']}"

    assert (webhook["kind"], webhook["secret"]) == ("mail", None)
    assert open_client.get(f"{address}/secret").status_code == 409
    assert open_client.post(f"{address}/rotate-secret").status_code == 409
    assert _errors(_post(open_client, kind="mail", target=URL)).keys() == {"/target"}


def test_only_admins_decide_who_is_told(client: FlaskClient, engine: Engine) -> None:
    webhook = _create(client)
    address = f"{WEBHOOKS}/{webhook['id']}"
    sent = client.post(f"{address}/test").json
    operator, viewer = _role(client, "operator", engine), _role(client, "viewer", engine)

    for who in (operator, viewer):
        assert _post(who).status_code == 403
        for reply in (
            who.patch(address, json={}), who.delete(address), who.get(f"{address}/secret"),
            who.post(f"{address}/rotate-secret"), who.post(f"{address}/test"),
            who.get(f"{WEBHOOKS}/run-secret"),
        ):  # fmt: skip
            assert reply.status_code == 403
        assert who.get(address).status_code == 200
        assert who.get(f"{DELIVERIES}/{sent['id']}").status_code == 200
    assert viewer.post(f"{DELIVERIES}/{sent['id']}/replay").status_code == 403
    assert operator.post(f"{DELIVERIES}/{sent['id']}/replay").status_code == 200
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM keys WHERE name LIKE 'webhook-%'"))


def test_another_tenant_finds_nothing(client: FlaskClient, stranger: FlaskClient) -> None:
    webhook = _create(client)
    sent = client.post(f"{WEBHOOKS}/{webhook['id']}/test").json

    for webhook_id, delivery_id in ((webhook["id"], sent["id"]), (NOBODY, NOBODY)):
        address = f"{WEBHOOKS}/{webhook_id}"
        replies = [
            stranger.get(address), stranger.patch(address, json={}), stranger.delete(address),
            stranger.get(f"{address}/secret"), stranger.post(f"{address}/rotate-secret"),
            stranger.post(f"{address}/test"), stranger.get(f"{address}/deliveries"),
            stranger.get(f"{DELIVERIES}/{delivery_id}"),
            stranger.post(f"{DELIVERIES}/{delivery_id}/replay"),
        ]  # fmt: skip
        assert [reply.status_code for reply in replies] == [404] * 9
    assert stranger.get(WEBHOOKS).json["items"] == []
    assert stranger.get(DELIVERIES).json["items"] == []
    assert client.get(f"{WEBHOOKS}/{webhook['id']}").status_code == 200
