"""Takes messages from Redis without a list there of what is not acknowledged yet.

Ours are acknowledged as soon as a child has them, and one that is lost on the way is sent again by
the scheduler. The list took two journeys to Redis and a third of what a worker's parent does for a
step; and a connection that was lost while it held something has stopped workers for good.
"""

from typing import Any

from kombu.transport import redis, virtual


class Hints(redis.QoS):
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


class Channel(redis.Channel):
    """A channel of hints."""

    QoS = Hints


class Transport(redis.Transport):
    """Celery's transport over Redis, but for that."""

    Channel = Channel
