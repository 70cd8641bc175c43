"""The transport that kombu uses, over real Redis."""

from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection
from redis import Redis
from redis.exceptions import ConnectionError

from tests.conftest import Services
from tests.support.factories import eventually
from workers.celery_ext.transport import NonBlockingPubSub


@pytest.fixture
def redis(services: Services) -> Iterator["Redis[bytes]"]:
    """A plain connection to the broker."""
    with Redis.from_url(services.redis_url) as connection:
        yield connection


@pytest.fixture
def subscription(services: Services) -> Iterator[NonBlockingPubSub]:
    """A worker's subscription to broadcasts, once it is confirmed."""
    url = services.redis_url
    with Connection(url, transport="workers.celery_ext.transport:Transport") as connection:
        channel: Any = connection.default_channel
        channel.subclient.subscribe("news")
        eventually(channel.subclient.parse_response)
        yield channel.subclient


@pytest.mark.timeout(20)
def test_reading_never_blocks(subscription: NonBlockingPubSub, redis: "Redis[bytes]") -> None:
    assert subscription.parse_response() is None
    redis.publish("news", "hello")
    assert eventually(subscription.parse_response)[-1] == b"hello"
    assert subscription.parse_response() is None


@pytest.mark.timeout(20)
def test_a_lost_connection_is_reported(
    subscription: NonBlockingPubSub, redis: "Redis[bytes]"
) -> None:
    redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    with pytest.raises(ConnectionError):
        eventually(subscription.parse_response)
