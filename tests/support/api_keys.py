"""Keys for the tests of the API: made over REST, used, aged."""

from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import Engine, text

KEYS = "/api/v1/keys"
RUNS = "/api/v1/runs"


def a_key(client: FlaskClient, role: str = "admin", **asked: Any) -> dict[str, Any]:
    reply = client.post(KEYS, json={"name": "ci", "role": role, **asked})
    assert reply.status_code == 201, reply.json
    made: dict[str, Any] = reply.json
    return made


def with_key(client: FlaskClient, secret: str) -> FlaskClient:
    other = client.application.test_client()
    other.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
    return other


def refusal(client: FlaskClient, secret: str) -> str | None:
    """Why the key is refused; None when it is not."""
    reply = with_key(client, secret).get(RUNS)
    return None if reply.status_code == 200 else f"{reply.status_code} {reply.json['detail']}"


def age(engine: Engine, key: dict[str, Any], change: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE keys SET {change} WHERE id = :id"), {"id": key["id"]})
