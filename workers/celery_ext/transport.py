"""The worker's Redis transport: it checks what it delivers, and lists no unacknowledged messages.

Messages are acknowledged as soon as a child has them, and the scheduler publishes a lost one again.
The list cost two round trips to Redis and a third of the parent's work per step; and a connection
lost while messages were unacknowledged has stopped workers from consuming for good.
"""

import os
import stat
from contextlib import suppress
from functools import cached_property
from queue import Empty
from typing import Any

from kombu.asynchronous import get_event_loop
from kombu.transport import redis, virtual
from redis.client import PubSub
from redis.exceptions import ConnectionError, ResponseError

from orchestrator.broker import transport, wire
from orchestrator.broker.drops import drops
from orchestrator.broker.wire import ForeignMessage

_BATCH = 200  # messages that are looked at after a foreign one
_BURST = 20  # commands in one turn of the event loop
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


class Channel(transport.Channel):
    """A channel with both of these, whose messages are checked before kombu sees them."""

    QoS = InMemoryQoS
    _in_poll: Any
    _in_listen: Any
    _will_receive = False

    @cached_property
    def subclient(self) -> NonBlockingPubSub:
        """The subscription to broadcasts (remote control)."""
        client = self._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        return NonBlockingPubSub(client.connection_pool)

    def _brpop_read(self, **options: Any) -> bool:
        """Deliver the message that Redis has sent. Raises Empty when there is none of ours."""
        try:
            item = self.client.parse_response(self.client.connection, "BRPOP", **options)
        except self.connection_errors:
            self.client.connection.disconnect()
            raise
        except ResponseError as error:
            if not transport.is_wrong_type(error):
                raise
            self.drop_wrong_types(self.active_queues)
            raise Empty from error
        finally:
            self._in_poll = None
        if not item:
            raise Empty
        queue, _, level = item[0].decode().partition(self.sep)
        self._queue_cycle.rotate(queue)
        rebuild = wire.rebuild_probe if wire.is_probe(queue) else wire.rebuild_task
        if not self._deliver_checked(queue, rebuild, item[1], queue, int(level or 0)):
            # One by one, a million took minutes.
            count = self._with_lists(self._drop_next, queue, item[0])
            drops.add(queue, "it is malformed", count)
        return True

    def _drop_next(self, _: str, name: bytes) -> int:
        """Drop those of the next messages of a list that are not ours; gives how many."""
        with self.conn_or_acquire() as client:
            texts = client.rpop(name, _BATCH) or []
            ours = [text for text in texts if wire.find_task_id(text)]
            if ours:
                client.rpush(name, *reversed(ours))
        return len(texts) - len(ours)

    def _receive(self) -> None:
        """Deliver the commands that have arrived, and leave others a turn after some of them."""
        for _ in range(_BURST):
            self._receive_one(self.subclient)
            connection: Any = self.subclient.connection
            if connection is None or not connection.can_read(timeout=0):
                return
        loop = get_event_loop()
        if loop and not self._will_receive:  # what has been read ahead wakes no loop
            self._will_receive = True
            loop.call_soon(self._receive_more)

    def _receive_more(self) -> None:
        self._will_receive = False
        if self._in_listen:
            self._receive()

    def _receive_one(self, subscription: NonBlockingPubSub) -> bool | None:
        """Deliver the command that Redis has sent."""
        try:
            response = subscription.parse_response()
        except self.connection_errors:
            self._in_listen = None
            raise
        payload = {}
        if response:
            payload = self._handle_message(subscription, response)  # type: ignore[no-untyped-call]
        if payload.get("type") != b"pmessage":
            return None
        queue = self._fanout_to_queue.get(wire.CONTROL_EXCHANGE)
        return queue and self._deliver_checked(queue, wire.rebuild_command, payload["data"])

    def _deliver_checked(self, queue: str, rebuild: Any, *content: Any) -> bool:
        """Deliver a message, written anew; drop one that is not ours."""
        try:
            message = rebuild(*content)
        except ForeignMessage as reason:
            drops.add(queue, str(reason))
            return False
        self.connection._deliver(message, queue)
        return True


class Transport(transport.Transport):
    """The transport with this channel."""

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
