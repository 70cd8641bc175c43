"""A TCP proxy that can delay, half-close, refuse, reset and swallow what it forwards."""

import asyncio
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

Value = TypeVar("Value")

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close sends RST


class Proxy:
    """A proxy in front of one service; forwards everything unless a fault is on."""

    def __init__(self, service: int | Path) -> None:
        self._service = service  # a local port, or the path of a Unix socket
        self._loop = asyncio.new_event_loop()
        # Not asyncio's server: a client accepted just before it closes gets no transport, and its
        # socket stays open until it is collected (gh-109564).
        self._listener: socket.socket | None = None
        self._accepting: set[asyncio.Task[Any]] = set()
        self.sides: set[Side] = set()
        self.delay = 0.0  # seconds by which all data is delayed
        self.dropping = False
        self.swallowed = self.delayed = 0  # chunks so far, to prove that a fault had an effect
        self.port = 0
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self._listen())

    def drop(self) -> None:
        """Swallow all data from now on; connections of this time stay open, and silent."""
        self.dropping = True
        self._on_each(Side.go_silent)

    def pass_on(self) -> None:
        """End the faults: forward new connections again."""
        self.dropping, self.delay = False, 0.0
        self._run(self._listen())

    def refuse(self) -> int:
        """Refuse connections, and reset those that are open; returns the number of their sides."""
        self._run(self._close())
        return self.reset()

    def reset(self) -> int:
        """Reset every connection; returns the number of their sides."""
        return self._on_each(Side.reset)

    def half_close(self) -> int:
        """Send EOF to the clients, and swallow what they send.

        Returns the number of the connections' sides.
        """
        return self._on_each(Side.half_close)

    def end(self) -> None:
        """Refuse connections, and stop the loop."""
        self.refuse()
        self._run(self._drain())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def block(self, seconds: float) -> None:
        """Block the loop for a while."""
        self._loop.call_soon_threadsafe(time.sleep, seconds)

    async def to_service(self, side: "Side") -> None:
        """Connect a client's side to the service."""

        def other() -> Side:
            return Side(self, side)

        try:
            if isinstance(self._service, Path):
                await self._loop.create_unix_connection(other, str(self._service))
            else:
                await self._loop.create_connection(other, "127.0.0.1", self._service)
        except OSError:
            side.reset()

    def later(self, call: Callable[[], None]) -> None:
        """Call it after the delay."""
        self._loop.call_later(self.delay, call)

    def connect(self, side: "Side") -> None:
        """Begin to connect a client's side to the service."""
        side.connecting = self._loop.create_task(self.to_service(side))

    @property
    def is_open(self) -> bool:
        """Whether it accepts connections."""
        return self._listener is not None

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=100)
            self._listener.setblocking(False)
            self.port = self._listener.getsockname()[1]
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # the client is gone
            client, _ = listener.accept()
            task = self._loop.create_task(
                self._loop.connect_accepted_socket(lambda: Side(self), client)
            )
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    async def _close(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def _drain(self) -> None:
        """Wait for running tasks, and until every side is closed."""
        begun = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*begun, return_exceptions=True)
        while self.sides:
            await asyncio.sleep(0)

    def _on_each(self, action: Callable[["Side"], None]) -> int:
        async def apply() -> int:
            sides = list(self.sides)
            for side in sides:
                action(side)
            return len(sides)

        return self._run(apply())

    def _run(self, work: Coroutine[Any, Any, Value]) -> Value:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


class Side(asyncio.Protocol):
    """One of the two sockets of a connection through the proxy."""

    transport: asyncio.Transport

    def __init__(self, proxy: Proxy, other: "Side | None" = None) -> None:
        self._proxy, self._other = proxy, other
        self._is_client = other is None
        # Data received before the other side is connected. Pausing the reading instead fails:
        # before Python 3.11.4 `pause_reading` in `connection_made` is undone, as the transport has
        # already scheduled the start of its reading (gh-103607).
        self._unsent: list[bytes] = []
        self._in_transit: deque[bytes] = deque()  # delayed data
        self._silent = False
        self.connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the other side, or connect it."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._proxy.sides.add(self)
        if not self._proxy.is_open:
            self.reset()
        elif self._proxy.dropping:
            self.go_silent()
        elif self._other is None:
            self._proxy.connect(self)
        else:
            self._other.join(self)

    def join(self, other: "Side") -> None:
        """Set the other side, and forward what was received before."""
        self._other, unsent = other, self._unsent
        self._unsent = []
        for data in unsent:
            self.data_received(data)
        if self.transport.is_closing():  # it sent everything and closed
            other.transport.close()

    def data_received(self, data: bytes) -> None:
        """Forward to the other side, at once or after the delay."""
        if self._other is None and not self._silent:
            self._unsent.append(data)
        elif self._proxy.delay or self._in_transit:
            self._proxy.delayed += 1
            self._in_transit.append(data)
            self._proxy.later(self._forward_next)
        else:
            self._forward(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Close the other side, too, unless this one is silent."""
        self._proxy.sides.discard(self)
        if self._other is not None and not self._silent:
            self._other.transport.close()

    def go_silent(self) -> None:
        """Forward nothing any more, and stay open."""
        self._silent = True

    def half_close(self) -> None:
        """Send EOF to a client, and forward nothing any more."""
        self._silent = True
        if self._is_client and not self.transport.is_closing():
            self.transport.write_eof()

    def reset(self) -> None:
        """Close with RST."""
        if not self.transport.is_closing():
            sock: socket.socket = self.transport.get_extra_info("socket")
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def _forward_next(self) -> None:
        self._forward(self._in_transit.popleft())

    def _forward(self, data: bytes) -> None:
        self._proxy.swallowed += self._silent
        if self._other is not None and not self._silent and not self._other.transport.is_closing():
            self._other.transport.write(data)
