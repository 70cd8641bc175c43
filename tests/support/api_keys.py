"""API keys for tests: created over REST, used, aged."""

from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import Engine, text

KEYS = "/api/v1/keys"
RUNS = "/api/v1/runs"


def a_key(client: FlaskClient, role: str = "admin", **fields: Any) -> dict[str, Any]:
    response = client.post(KEYS, json={"name": "ci", "role": role, **fields})
    assert response.status_code == 201, response.json
    key: dict[str, Any] = response.json
    return key


def with_key(client: FlaskClient, secret: str) -> FlaskClient:
    other = client.application.test_client()
    other.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
    return other


def refusal(client: FlaskClient, secret: str) -> str | None:
    """Status and detail of the refusal of the key; None when it is accepted."""
    response = with_key(client, secret).get(RUNS)
    return (
        None if response.status_code == 200 else f"{response.status_code} {response.json['detail']}"
    )


def age(engine: Engine, key: dict[str, Any], change: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE keys SET {change} WHERE id = :id"), {"id": key["id"]})
