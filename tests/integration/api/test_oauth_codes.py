"""OAuth codes and refresh tokens: a client acts in the name of the caller who gave it a code."""

from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from orchestrator.access.signing import issue_token
from tests.support.api_keys import a_key, with_key
from tests.support.factories import a_spec

TOKEN, AUTHORIZE, KEYS, RUNS = "/oauth/token", "/oauth/authorize", "/api/v1/keys", "/api/v1/runs"
BACK = "https://app.example/back?from=here"


pytestmark = pytest.mark.usefixtures("no_keys_left")


def _registered(client: FlaskClient, **options: Any) -> dict[str, str]:
    made = a_key(client, options.pop("role", "operator"), kind="oauth_client", **options)
    return {name: made[name] for name in ("client_id", "client_secret")}


def _ask(caller: FlaskClient, registered: dict[str, str], **query: str) -> TestResponse:
    query = {"response_type": "code", "redirect_uri": BACK, **query}
    query = {"client_id": registered["client_id"], **query}
    return caller.get(AUTHORIZE, query_string={name: v for name, v in query.items() if v})


def _code(caller: FlaskClient, registered: dict[str, str], **query: str) -> str:
    reply = _ask(caller, registered, **query)
    assert reply.status_code == 302, reply.json
    assert reply.headers["Cache-Control"] == "no-store"
    address = urlsplit(reply.headers["Location"])
    assert f"{address.scheme}://{address.netloc}{address.path}" == BACK.partition("?")[0]
    values = parse_qs(address.query)
    assert values["from"] == ["here"]
    assert values.get("state") == ([query["state"]] if "state" in query else None)
    return values["code"][0]


def _exchange(anyone: FlaskClient, registered: dict[str, str], **body: str) -> TestResponse:
    grant = {"grant_type": "authorization_code", "redirect_uri": BACK}
    return anyone.post(TOKEN, json={**registered, **grant, **body})


def _refused(reply: TestResponse, error: str, status: int = 400) -> bool:
    assert reply.headers["Cache-Control"] == "no-store"
    return (reply.status_code, reply.json["error"]) == (status, error)


@pytest.mark.row("`POST /oauth/token` with `authorization_code`: both tokens, in the caller's name")
def test_a_code_is_exchanged_for_tokens_in_the_name_of_the_caller(
    client: FlaskClient, anyone: FlaskClient
) -> None:
    client.post("/api/v1/workflows", json=a_spec())
    registered = _registered(client, scopes=["process"])
    ada = with_key(client, a_key(client, "admin", user="ada")["key"])

    code = _code(ada, registered, state="x y", scope="process_read,process_execute")
    reply = _exchange(anyone, registered, code=code)
    body = reply.json
    used = with_key(client, body["access_token"])
    (process,) = used.get("/api/v1/processes").json
    run = used.post(f"/api/v1/processes/{process['id']}/processruns").json

    assert reply.headers["Cache-Control"] == "no-store"
    assert (body["token_type"], body["scope"]) == ("Bearer", "process_read process_execute")
    assert isinstance(body["expires_in"], float)
    assert run["lastModifiedBy"] == "ada"


@pytest.mark.row("`POST /oauth/token` with `refresh_token`: a new token, and a new refresh token")
def test_a_refresh_token_gives_others_until_the_client_is_revoked(
    client: FlaskClient, anyone: FlaskClient
) -> None:
    made = a_key(client, "operator", kind="oauth_client", user="robot")
    registered = {name: made[name] for name in ("client_id", "client_secret")}
    body = _exchange(anyone, registered, code=_code(client, registered)).json

    for _ in range(2):
        refresh = {"grant_type": "refresh_token", "refresh_token": body["refresh_token"]}
        reply = anyone.post(TOKEN, data={**registered, **refresh})
        assert reply.json["refresh_token"] != body["refresh_token"]
        assert with_key(client, reply.json["access_token"]).get(RUNS).status_code == 200
        body = reply.json
    wider = anyone.post(TOKEN, data={**registered, **refresh, "scope": 'a"b'})
    assert _refused(wider, "invalid_scope")
    assert with_key(client, body["refresh_token"]).get(RUNS).status_code == 401

    client.post(f"{KEYS}/{made['id']}/revoke")
    assert _refused(anyone.post(TOKEN, data={**registered, **refresh}), "invalid_client", 401)
    assert with_key(client, body["access_token"]).get(RUNS).status_code == 401


def test_a_code_is_good_once_for_its_client_and_address(
    client: FlaskClient, anyone: FlaskClient
) -> None:
    one, other = _registered(client), _registered(client)
    code = _code(client, one)

    assert _refused(_exchange(anyone, other, code=code), "invalid_grant")
    for address in ("https://app.example/", ""):
        wrong = _exchange(anyone, one, code=code, redirect_uri=address)
        assert _refused(wrong, "invalid_grant")
    assert _refused(
        _exchange(anyone, {**one, "client_secret": "x"}, code=code), "invalid_client", 401
    )
    assert with_key(client, code).get(RUNS).status_code == 401
    access = _exchange(anyone, one, code=code).json["access_token"]
    assert _refused(_exchange(anyone, one, code=code), "invalid_grant")
    refresh = {"grant_type": "refresh_token", "refresh_token": access}
    assert _refused(anyone.post(TOKEN, data={**one, **refresh}), "invalid_grant")


def test_an_old_code_is_refused(client: FlaskClient, anyone: FlaskClient) -> None:
    registered = _registered(client)
    key = client.application.extensions["orchestrator"].secret_key
    claims = {"sub": "x", "scopes": None, "user": "ada", "redirect_uri": BACK, "jti": "1"}
    old = issue_token(key, claims, -timedelta(seconds=1), "code")

    assert _refused(_exchange(anyone, registered, code=old), "invalid_grant")


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({"response_type": ""}, "unsupported_response_type"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"redirect_uri": ""}, "invalid_request"),
        ({"redirect_uri": "javascript:alert(1)"}, "invalid_request"),
        ({"redirect_uri": "//evil.example"}, "invalid_request"),
        ({"redirect_uri": "https:///x"}, "invalid_request"),
        ({"redirect_uri": "https://a.example/#x"}, "invalid_request"),
        ({"redirect_uri": "https://a.example/\r\nSet-Cookie: a=b"}, "invalid_request"),
        ({"client_id": "nope"}, "invalid_client"),
        ({"client_id": ""}, "invalid_client"),
        ({"scope": "process"}, "invalid_scope"),
    ],
)
def test_a_wrong_request_for_a_code_is_refused(
    client: FlaskClient, query: dict[str, str], error: str
) -> None:
    reply = _ask(client, _registered(client, scopes=["process_read"]), **query)

    assert _refused(reply, error, 401 if error == "invalid_client" else 400), reply.json
    assert "Location" not in reply.headers


def test_a_client_gets_no_more_rights_than_the_caller_has(client: FlaskClient) -> None:
    admin = _registered(client, role="admin")
    narrow = _registered(client, scopes=["runs"])
    viewer = with_key(client, a_key(client, "viewer")["key"])
    scoped = with_key(client, a_key(client, "operator", scopes=["runs:read"])["key"])

    assert _refused(_ask(viewer, admin), "access_denied", 403)
    assert _refused(_ask(scoped, narrow), "access_denied", 403)
    assert _ask(scoped, narrow, scope="runs:read").status_code == 302
    process = _registered(client, scopes=["process"])
    reader = with_key(client, a_key(client, "operator", scopes=["process_execute"])["key"])
    assert _ask(reader, process, scope="process_read").status_code == 302
    assert _refused(_ask(reader, process), "access_denied", 403)
    basic = client.application.test_client()
    assert _refused(basic.get(AUTHORIZE, auth=("ada", "x")), "invalid_client", 401)
