"""VirtuousAI's access tokens, which are keys of the tenant."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.contracts.adapters.virtuousai import ADAPTER, RUNS, body_of
from tests.contracts.virtuousai.helpers import NOBODY, mistake_of
from tests.support.api_keys import a_key, with_key

TOKENS = "/api/v1/access-tokens"
MEMBERS = [
    "id", "name", "tokenPrefix", "tokenType", "createdAt", "expiresAt", "lastUsedAt", "revokedAt",
]  # fmt: skip

pytestmark = pytest.mark.usefixtures("no_keys_left")


@pytest.mark.row("VirtuousAI POST access-tokens: plaintext once, expiresInDays")
@pytest.mark.row("VirtuousAI GET, DELETE access-tokens/{id}")
def test_a_token_is_made_used_and_revoked(client: FlaskClient) -> None:
    made = client.post(TOKENS, json={"name": "CI/CD Token", "expiresInDays": 90})
    body = body_of(made)
    token, secret = body["token"], body["plaintext"]
    path = f"{TOKENS}/{token['id']}"

    assert made.headers["Cache-Control"] == "no-store"
    assert list(token) == MEMBERS
    assert (token["name"], token["tokenType"], token["revokedAt"]) == ("CI/CD Token", "pat", None)
    assert secret.startswith(token["tokenPrefix"])
    span = datetime.fromisoformat(token["expiresAt"]) - datetime.fromisoformat(token["createdAt"])
    assert abs(span - timedelta(days=90)) < timedelta(minutes=1)
    bot = with_key(client, secret)
    assert body_of(bot.get(RUNS))["total"] == 0
    assert body_of(client.get(path))["name"] == "CI/CD Token"
    assert secret not in client.get(TOKENS).text
    assert ADAPTER.refusal(bot.delete(path)) == 409  # not by itself
    assert body_of(client.delete(path))["revokedAt"] is not None
    assert ADAPTER.refusal(bot.get(RUNS)) == 401
    listed = [each["id"] for each in body_of(client.get(TOKENS))["items"]]
    assert token["id"] not in listed
    everything = body_of(client.get(TOKENS, query_string={"includeRevoked": "true"}))["items"]
    assert token["id"] in [each["id"] for each in everything]


@pytest.mark.row("VirtuousAI GET access-tokens: tokenType, includeRevoked, limit, cursor")
def test_tokens_come_in_pages(client: FlaskClient) -> None:
    for number in range(4):
        body_of(client.post(TOKENS, json={"name": f"t{number}"}))
    whole = body_of(client.get(TOKENS))
    assert (len(whole["items"]), whole["nextCursor"]) == (5, None)  # and the key of the test

    names: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = body_of(client.get(TOKENS, query_string=query))
        names += [each["name"] for each in page["items"]]
        if page["nextCursor"] is None:
            break
        query["cursor"] = page["nextCursor"]

    assert names == [each["name"] for each in whole["items"]]
    assert body_of(client.get(f"{TOKENS}?tokenType=session"))["items"] == []
    assert len(body_of(client.get(f"{TOKENS}?tokenType=pat"))["items"]) == 5


@pytest.mark.row(
    "VirtuousAI DELETE access-tokens: revoke all",
    otherwise="because one key must not end all others of its tenant at once; each has its address",
)
def test_a_token_has_no_more_rights_than_its_maker(client: FlaskClient) -> None:
    scoped = with_key(client, a_key(client, scopes=["keys", "runs:read"])["key"])
    viewer = with_key(client, a_key(client, "viewer")["key"])

    weak = with_key(client, body_of(scoped.post(TOKENS, json={"name": "weak"}))["plaintext"])

    assert body_of(weak.get(RUNS))["total"] == 0
    assert ADAPTER.refusal(weak.get("/api/v1/automations")) == 403
    for refused in (viewer.get(TOKENS), viewer.post(TOKENS, json={"name": "n"})):
        assert ADAPTER.refusal(refused) == 403
    assert ADAPTER.refusal(client.delete(TOKENS)) == 405


WRONG: list[tuple[str, str, Any, list[str], str]] = [
    ("POST", TOKENS, {}, ["body", "name"], "missing"),
    ("POST", TOKENS, {"name": ""}, ["body", "name"], "string_too_short"),
    ("POST", TOKENS, {"name": "n" * 256}, ["body", "name"], "string_too_long"),
    ("POST", TOKENS, {"name": "admin"}, ["body", "name"], "value_error"),
    ("POST", TOKENS, {"name": "n", "expiresInDays": 0}, ["body", "expiresInDays"],
     "greater_than_equal"),
    ("POST", TOKENS, {"name": "n", "expiresInDays": 366}, ["body", "expiresInDays"],
     "less_than_equal"),
    ("GET", f"{TOKENS}?limit=201", None, ["query", "limit"], "less_than_equal"),
    ("GET", f"{TOKENS}?tokenType=x", None, ["query", "tokenType"], "enum"),
    ("GET", f"{TOKENS}?includeRevoked=maybe", None, ["query", "includeRevoked"], "bool_parsing"),
    ("GET", f"{TOKENS}?cursor=x", None, ["query", "cursor"], "uuid_parsing"),
    ("GET", f"{TOKENS}/x", None, ["path", "token_id"], "uuid_parsing"),
    ("DELETE", f"{TOKENS}/x", None, ["path", "token_id"], "uuid_parsing"),
]  # fmt: skip


def test_a_wrong_request_says_what_is_wrong(client: FlaskClient) -> None:
    for method, path, body, *wrong in WRONG:
        assert list(mistake_of(client, method, path, json=body)) == wrong, (path, body)
    unknown = client.get(f"{TOKENS}/{NOBODY}")
    assert (unknown.status_code, unknown.json) == (404, {"detail": "Access token not found"})
