"""Takes messages from Redis without a list there of what is not acknowledged yet.

Ours are acknowledged as soon as a child has them, and one that is lost on the way is sent again by
the scheduler. The list took two journeys to Redis and a third of what a worker's parent does for a
step; and a connection that was lost while it held something has stopped workers for good.
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

_PATIENCE = 5.0  # seconds in which the rest of something that has begun to come must be there


class HintQoS(redis.QoS):
    """What this process has taken and not acknowledged, in its own memory."""

    restore_at_shutdown = False

    def append(self, message: Any, delivery_tag: str) -> None:
        """Remember a message that was taken."""
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Forget it: a child has it."""
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Forget it: nobody wants it."""
        virtual.QoS.ack(self, delivery_tag)

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """Nothing is to be delivered again, and the loop waits for no answer about it."""


class ListeningPubSub(PubSub):
    """What is broadcast, heard without ever waiting for it.

    redis-py waits without an end for a message that does not come, and kombu asks in the loop that
    does all of a worker's work: one that was told of news that were none, or of half a message
    before Redis fell silent, took a step only every time that something else was broadcast. And
    redis-py mends a lost connection by another one, of which kombu's loop knows nothing.
    """

    def parse_response(self, block: bool = True, timeout: float = 0) -> Any:
        """What has come, None for nothing. Raises ConnectionError for a connection that is lost."""
        connection: Any = self.connection
        if connection is None:
            return None
        heard_by, response = connection._sock, None
        if connection.can_read(timeout=0):
            response = super().parse_response(block=False, timeout=_PATIENCE)  # type: ignore[no-untyped-call]
        if connection._sock is not heard_by:
            raise ConnectionError("what is broadcast was not heard for a while")
        return response


class Channel(redis.Channel):
    """A channel of hints."""

    QoS = HintQoS

    @cached_property
    def subclient(self) -> ListeningPubSub:
        """The connection on which it hears what is broadcast."""
        client = self._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        return ListeningPubSub(client.connection_pool)


class Transport(redis.Transport):
    """Celery's transport over Redis, but for that."""

    Channel = Channel


def close_inherited_sockets() -> None:
    """In a child: hold none of the sockets from which the worker's loop waits for news.

    A socket that a child holds open stays in the loop after the worker has closed it, and tells it
    without an end of news that are none.
    """
    loop = get_event_loop()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in list(loop.readers) if loop else ():
        with suppress(OSError):  # the loop may know one that was closed behind its back
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                os.dup2(nothing, number)  # not closed: who knows the number would close another
    os.close(nothing)
