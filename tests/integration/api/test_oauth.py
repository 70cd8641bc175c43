"""OAuth 2 client credentials: clients, tokens, and invalid requests."""

from base64 import b64encode
from datetime import timedelta
from typing import Any

import jwt
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from orchestrator.access.signing import issue_token
from tests.support.factories import a_spec

TOKEN = "/oauth/token"
KEYS = "/api/v1/keys"
RUNS = "/api/v1/runs"
GRANT = {"grant_type": "client_credentials"}


pytestmark = pytest.mark.usefixtures("no_keys_left")


def _create(client: FlaskClient, **options: Any) -> dict[str, str]:
    """Create a client; its id and secret as parameters of the token endpoint."""
    body = {"name": "robot", "role": "operator", "kind": "oauth_client", **options}
    key = client.post(KEYS, json=body).json
    return {"client_id": key["client_id"], "client_secret": key["client_secret"]}


def _basic(credentials: dict[str, str]) -> dict[str, str]:
    pair = f"{credentials['client_id']}:{credentials['client_secret']}"
    return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}


def _with(anyone: FlaskClient, token: str) -> TestResponse:
    return anyone.get(RUNS, headers={"Authorization": f"Bearer {token}"})


def _is_error(reply: TestResponse, status: int, error: str) -> bool:
    body = reply.json or {}
    assert "error_description" in body, body
    assert reply.headers["Cache-Control"] == "no-store"
    return (reply.status_code, body["error"]) == (status, error)


def test_a_client_is_made_with_an_id_and_a_secret(client: FlaskClient) -> None:
    key = client.post(KEYS, json={"name": "robot", "role": "viewer", "kind": "oauth_client"}).json

    assert key["client_id"].startswith("oc_")
    assert key["client_secret"].startswith(key["prefix"])
    assert key["key"] is None
    assert client.get(f"{KEYS}/{key['id']}").json["client_id"] == key["client_id"]


@pytest.mark.parametrize("way", ["form", "json", "basic"])
def test_a_client_gets_a_token_that_opens_the_api(
    client: FlaskClient, anyone: FlaskClient, way: str
) -> None:
    client.post("/api/v1/workflows", json=a_spec())
    credentials = _create(client, user="ada")

    if way == "basic":
        reply = anyone.post(TOKEN, data=GRANT, headers=_basic(credentials))
    else:
        reply = anyone.post(TOKEN, **{"data" if way == "form" else way: {**GRANT, **credentials}})
    headers = {"Authorization": f"Bearer {reply.json['access_token']}"}
    run = anyone.post(RUNS, json={"workflow": "work"}, headers=headers)

    assert reply.status_code == 200
    assert reply.json.keys() == {"access_token", "token_type", "expires_in"}
    assert (reply.json["token_type"], reply.json["expires_in"]) == ("Bearer", 600.0)
    assert '"expires_in":600.0' in reply.text
    assert reply.headers["Cache-Control"] == "no-store"
    assert (run.status_code, run.json["submitted_by"]) == (201, "ada")


def test_a_token_has_the_scopes_that_were_asked_for(
    client: FlaskClient, anyone: FlaskClient
) -> None:
    credentials = _create(client, scopes=["runs", "process_read"])

    whole = anyone.post(TOKEN, data={**GRANT, **credentials}).json
    less = anyone.post(TOKEN, data={**GRANT, **credentials, "scope": "runs:read"}).json
    foreign = anyone.post(TOKEN, data={**GRANT, **credentials, "scope": "process_read"}).json

    assert [each["scope"] for each in (whole, less, foreign)] == [
        "runs process_read", "runs:read", "process_read"
    ]  # fmt: skip
    statuses = [_with(anyone, each["access_token"]).status_code for each in (whole, less, foreign)]
    assert statuses == [200, 200, 403]


def test_a_client_without_scopes_may_ask_for_less(client: FlaskClient, anyone: FlaskClient) -> None:
    params = {**GRANT, **_create(client), "scope": "workflows:read"}

    token = anyone.post(TOKEN, data=params).json

    assert token["scope"] == "workflows:read"
    assert _with(anyone, token["access_token"]).status_code == 403


def test_tokens_end_with_their_client_at_once(client: FlaskClient, anyone: FlaskClient) -> None:
    credentials = _create(client)
    token = anyone.post(TOKEN, data={**GRANT, **credentials}).json["access_token"]
    listed = client.get(KEYS).json["items"]
    key_id = next(each["id"] for each in listed if each["client_id"] == credentials["client_id"])

    before = _with(anyone, token).status_code
    client.post(f"{KEYS}/{key_id}/revoke")
    after = _with(anyone, token)
    again = anyone.post(TOKEN, data={**GRANT, **credentials})

    assert (before, after.status_code) == (200, 401)
    assert after.json["detail"] == "this token's client was revoked"
    assert _is_error(again, 401, "invalid_client")
    assert again.json["error_description"] == "this client was revoked"


def test_the_secret_of_a_client_is_not_a_key(client: FlaskClient, anyone: FlaskClient) -> None:
    reply = _with(anyone, _create(client)["client_secret"])

    assert reply.status_code == 401
    assert "exchange it for a token" in reply.json["detail"]


def test_a_key_is_not_a_client(client: FlaskClient, anyone: FlaskClient) -> None:
    key = client.post(KEYS, json={"name": "ci", "role": "viewer"}).json

    params = {**GRANT, "client_id": key["id"], "client_secret": key["key"]}

    assert _is_error(anyone.post(TOKEN, data=params), 401, "invalid_client")


def test_a_client_is_rotated_like_a_key(client: FlaskClient, anyone: FlaskClient) -> None:
    old = client.post(KEYS, json={"name": "r", "role": "viewer", "kind": "oauth_client"}).json

    new = client.post(f"{KEYS}/{old['id']}/rotate").json
    replies = [
        anyone.post(
            TOKEN, data={**GRANT, **{name: each[name] for name in each if "client" in name}}
        )
        for each in (old, new)
    ]

    assert old["client_id"] != new["client_id"]
    assert [reply.status_code for reply in replies] == [200, 200]


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"grant_type": None}, 400, "invalid_request"),
        ({"grant_type": ""}, 400, "invalid_request"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": "authorization_code"}, 400, "invalid_request"),
        ({"grant_type": "authorization_code", "code": "x"}, 400, "invalid_grant"),
        ({"grant_type": "refresh_token"}, 400, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": "x"}, 400, "invalid_grant"),
        ({"grant_type": "refresh_token", "refresh_token": "eyJ.e.é"}, 400, "invalid_grant"),
        ({"client_id": None}, 401, "invalid_client"),
        ({"client_secret": ""}, 401, "invalid_client"),
        ({"client_secret": "nope"}, 401, "invalid_client"),
        ({"client_id": "nope"}, 401, "invalid_client"),
        ({"client_id": "a\x00b"}, 401, "invalid_client"),
        ({"client_id": "é" * 10}, 401, "invalid_client"),
        ({"client_id": "a" * 50_000}, 401, "invalid_client"),
        ({"client_secret": "\x00é"}, 401, "invalid_client"),
        ({"scope": "workflows"}, 400, "invalid_scope"),
        ({"scope": "runs  runs"}, 400, "invalid_scope"),
        ({"scope": " runs"}, 400, "invalid_scope"),
        ({"scope": 'a"b'}, 400, "invalid_scope"),
        ({"scope": "a\x00"}, 400, "invalid_scope"),
        ({"scope": "x" * 10_000}, 400, "invalid_scope"),
        ({"client_id": ["a", "b"]}, 400, "invalid_request"),
        ({"scope": {"a": 1}}, 400, "invalid_request"),
        ({"client_id": 1}, 400, "invalid_request"),
        ({"client_id": "\ud800"}, 401, "invalid_client"),
        ({"client_secret": "\ud800"}, 401, "invalid_client"),
        ({"scope": "\ud800"}, 400, "invalid_scope"),
    ],
)
def test_a_wrong_request_is_refused_as_the_rfc_says(
    client: FlaskClient, anyone: FlaskClient, change: dict[str, Any], status: int, error: str
) -> None:
    params = {**GRANT, **_create(client, scopes=["runs"]), **change}

    body = {name: value for name, value in params.items() if value is not None}
    reply = anyone.post(TOKEN, json=body)

    assert _is_error(reply, status, error), reply.json
    assert ("WWW-Authenticate" in reply.headers) == (status == 401)


@pytest.mark.parametrize(
    "body",
    [
        {"json": []},
        {"json": None},
        {"data": b"{", "content_type": "application/json"},
        {"data": b"[" * 50_000, "content_type": "application/json"},
        {"data": b"\xff\xfe", "content_type": "application/x-www-form-urlencoded"},
        {"data": b"a=b", "content_type": "text/plain"},
        {"data": b"grant_type=a&grant_type=b", "content_type": "application/x-www-form-urlencoded"},
        {"data": b"--x", "content_type": "multipart/form-data; boundary=x"},
        {},
    ],
)
def test_a_body_that_says_nothing_is_an_invalid_request(
    anyone: FlaskClient, body: dict[str, Any]
) -> None:
    assert _is_error(anyone.post(TOKEN, **body), 400, "invalid_request")


def test_a_body_that_is_too_large_is_refused(anyone: FlaskClient) -> None:
    reply = anyone.post(TOKEN, json={"grant_type": "x" * 5_000_000})

    assert _is_error(reply, 413, "invalid_request")


def test_a_secret_in_two_places_is_refused(client: FlaskClient, anyone: FlaskClient) -> None:
    credentials = _create(client)

    reply = anyone.post(TOKEN, data={**GRANT, **credentials}, headers=_basic(credentials))

    assert _is_error(reply, 400, "invalid_request")


def test_the_endpoint_only_takes_posts(anyone: FlaskClient) -> None:
    assert anyone.get(TOKEN).status_code == 405


def _key(client: FlaskClient) -> str:
    secret_key: str = client.application.extensions["orchestrator"].secret_key
    return secret_key


def test_forged_and_foreign_tokens_open_nothing(client: FlaskClient, anyone: FlaskClient) -> None:
    credentials = _create(client)
    right = anyone.post(TOKEN, data={**GRANT, **credentials}).json["access_token"]
    claims = jwt.decode(right, options={"verify_signature": False})
    minute, over = timedelta(minutes=1), -timedelta(seconds=1)

    forged = {
        "none": jwt.encode(claims, None, algorithm="none"),
        "another key": issue_token("x" * 40, claims, minute),
        "the key itself": jwt.encode(claims, _key(client), algorithm="HS256"),
        "over": issue_token(_key(client), claims, over),
        "nobody's": issue_token(_key(client), {}, minute),
        "a number's": issue_token(_key(client), {"sub": "1"}, minute),
        "no client's": issue_token(_key(client), {"sub": str(claims["sub"])[::-1]}, minute),
        "cut": right[:-2],
        "without signature": right.rpartition(".")[0] + ".",
        "changed": right.replace(".", ".A", 1),
        "deep": _encoded('{"a":' + "[" * 50_000) + ".e30.x",
        "not JSON": _encoded('{"a":') + ".e30.x",
        "a list": f"eyJ{_encoded('[]')}.e30.x",
        "kid": jwt.encode(claims, "x" * 40, algorithm="HS256", headers={"kid": "../../etc"}),
    }
    statuses = {name: _with(anyone, token).status_code for name, token in forged.items()}

    assert _with(anyone, right).status_code == 200
    assert statuses == dict.fromkeys(forged, 401)


def _encoded(text: str) -> str:
    return b64encode(text.encode()).decode().rstrip("=")
