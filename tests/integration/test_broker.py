"""What Redis holds of us, and that the broker fails nobody."""

import json
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest
import redis

from orchestrator import local
from orchestrator.broker import Broker, make_app
from orchestrator.db import Database
from orchestrator.messages import VERSION, Message, Outgoing
from tests.conftest import Services
from tests.factories import a_run, a_spec

QUEUE = "nobody-listens-to-this-one-queue"  # 32 characters, the longest that a spec may name


@pytest.fixture
def store(services: Services) -> Iterator[redis.Redis]:
    """The Redis of the tests, without what this test left there."""
    with redis.Redis.from_url(services.redis_url) as client:
        yield client
        for key in client.scan_iter(f"{QUEUE}*"):
            client.delete(key)


@pytest.fixture
def broker(services: Services, store: redis.Redis) -> Broker:
    """A broker as the API has it."""
    return Broker(make_app(services.redis_url, publisher=True))


def _told(priority: int) -> Outgoing:
    message = Message(task_id=f"{uuid4()}.1", queue=QUEUE, priority=priority, name="w/s#1")
    return Outgoing(messages=[(message, ())])


@pytest.mark.parametrize("steps", [1, 40, 1000])
def test_no_message_is_larger_than_two_kib(
    database: Database, sent: list[Outgoing], broker: Broker, store: redis.Redis, steps: int
) -> None:
    key = "k" * 58
    chain = [{"key": f"{key}_{n}", "uses": "noop"} for n in range(steps)]
    a_run(database, {"name": "w" * 100, "queue": QUEUE, "priority": 0, "steps": chain})

    broker.deliver(sent[-1])

    (name,) = store.keys(f"{QUEUE}*")
    (message,) = store.lrange(name, 0, -1)
    assert len(message) <= 2048
    assert json.loads(message)["headers"]["version"] == VERSION


def test_a_higher_priority_is_taken_first(broker: Broker, store: redis.Redis) -> None:
    low, high = _told(2), _told(8)
    broker.deliver(low)
    broker.deliver(high)

    pending = broker.pending(QUEUE)

    assert pending == {low.messages[0][0].task_id, high.messages[0][0].task_id}
    # Redis takes the list of the lowest number first; the separator is kombu's.
    assert sorted(store.keys(f"{QUEUE}*")) == [
        f"{QUEUE}\x06\x161".encode(), f"{QUEUE}\x06\x167".encode()
    ]  # fmt: skip


def test_a_broker_that_is_away_fails_nobody_and_costs_little() -> None:
    broker = Broker(make_app(f"redis://127.0.0.1:{local.free_port()}/0", publisher=True))
    outgoing = _told(4)
    outgoing.revoked = [f"{uuid4()}.1"]

    asked = time.monotonic()
    broker.deliver(outgoing)
    broker.deliver(Outgoing(revoked=outgoing.revoked))

    assert time.monotonic() - asked < 1.5
    assert broker.pending(QUEUE) is None
    assert not broker.ping()


def test_a_run_of_a_thousand_steps_sends_one_short_chain(
    database: Database, sent: list[Outgoing]
) -> None:
    a_run(database, a_spec(steps=1000))

    ((head, chain),) = sent[-1].messages
    assert [each.name for each in (head, *chain)] == [
        "work/s1#1", "work/s2#1", "work/s3#1", "work/s4#1"
    ]  # fmt: skip
