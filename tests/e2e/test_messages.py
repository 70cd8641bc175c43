"""The version in a message, and what a worker does with an unknown one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from orchestrator.broker.messages import VERSION
from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.support.factories import eventually
from tests.support.processes import submit

_NOBODY, _LISTENED = "nobody-listens\x06\x165", "default\x06\x165"  # Redis lists of priority Normal


@pytest.fixture
def broker(stack: Stack) -> Iterator[redis.Redis]:
    """The Redis of the stack."""
    with redis.Redis.from_url(stack.environ["ORCHESTRATOR_REDIS_URL"]) as connection:
        connection.delete(_NOBODY)
        yield connection


def _take(broker: redis.Redis) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(eventually(lambda: broker.rpop(_NOBODY)))
    return message


def test_a_message_of_an_unknown_version_is_ignored(
    stack: Stack, client: Client, broker: redis.Redis
) -> None:
    step = {"key": "s", "uses": "noop", "queue": "nobody-listens"}
    run = submit(client, {"name": "from-tomorrow", "steps": [step]})
    message = _take(broker)

    known = message["headers"]["version"]
    message["headers"]["version"] = VERSION + 1
    broker.lpush(_LISTENED, json.dumps(message))
    eventually(lambda: "its version is unknown" in _logs(stack))
    step = client.run(run["id"])["steps"][0]
    again = _take(broker)  # the scheduler sends it again

    assert known == again["headers"]["version"] == VERSION
    assert (step["state"], step["attempt"]) == ("queued", 0)
    client.cancel(run["id"])


def test_a_worker_stamps_the_rest_of_a_chain(client: Client, broker: redis.Redis) -> None:
    steps = [
        {"key": "here", "uses": "noop"},
        {"key": "there", "uses": "noop", "queue": "nobody-listens"},
    ]
    run = submit(client, {"name": "stamped", "steps": steps})

    message = _take(broker)

    assert message["headers"]["version"] == VERSION
    assert message["headers"]["parent_id"]  # a worker sent it
    client.cancel(run["id"])


def _logs(stack: Stack) -> str:
    logs = Path(stack._directory) / "logs"
    return "".join(each.read_text() for each in logs.glob("worker-*.log"))
