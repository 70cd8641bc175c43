"""Deliveries and the notifications of runs over REST."""

from dataclasses import replace
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from config.settings import Settings
from orchestrator.db.database import Database
from orchestrator.notifications.deliveries import Backoff
from tests.support.factories import a_run, a_spec, eventually
from tests.support.webhook_receivers import answering
from workers.scheduler.deliverer import Deliverer

WEBHOOKS, DELIVERIES, RUNS = "/api/v1/webhooks", "/api/v1/deliveries", "/api/v1/runs"
NOBODY = "01890000-0000-7000-8000-000000000000"
URL = "https://hooks.example/in"
MAIL = {"kind": "mail", "target": "team@b.example"}


def _create(client: FlaskClient, **fields: Any) -> dict[str, Any]:
    reply = client.post(WEBHOOKS, json={"target": URL, "events": ["run.failed"]} | fields)
    assert reply.status_code == 201, reply.json
    webhook: dict[str, Any] = reply.json
    return webhook


def _errors(reply: TestResponse) -> dict[str, str]:
    assert reply.status_code == 422, reply.json
    return {each["pointer"]: each["detail"] for each in reply.json["errors"]}


def test_a_test_is_sent_logged_and_replayed(
    open_client: FlaskClient, database: Database, settings: Settings
) -> None:
    deliverer = Deliverer(
        database,
        replace(settings, allow_private_targets=True),
        "s" * 32,
        backoff=Backoff(pauses=()),
    )
    with answering(500, 200) as receiver:
        webhook = _create(open_client, target=receiver.url)
        reply = open_client.post(f"{WEBHOOKS}/{webhook['id']}/test")
        address = reply.headers["Location"]

        def state() -> str:
            deliverer.wake()
            return str(open_client.get(address).json["state"])

        eventually(state, until=lambda value: value == "failed")
        failed = open_client.get(address).json
        again = open_client.post(f"{address}/replay").json
        eventually(state, until=lambda value: value == "delivered")
    deliverer.end()

    assert reply.status_code == 201
    assert (failed["event"], failed["attempts"], failed["next_at"]) == ("webhook.test", 1, None)
    assert failed["payload"]["type"] == "webhook.test"
    assert (again["state"], again["id"]) == ("waiting", failed["id"])
    shown = open_client.get(address).json
    assert [(each["number"], each["status"]) for each in shown["log"]] == [(1, 500), (2, 200)]
    assert shown["log"][0]["error"] == "answered 500 Internal Server Error"
    assert shown["delivered_at"]
    assert {each.id for each in receiver.requests} == {failed["id"]}
    assert all(each.is_signed_by(webhook["secret"]) for each in receiver.requests)


def test_a_webhook_that_is_off_is_neither_tested_nor_replayed(client: FlaskClient) -> None:
    webhook = _create(client)
    sent = client.post(f"{WEBHOOKS}/{webhook['id']}/test").json
    client.patch(f"{WEBHOOKS}/{webhook['id']}", json={"active": False})

    assert client.post(f"{WEBHOOKS}/{webhook['id']}/test").status_code == 409
    reply = client.post(f"{DELIVERIES}/{sent['id']}/replay")
    assert reply.status_code == 409
    assert "not active" in reply.json["detail"]


def test_deliveries_are_listed_by_webhook_run_and_state(
    client: FlaskClient, database: Database, engine: Engine
) -> None:
    one = _create(client, events=["run.created"])
    two = _create(client, events=["run.created"])
    run, _ = a_run(database), a_run(database)
    with engine.begin() as connection:
        done = "UPDATE deliveries SET state = 'delivered' WHERE webhook_id = :id"
        connection.execute(text(done), {"id": one["id"]})

    def count(address: str, **query: Any) -> int:
        return len(client.get(address, query_string=query).json["items"])

    assert count(DELIVERIES) == 4
    assert count(DELIVERIES, state="waiting") == 2
    assert count(DELIVERIES, state=["waiting", "delivered"]) == 4
    assert count(DELIVERIES, run=str(run.id)) == 2
    assert count(DELIVERIES, run=str(run.id), state="failed") == 0
    assert count(f"{WEBHOOKS}/{two['id']}/deliveries") == 2
    assert count(f"{WEBHOOKS}/{two['id']}/deliveries", state="delivered") == 0
    first = client.get(DELIVERIES, query_string={"limit": 3}).json
    rest = client.get(DELIVERIES, query_string={"limit": 3, "cursor": first["next_cursor"]}).json
    ids = [each["id"] for each in first["items"] + rest["items"]]
    assert ids == sorted(ids, reverse=True)
    assert len(set(ids)) == 4
    assert rest["next_cursor"] is None
    for query in (
        {"state": "gone"},
        {"run": "x"},
        {"cursor": "x"},
        {"limit": 0},
        {"webhook": NOBODY},
    ):
        assert client.get(DELIVERIES, query_string=query).status_code == 422, query


def test_a_run_may_ask_for_notifications(open_client: FlaskClient, client: FlaskClient) -> None:
    open_client.post("/api/v1/workflows", json=a_spec())
    notifications = {
        "events": ["run.created"], "mail": ["a@b.example"], "webhooks": ["http://10.0.0.1/"]
    }  # fmt: skip
    run = open_client.post(RUNS, json={"workflow": "work", "notifications": notifications})

    assert run.status_code == 201
    items = open_client.get(DELIVERIES, query_string={"run": run.json["id"]}).json["items"]
    assert {(each["kind"], each["target"], each["webhook_id"]) for each in items} == {
        ("mail", "a@b.example", None), ("webhook", "http://10.0.0.1/", None)
    }  # fmt: skip
    for wrong, pointer in (
        ({"events": ["x"]}, "/notifications/events/0"),
        ({}, "/notifications/events"),
        ({"events": ["run.failed"], "mail": "a@b.example"}, "/notifications/mail"),
        ({"events": ["run.failed"], "mail": ["a"]}, "/notifications/mail/0"),
        ({"events": ["run.failed"], "webhooks": [URL, URL]}, "/notifications/webhooks"),
        ({"events": ["run.failed"], "webhooks": ["http://10.0.0.1/"]}, "/notifications/webhooks/0"),
        ({"events": ["run.failed"], "sms": []}, "/notifications/sms"),
        ([], "/notifications"),
    ):
        reply = client.post(RUNS, json={"workflow": "work", "notifications": wrong})
        assert list(_errors(reply)) == [pointer], wrong
