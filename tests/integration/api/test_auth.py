"""Where each API accepts a key, and what it rejects as one."""

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest
from flask import g
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from api.toolkit import auth
from api.toolkit.auth import Accepts
from orchestrator.errors import Unauthenticated
from tests.support.factories import KEY

RUNS = "/api/v1/runs"
WRONG = "ok_wrong"


def _basic(pair: str) -> str:
    return f"Basic {b64encode(pair.encode()).decode()}"


@pytest.fixture
def adas(client: FlaskClient, engine: Engine) -> Iterator[str]:
    """A key that belongs to a user."""
    body = {"name": "ci", "role": "viewer", "user": "ada@example.org"}
    yield client.post("/api/v1/keys", json=body).json["key"]
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM keys WHERE name = 'ci'"))


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": _basic(f"anyone:{KEY}")},
        {"Authorization": _basic(f":{KEY}")},
        {"Authorization": f"basic  {_basic(f'é:{KEY}').split()[1]}"},
        {"Cookie": f"orchestrator_key={KEY}"},
        {"Authorization": f"Bearer {WRONG}", "X-API-Key": KEY},
        {"Authorization": _basic(f"a:{WRONG}"), "Cookie": f"orchestrator_key={KEY}"},
        {"X-API-Key": KEY, "Cookie": f"orchestrator_key={WRONG}"},
    ],
)
def test_any_right_key_in_its_place_opens(anyone: FlaskClient, headers: dict[str, str]) -> None:
    assert anyone.get(RUNS, headers=headers).status_code == 200


def test_of_several_wrong_keys_the_first_is_told_about(anyone: FlaskClient) -> None:
    forged = "eyJhbGciOiJub25lIn0.e30."

    reply = anyone.get(RUNS, headers={"Authorization": f"Bearer {forged}", "X-API-Key": WRONG})

    assert (reply.status_code, reply.json["detail"]) == (401, "this token is not one of ours")


def test_a_cookie_changes_nothing(anyone: FlaskClient) -> None:
    cookie = {"Cookie": f"orchestrator_key={KEY}"}

    replies = [
        anyone.open(RUNS, method=method, headers=cookie, json={"workflow": "w"})
        for method in ("POST", "PATCH", "PUT", "DELETE")
    ]

    assert {reply.status_code for reply in replies} == {401}
    assert "a cookie only reads" in replies[0].json["detail"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query_string": {"api_key": KEY}}, "not taken from the address"),
        ({"query_string": {"Token": KEY}}, "not taken from the address"),
        ({"json": {"api_key": KEY}}, "the body is not looked at"),
        ({"headers": {"Authorization": KEY}}, "`Authorization: Bearer …`"),
        ({"headers": {"Authorization": f"ApiKey {KEY}"}}, "`X-API-Key: …`"),
        ({"headers": {"Cookie": f"key={KEY}"}}, "`Authorization: Bearer …`"),
    ],
)
def test_a_key_in_the_wrong_place_is_told_where_it_belongs(
    anyone: FlaskClient, options: dict[str, Any], message: str
) -> None:
    reply = anyone.post(RUNS, **options)

    assert reply.status_code == 401
    assert message in reply.json["detail"]
    assert "`X-API-Key: …`" in reply.json["detail"]
    assert KEY not in reply.text


def test_a_key_that_belongs_to_a_user_is_only_theirs(anyone: FlaskClient, adas: str) -> None:
    names = ("ada@example.org", "", "eve@example.org")

    replies = [
        anyone.get(RUNS, headers={"Authorization": _basic(f"{name}:{adas}")}) for name in names
    ]

    assert [reply.status_code for reply in replies] == [200, 200, 401]
    assert replies[2].json["detail"] == "this key belongs to another user"


@pytest.mark.parametrize(
    "value",
    [
        "Bearer \x00",
        f"Bearer {KEY}\x00",
        "Bearer é€",
        f"Bearer {'a' * 1_000_000}",
        f"Bearer eyJ{'a' * 1_000_000}.e30.x",
        "Bearer ..",
        "Bearer eyJ..",
        "Bearer eyJé.é.é",
        "Basic",
        "Basic !!!",
        "Basic a",
        f"Basic {KEY}",
        f"Basic {b64encode(KEY.encode()).decode()}",
        f"Basic {b64encode(f'{KEY}:'.encode()).decode()}",
        f"Basic {b64encode(bytes([255, 254, 58, 255])).decode()}",
        f"Basic {b64encode(b'a:' + bytes(100)).decode()}",
        f"Basic {b64encode(b'a' * 1_000_000 + b':b').decode()}",
        "Digest username=x",
        ",,,",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_not_a_key_opens_nothing(anyone: FlaskClient, value: str, method: str) -> None:
    headers = {"Authorization": value}

    replies = [anyone.open(RUNS, method=method, headers=headers)]
    replies.append(anyone.open(RUNS, method=method, headers={"X-API-Key": value}))
    replies.append(
        anyone.open(RUNS, method=method, headers={"Cookie": f"orchestrator_key={value}"})
    )

    assert [reply.status_code for reply in replies] == [401, 401, 401]
    assert {reply.content_type for reply in replies} == {"application/problem+json"}


SURFACES: list[tuple[Accepts, dict[str, Any]]] = [
    (Accepts(headers=("x-odsl-key",), user_header="x-odsl-email"),
        {"headers": {"x-odsl-key": KEY, "x-odsl-email": "ada@example.org"}}),
    (Accepts(headers=("X-API-KEY", "OAUTH-TOKEN"), query="api_key", body="api_key"),
        {"query_string": {"api_key": KEY}}),
    (Accepts(query="api_key", body="api_key"), {"method": "POST", "json": {"api_key": KEY}}),
    (Accepts(headers=("X-API-KEY", "OAUTH-TOKEN")), {"headers": {"OAUTH-TOKEN": KEY}}),
    (Accepts(cookie="vai_token", cookie_changes=True),
        {"method": "POST", "headers": {"Cookie": f"vai_token={KEY}"}}),
    (Accepts(bearer=False, basic=True), {"headers": {"Authorization": _basic(f"ada:{KEY}")}}),
]  # fmt: skip


@pytest.mark.parametrize(("accepts", "options"), SURFACES)
def test_each_surface_says_where_it_takes_a_key(
    client: FlaskClient, accepts: Accepts, options: dict[str, Any]
) -> None:
    others = Accepts(bearer=False, headers=("another",))

    with client.application.test_request_context("/", **options):
        auth.authenticate(accepts)
        assert g.caller.name == "admin"
        with pytest.raises(Unauthenticated, match="send a key as"):
            auth.authenticate(others)


@pytest.mark.parametrize("body", [[], None, {"api_key": 1}, {"api_key": "\ud800"}, {"api_key": ""}])
def test_a_member_of_the_body_that_is_not_a_key_is_none(client: FlaskClient, body: Any) -> None:
    accepts = Accepts(bearer=False, body="api_key", query="api_key")

    request = client.application.test_request_context("/", method="POST", json=body)
    with request, pytest.raises(Unauthenticated):
        auth.authenticate(accepts)


def test_a_key_is_looked_for_in_a_small_body_only(client: FlaskClient) -> None:
    accepts = Accepts(body="api_key")
    body = {"api_key": KEY, "filler": "x" * auth.MAX_OPEN_BODY}

    with (
        client.application.test_request_context("/", method="POST", json=body),
        pytest.raises(Unauthenticated, match=r"in a body of at most 65,536 bytes as `api_key`"),
    ):
        auth.authenticate(accepts)
