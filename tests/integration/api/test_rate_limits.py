"""The limit of requests per minute: 429, its headers, and without Redis."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient

from api.app import create_app
from config.settings import Settings
from orchestrator.db.database import Database
from tests.conftest import Services
from tests.support.factories import KEY

RUNS = "/api/v1/runs"


@pytest.fixture
def client_of(settings: Settings, database: Database) -> Iterator[Callable[..., FlaskClient]]:
    """Makes an API with other settings, and the admin key."""
    with ExitStack() as exits:

        def make(**changes: Any) -> FlaskClient:
            app = create_app(replace(settings, **changes))
            for each in (
                app.extensions["orchestrator"].database,
                app.extensions["orchestrator"].unscoped_database,
            ):
                exits.callback(each.engine.dispose)
            client = app.test_client()
            client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"
            return client

        yield make


def test_whoever_asks_too_often_is_told_when_to_come_again(
    client_of: Callable[..., FlaskClient],
) -> None:
    client = client_of(rate_limit=5)

    replies = [client.get(RUNS) for _ in range(7)]

    assert [reply.status_code for reply in replies] == [200] * 5 + [429] * 2
    left = [int(reply.headers["X-RateLimit-Remaining"]) for reply in replies]
    assert left == sorted(left, reverse=True)
    refused = replies[-1]
    assert refused.content_type == "application/problem+json"
    assert refused.json["code"] == "too_many_requests"  # type: ignore[index]
    assert 1 <= int(refused.headers["Retry-After"]) <= 61
    assert refused.headers["X-RateLimit-Limit"] == "5"
    assert client.get("/healthz").status_code == 200
    assert client.get(RUNS, headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_without_redis_nobody_is_refused(client_of: Callable[..., FlaskClient]) -> None:
    client = client_of(rate_limit=1, redis_url="redis://127.0.0.1:1/0")

    assert [client.get(RUNS).status_code for _ in range(3)] == [200] * 3


def test_without_a_limit_nothing_is_told(client_of: Callable[..., FlaskClient]) -> None:
    reply = client_of().get(RUNS)

    assert not [name for name, _ in reply.headers if name.startswith("X-RateLimit")]


@pytest.mark.parametrize(
    ("kind", "value"),
    [("string", "x"), ("string", "9" * 30), ("string", "1000000"), ("list", "x"), ("hash", "x")],
)
def test_a_counter_of_somebody_else_neither_refuses_nor_lifts_the_limit(
    client_of: Callable[..., FlaskClient], services: Services, kind: str, value: str
) -> None:
    client = client_of(rate_limit=3)
    client.get(RUNS)
    with redis.Redis.from_url(services.redis_url) as broker:
        for name in broker.keys("LIMITS:*"):
            broker.delete(name)
            if kind == "string":
                broker.set(name, value)
            elif kind == "list":
                broker.lpush(name, value)
            else:
                broker.hset(name, value, value)

    assert [client.get(RUNS).status_code for _ in range(4)] == [200] * 3 + [429]
