"""A Redis transport without kombu's list of unacknowledged messages.

Messages are acknowledged as soon as a child has them, and the scheduler publishes a lost one again.
The list cost two round trips to Redis and a third of the parent's work per step; and a connection
lost while messages were unacknowledged has stopped workers from consuming for good.
"""

import os
import stat
from contextlib import suppress
from functools import cached_property
from typing import Any

from kombu.asynchronous import get_event_loop
from kombu.transport import redis, virtual
from redis.client import PubSub
from redis.exceptions import ConnectionError

_READ_TIMEOUT = 5.0  # seconds until the rest of a partly received message must have arrived


class InMemoryQoS(redis.QoS):
    """Unacknowledged messages, kept in memory only."""

    restore_at_shutdown = False

    def append(self, message: Any, delivery_tag: str) -> None:
        """Keep a received message."""
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Drop it: a child has it."""
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop it."""
        virtual.QoS.ack(self, delivery_tag)

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """Nothing is redelivered: kombu would query Redis here, in the event loop."""


class NonBlockingPubSub(PubSub):
    """A subscription whose reads never block for a message that has not arrived.

    redis-py blocks without a timeout for a complete message, and kombu reads in the worker's event
    loop: after a spurious wake-up, or half a message from a Redis that then hung, such a worker
    took one step per broadcast. And redis-py replaces a lost connection by a new socket that
    kombu's loop does not poll.
    """

    def parse_response(self, block: bool = True, timeout: float = 0) -> Any:
        """The next message, or None. Raises ConnectionError when the connection was lost."""
        connection: Any = self.connection
        if connection is None:
            return None
        socket, response = connection._sock, None
        if connection.can_read(timeout=0):
            response = super().parse_response(block=False, timeout=_READ_TIMEOUT)  # type: ignore[no-untyped-call]
        if connection._sock is not socket:
            raise ConnectionError("the subscription was reconnected; broadcasts may be lost")
        return response


class Channel(redis.Channel):
    """A channel with both of these."""

    QoS = InMemoryQoS

    @cached_property
    def subclient(self) -> NonBlockingPubSub:
        """The subscription to broadcasts (remote control)."""
        client = self._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        return NonBlockingPubSub(client.connection_pool)


class Transport(redis.Transport):
    """kombu's Redis transport with this channel."""

    Channel = Channel


def close_inherited_sockets() -> None:
    """In a child: replace the sockets that the parent's event loop polls by /dev/null.

    A socket that a child keeps open stays in the parent's epoll set after the parent has closed it,
    and wakes the loop without end.
    """
    loop = get_event_loop()
    null = os.open(os.devnull, os.O_RDWR)
    for number in list(loop.readers) if loop else ():
        with suppress(OSError):  # the loop may still list a closed one
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                os.dup2(null, number)  # dup2, not close: the number may be reused
    os.close(null)
