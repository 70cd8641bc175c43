"""A TCP proxy of ours that can delay, half-close, refuse, reset and swallow what it carries."""

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
    """Stands between its clients and one service; passes everything on until told otherwise."""

    def __init__(self, service: int | Path) -> None:
        self._service = service  # a port of this machine, or a socket's path
        self._loop = asyncio.new_event_loop()
        # Not a server of asyncio: who has come just before it closes gets no transport, and its
        # socket stays open until it is collected (gh-109564).
        self._door: socket.socket | None = None
        self._coming: set[asyncio.Task[Any]] = set()
        self.sides: set[Side] = set()
        self.delay = 0.0  # seconds that everything takes longer
        self.dropping = False
        self.swallowed = self.delayed = 0  # pieces so far: what was told did happen
        self.port = 0
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self._listen())

    def drop(self) -> None:
        """Swallow everything from now on; the connections of this time stay open, and dead."""
        self.dropping = True
        self._on_each(Side.fall_silent)

    def pass_on(self) -> None:
        """Carry new connections as before."""
        self.dropping, self.delay = False, 0.0
        self._do(self._listen())

    def refuse(self) -> int:
        """Take no connection, and end those that are open; gives how many sides they had."""
        self._do(self._close())
        return self.reset()

    def reset(self) -> int:
        """End every connection without a word; gives how many sides they had."""
        return self._on_each(Side.reset)

    def half_close(self) -> int:
        """Tell the clients that the service has said its last; what they say goes nowhere.

        Gives how many sides the connections had.
        """
        return self._on_each(Side.half_close)

    def end(self) -> None:
        """Stop carrying."""
        self.refuse()
        self._do(self._settle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def hold(self, seconds: float) -> None:
        """Do nothing for a while, and then all that has come up at once."""
        self._loop.call_soon_threadsafe(time.sleep, seconds)

    async def to_service(self, side: "Side") -> None:
        """Give a client's side its other one."""

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
        """Call it when the delay is over."""
        self._loop.call_later(self.delay, call)

    def connect(self, side: "Side") -> None:
        """Begin to give a client's side its other one."""
        side.connecting = self._loop.create_task(self.to_service(side))

    @property
    def is_open(self) -> bool:
        """Whether it takes connections."""
        return self._door is not None

    async def _listen(self) -> None:
        if self._door is None:
            self._door = socket.create_server(("127.0.0.1", self.port), backlog=100)
            self._door.setblocking(False)
            self.port = self._door.getsockname()[1]
            self._loop.add_reader(self._door, self._take, self._door)

    def _take(self, door: socket.socket) -> None:
        with suppress(OSError):  # it has gone again
            caller, _ = door.accept()
            coming = self._loop.create_task(
                self._loop.connect_accepted_socket(lambda: Side(self), caller)
            )
            self._coming.add(coming)
            coming.add_done_callback(self._coming.discard)

    async def _close(self) -> None:
        if self._door is not None:
            self._loop.remove_reader(self._door)
            self._door.close()
            self._door = None

    async def _settle(self) -> None:
        """Wait for what has begun, and until each side has heard that it is closed."""
        begun = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*begun, return_exceptions=True)
        while self.sides:
            await asyncio.sleep(0)

    def _on_each(self, act: Callable[["Side"], None]) -> int:
        async def act_on_each() -> int:
            sides = list(self.sides)
            for side in sides:
                act(side)
            return len(sides)

        return self._do(act_on_each())

    def _do(self, work: Coroutine[Any, Any, Value]) -> Value:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


class Side(asyncio.Protocol):
    """One of the two sockets of a connection through the proxy."""

    transport: asyncio.Transport

    def __init__(self, proxy: Proxy, other: "Side | None" = None) -> None:
        self._proxy, self._other = proxy, other
        self._is_client = other is None
        # What is said before there is anybody to tell. To pause the reading instead would not do:
        # before Python 3.11.4 `pause_reading` in `connection_made` is undone, as the transport has
        # put the start of its reading into the loop's next turn already (gh-103607).
        self._early: list[bytes] = []
        self._kept: deque[bytes] = deque()  # what is on its way
        self._silent = False
        self.connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be joined to the other side, or look for it."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._proxy.sides.add(self)
        if not self._proxy.is_open:
            self.reset()
        elif self._proxy.dropping:
            self.fall_silent()
        elif self._other is None:
            self._proxy.connect(self)
        else:
            self._other.join(self)

    def join(self, other: "Side") -> None:
        """Have somebody to speak to."""
        self._other, early = other, self._early
        self._early = []
        for data in early:
            self.data_received(data)
        if self.transport.is_closing():  # it has said all that it had to say
            other.transport.close()

    def data_received(self, data: bytes) -> None:
        """Say it to the other side, at once or after the delay."""
        if self._other is None and not self._silent:
            self._early.append(data)
        elif self._proxy.delay or self._kept:
            self._proxy.delayed += 1
            self._kept.append(data)
            self._proxy.later(self._say_next)
        else:
            self._say(data)

    def connection_lost(self, error: Exception | None) -> None:
        """End the other side too, unless nothing reaches it."""
        self._proxy.sides.discard(self)
        if self._other is not None and not self._silent:
            self._other.transport.close()

    def fall_silent(self) -> None:
        """Say nothing any more, and stay open."""
        self._silent = True

    def half_close(self) -> None:
        """Tell a client that nothing more comes."""
        self._silent = True
        if self._is_client and not self.transport.is_closing():
            self.transport.write_eof()

    def reset(self) -> None:
        """End with RST."""
        if not self.transport.is_closing():
            found: socket.socket = self.transport.get_extra_info("socket")
            if found.family != socket.AF_UNIX:
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def _say_next(self) -> None:
        self._say(self._kept.popleft())

    def _say(self, data: bytes) -> None:
        self._proxy.swallowed += self._silent
        if self._other is not None and not self._silent and not self._other.transport.is_closing():
            self._other.transport.write(data)
