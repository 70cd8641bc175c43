"""kombu's Redis transport for a Redis that others may write to.

Replies are read in bounded memory, keys of a wrong type are replaced, and where a message goes does
not depend on kombu's tables of bindings, which are sets in Redis.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from kombu.transport import redis
from redis._parsers.resp3 import _RESP3Parser
from redis._parsers.socket import SocketBuffer
from redis.exceptions import ConnectionError, ResponseError

from orchestrator.broker.drops import drops
from orchestrator.broker.wire import MAX_COMMAND, REPLY_EXCHANGE

MAX_REPLY = 32 * 1024 * 1024  # bytes kept of one reply; what exceeds it is read as empty strings
_CHUNK = 65_536


class BoundedBuffer(SocketBuffer):
    """Skips strings that are larger than any message of ours: they are read as empty ones."""

    room = MAX_REPLY

    def read(self, length: int, *args: Any, **options: Any) -> bytes:
        """The next string of the reply."""
        if length <= min(self.room, MAX_COMMAND):
            self.room -= length
            return super().read(length, *args, **options)
        self._skip(length + len(b"\r\n"))
        return b""

    def _skip(self, length: int) -> None:
        length -= len(self._buffer.read(length))  # what has arrived already
        try:
            while length:
                data = self._sock.recv(min(length, _CHUNK))
                if not data:
                    raise ConnectionError("Redis closed the connection")
                length -= len(data)
        except TimeoutError as error:
            raise ConnectionError("Redis stopped in a long reply") from error


class BoundedParser(_RESP3Parser):
    """Reads replies through such a buffer."""

    def on_connect(self, connection: Any) -> None:
        """Replace the buffer."""
        super().on_connect(connection)  # type: ignore[no-untyped-call]
        timeout = connection.socket_timeout
        self._buffer = BoundedBuffer(connection._sock, self.socket_read_size, timeout)

    def read_response(self, *args: Any, **options: Any) -> Any:
        """The next reply."""
        if self._buffer is not None:
            self._buffer.room = MAX_REPLY
        return super().read_response(*args, **options)


def is_wrong_type(error: object) -> bool:
    """Whether Redis refused a command because of the type of its key."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


class Channel(redis.Channel):
    """A channel whose lists are lists."""

    def list_names(self, queue: str) -> list[str]:
        """The names of a queue's lists, one for each priority."""
        name: Callable[[str, int], str] = self._q_for_pri
        return [name(queue, level) for level in self.priority_steps]

    def drop_wrong_types(self, queues: Iterable[str]) -> None:
        """Delete the keys that have the name of a list and are none."""
        names = [name for queue in queues for name in self.list_names(queue)]
        with self.conn_or_acquire() as client:
            with client.pipeline(transaction=False) as pipeline:
                for name in names:
                    pipeline.type(name)
                types = pipeline.execute()
            for name, kind in zip(names, types, strict=True):
                if kind not in (b"list", b"none"):
                    client.unlink(name)
                    drops.add(name.partition(self.sep)[0], "a key of its name is no list")

    def _put(self, queue: str, message: dict[str, Any], **options: Any) -> None:
        self._with_lists(super()._put, queue, message, **options)

    def _size(self, queue: str) -> int:
        size: int = self._with_lists(super()._size, queue)
        return size

    def _with_lists(self, command: Callable[..., Any], queue: str, *args: Any, **more: Any) -> Any:
        """Execute a command on a queue's lists, a second time if one of them was none."""
        try:
            return command(queue, *args, **more)
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            self.drop_wrong_types([queue])
            return command(queue, *args, **more)

    def _lookup(self, exchange: str, routing_key: str, default: Any = None) -> list[str]:
        """The queue of a message, from its address alone."""
        return [f"{routing_key}.{exchange}" if exchange == REPLY_EXCHANGE else routing_key]

    def _queue_bind(self, *binding: Any) -> None:
        with suppress(ResponseError):  # only workers of earlier versions read the tables
            super()._queue_bind(*binding)  # type: ignore[no-untyped-call]

    def maybe_refresh_binding_expiry(self) -> None:
        """Do nothing: the tables are not read, and an error was logged every second."""

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        options = super()._connparams(asynchronous)  # type: ignore[no-untyped-call]
        return {**options, "parser_class": BoundedParser}


class Transport(redis.Transport):
    """kombu's Redis transport with this channel."""

    Channel = Channel
