"""What kombu asks of our transport, over real Redis."""

from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection
from redis import Redis
from redis.exceptions import ConnectionError

from tests.conftest import Services
from tests.support.factories import eventually
from workers.celery_ext.transport import ListeningPubSub


@pytest.fixture
def redis(services: Services) -> Iterator["Redis[bytes]"]:
    """The broker, asked directly."""
    with Redis.from_url(services.redis_url) as connection:
        yield connection


@pytest.fixture
def listening(services: Services) -> Iterator[ListeningPubSub]:
    """What a worker hears broadcasts by, once it hears them."""
    url = services.redis_url
    with Connection(url, transport="workers.celery_ext.transport:Transport") as connection:
        channel: Any = connection.default_channel
        channel.subclient.subscribe("news")
        eventually(channel.subclient.parse_response)
        yield channel.subclient


@pytest.mark.timeout(20)
def test_nothing_is_waited_for(listening: ListeningPubSub, redis: "Redis[bytes]") -> None:
    assert listening.parse_response() is None
    redis.publish("news", "hello")
    assert eventually(listening.parse_response)[-1] == b"hello"
    assert listening.parse_response() is None


@pytest.mark.timeout(20)
def test_a_connection_that_was_cut_is_told_of(
    listening: ListeningPubSub, redis: "Redis[bytes]"
) -> None:
    redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    with pytest.raises(ConnectionError):
        eventually(listening.parse_response)
