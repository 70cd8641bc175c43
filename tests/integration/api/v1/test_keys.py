"""`/api/v1/keys`: create, expire, rotate and revoke keys."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from orchestrator.access import tenants
from orchestrator.db.database import Database
from tests.support.api_keys import KEYS, a_key, age, refusal, with_key
from tests.support.factories import KEY

WORKFLOWS = "/api/v1/workflows"
NOBODY = "01890000-0000-7000-8000-000000000000"


pytestmark = pytest.mark.usefixtures("no_keys_left")


def test_a_key_is_shown_once_and_kept_as_a_hash(client: FlaskClient, engine: Engine) -> None:
    made = a_key(client, "operator", user="ada", scopes=["runs"])
    address = f"{KEYS}/{made['id']}"

    shown = client.get(address)
    listed = [each for each in client.get(KEYS).json["items"] if each["id"] == made["id"]]
    with engine.connect() as connection:
        rows = connection.scalars(text("SELECT CAST(keys AS text) FROM keys")).all()

    assert (made["name"], made["role"], made["kind"]) == ("ci", "operator", "key")
    assert (made["user"], made["scopes"], made["client_id"]) == ("ada", ["runs"], None)
    assert made["key"].startswith(made["prefix"])
    assert len(made["key"]) > 40
    assert listed == [shown.json]
    assert "key" not in shown.json
    assert not any(made["key"] in row for row in rows)


def test_the_answer_with_a_secret_is_stored_nowhere(client: FlaskClient) -> None:
    reply = client.post(KEYS, json={"name": "ci", "role": "viewer"})

    assert reply.headers["Cache-Control"] == "no-store"
    assert client.get(reply.headers["Location"]).json["id"] == reply.json["id"]


def test_keys_are_listed_page_by_page(client: FlaskClient) -> None:
    made = [a_key(client)["id"] for _ in range(3)]

    first = client.get(KEYS, query_string={"limit": 2}).json
    rest = client.get(KEYS, query_string={"limit": 2, "cursor": first["next_cursor"]}).json

    assert [each["id"] for each in first["items"] + rest["items"]][1:] == made
    assert rest["next_cursor"] is None


def test_a_revoked_key_opens_nothing_and_says_so_to_its_holder(client: FlaskClient) -> None:
    made = a_key(client)

    replies = [client.post(f"{KEYS}/{made['id']}/revoke") for _ in range(2)]

    assert [reply.status_code for reply in replies] == [200, 200]
    assert replies[0].json["revoked_at"] == replies[1].json["revoked_at"] is not None
    assert refusal(client, made["key"]) == "401 this key was revoked"
    assert refusal(client, made["key"][:-1]) == "401 this key is unknown"


def test_the_key_that_is_asked_with_is_not_revoked(client: FlaskClient) -> None:
    made = a_key(client)

    reply = with_key(client, made["key"]).post(f"{KEYS}/{made['id']}/revoke")

    assert (reply.status_code, reply.json["code"]) == (409, "conflict")
    assert refusal(client, made["key"]) is None


def test_a_key_begins_and_ends_when_it_says(client: FlaskClient, engine: Engine) -> None:
    now = datetime.now(UTC)
    times = {"starts_at": now + timedelta(hours=1), "expires_at": now + timedelta(hours=2)}
    made = a_key(client, **{name: time.isoformat() for name, time in times.items()})

    early = refusal(client, made["key"])
    age(engine, made, "starts_at = now() - interval '1 hour'")
    meanwhile = refusal(client, made["key"])
    age(engine, made, "expires_at = now()")
    late = refusal(client, made["key"])

    assert (early, meanwhile) == ("401 this key is not valid yet", None)
    assert late == "401 this key has expired"


def test_a_rotation_leaves_both_keys_live_for_the_grace(
    client: FlaskClient, engine: Engine
) -> None:
    old = a_key(client, "operator", user="ada", scopes=["runs"])

    new = client.post(f"{KEYS}/{old['id']}/rotate", json={"grace": "1h"})
    both = [refusal(client, each["key"]) for each in (old, new.json)]
    age(engine, old, "expires_at = now()")
    after = [refusal(client, each["key"]) for each in (old, new.json)]
    shown = client.get(f"{KEYS}/{old['id']}").json

    assert new.status_code == 201
    same = ("name", "role", "user", "scopes", "kind", "expires_at")
    assert [new.json[name] for name in same] == [old[name] for name in same]
    assert both == [None, None]
    assert after == ["401 this key has expired", None]
    assert shown["replaced_by"] == new.json["id"]


def test_a_rotation_without_grace_ends_the_old_key_at_once(client: FlaskClient) -> None:
    old = a_key(client)

    new = with_key(client, old["key"]).post(f"{KEYS}/{old['id']}/rotate", json={"grace": 0}).json

    assert refusal(client, old["key"]) == "401 this key has expired"
    assert refusal(client, new["key"]) is None


def test_a_rotation_never_gives_the_old_key_more_time(client: FlaskClient) -> None:
    soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat(timespec="microseconds")
    old = a_key(client, expires_at=soon)

    new = client.post(f"{KEYS}/{old['id']}/rotate", json={"grace": "24h"}).json

    assert client.get(f"{KEYS}/{old['id']}").json["expires_at"] == old["expires_at"]
    assert new["expires_at"] == old["expires_at"]


def test_a_key_is_rotated_once_and_only_while_it_is_good(client: FlaskClient) -> None:
    old, dead = a_key(client), a_key(client)
    new = client.post(f"{KEYS}/{old['id']}/rotate").json
    client.post(f"{KEYS}/{dead['id']}/revoke")

    again = client.post(f"{KEYS}/{old['id']}/rotate")
    over = client.post(f"{KEYS}/{dead['id']}/rotate")
    admin = next(each for each in client.get(KEYS).json["items"] if each["name"] == "admin")
    setting = client.post(f"{KEYS}/{admin['id']}/rotate")

    assert [each.status_code for each in (again, over, setting)] == [409, 409, 409]
    assert new["id"] in again.json["detail"]
    assert "ADMIN_KEY" in setting.json["detail"]


def test_the_last_use_is_kept_to_the_minute(client: FlaskClient, engine: Engine) -> None:
    made = a_key(client)
    address = f"{KEYS}/{made['id']}"

    before = client.get(address).json["last_used_at"]
    assert refusal(client, made["key"]) is None
    first = client.get(address).json["last_used_at"]
    assert refusal(client, made["key"]) is None
    second = client.get(address).json["last_used_at"]
    age(engine, made, "last_used_at = now() - interval '61 seconds'")
    assert refusal(client, made["key"]) is None

    assert before is None
    assert first == second is not None
    assert client.get(address).json["last_used_at"] > first


def test_nobody_waits_for_the_row_of_a_key(client: FlaskClient, engine: Engine) -> None:
    made = a_key(client)
    lock = text("SELECT FROM keys WHERE id = :id FOR UPDATE")

    with engine.begin() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '1s'"))
        connection.execute(lock, {"id": made["id"]})
        began = datetime.now(UTC)
        refused = refusal(client, made["key"])
        took = datetime.now(UTC) - began

    assert refused is None
    assert took < timedelta(seconds=5)


YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).isoformat()
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"role": "root"}, "/role"),
        ({"role": None}, "/role"),
        ({"kind": "password"}, "/kind"),
        ({"name": ""}, "/name"),
        ({"name": "a" * 101}, "/name"),
        ({"name": "a\nb"}, "/name"),
        ({"name": "a\x00b"}, "/name"),
        ({"name": "admin"}, "/name"),
        ({"name": 1}, "/name"),
        ({"user": "a:b"}, "/user"),
        ({"user": ""}, "/user"),
        ({"scopes": []}, "/scopes"),
        ({"scopes": "runs"}, "/scopes"),
        ({"scopes": ["a b"]}, "/scopes/0"),
        ({"scopes": ["runs\n"]}, "/scopes/0"),
        ({"scopes": ["é"]}, "/scopes/0"),
        ({"scopes": ["a"] * 51}, "/scopes"),
        ({"expires_at": YESTERDAY}, "/expires_at"),
        ({"expires_at": TOMORROW, "starts_at": TOMORROW}, "/expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-14:00"}, "/expires_at"),
        ({"expires_at": "soon"}, "/expires_at"),
        ({"expires_at": 10**30}, "/expires_at"),
        ({"starts_at": "0001-01-01T00:00:00+14:00"}, "/starts_at"),
        ({"project": "default"}, "/project"),
        ({"key": "mine"}, "/key"),
    ],
)
def test_a_key_that_cannot_be_is_refused_with_its_place(
    client: FlaskClient, fields: dict[str, Any], pointer: str
) -> None:
    reply = client.post(KEYS, json={"name": "ci", "role": "viewer", **fields})

    assert reply.status_code == 422
    assert pointer in [each["pointer"] for each in reply.json["errors"]]


def test_a_key_may_end_with_the_calendar(client: FlaskClient) -> None:
    made = a_key(client, expires_at="9999-12-31T23:59:59.999999Z")

    new = client.post(f"{KEYS}/{made['id']}/rotate", json={"grace": "87600h"})

    assert new.json["expires_at"] == made["expires_at"] == "9999-12-31T23:59:59.999999Z"


@pytest.mark.parametrize("verb", ["", "/rotate", "/revoke"])
def test_a_key_that_is_not_there_is_not_found(client: FlaskClient, verb: str) -> None:
    address = f"{KEYS}/{NOBODY}{verb}"

    assert client.open(address, method="POST" if verb else "GET").status_code == 404


def test_the_setting_is_the_one_live_key_that_migrate_made(
    client: FlaskClient, database: Database, engine: Engine
) -> None:
    def migrate(secret: str, **options: bool) -> list[str | None]:
        with database.transaction() as session:
            tenants.ensure_default(session, secret, **options)
        return [refusal(client, each) for each in (KEY, "another-admin-key")]

    expired = "401 this key has expired"
    try:
        assert migrate("another-admin-key") == [None, None]
        assert migrate("another-admin-key", only=True) == [expired, None]
        assert migrate(KEY, only=True) == [None, expired]
        assert migrate(KEY, only=True) == [None, expired]
        age(engine, client.get(KEYS).json["items"][-1], "revoked_at = now()")
        assert migrate("another-admin-key", only=True) == [expired, "401 this key was revoked"]
    finally:
        migrate(KEY, only=True)
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM keys WHERE expires_at IS NOT NULL"))
