"""The connections of clients to the API: how long one may be slow, and which one is closed first.

Everything that a client can delay is a `recv` or a `send` of its socket. Both have an end here, and
a connection that waits in one of them may be closed for another client's.
"""

import resource
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from errno import ECONNRESET
from ipaddress import ip_address, ip_network
from socket import SHUT_RDWR
from typing import Any

import gevent
from gevent import socket
from werkzeug.exceptions import RequestTimeout

_PAUSE = 0.01  # seconds until another look for a connection to close
_FAST = 65536  # bytes of one request after which its reader lets others run in between


@dataclass(frozen=True, kw_only=True)
class Patience:
    """What a client may take, in seconds, and send besides its requests, in bytes."""

    request: float  # for a whole request, head and body; for taking some bytes of an answer
    idle: float  # between two bytes of a request, and before the first request
    keepalive: float  # between two requests
    rest: int  # of a request that was answered before its body was read


class Connection(socket.socket):  # type: ignore[misc]
    """The socket of a client."""

    def __init__(self, accepted: socket.socket, party: Hashable, patience: Patience) -> None:
        super().__init__(fileno=accepted.detach())
        self.party = party  # whose it is: an address, or a key that was valid here
        self.in_request = False  # its head was read, and its answer is not complete
        self.is_waiting = False  # for the client
        # Entered for each wait in the middle of a request; set by the application.
        self.waiting: Callable[[], AbstractContextManager[None]] = nullcontext
        self.end_after_answer: Callable[[], None] = lambda: None  # set for each request
        self._patience = patience
        self.is_cut = self._is_used = False
        self._bytes = 0
        self._end: float | None = None  # of the time for the request that has begun

    def recv(self, *args: Any) -> bytes:
        """As of a socket; b"" for a client that is too slow or sends too much between two requests.

        Raises RequestTimeout for one that is too slow with a body.
        """
        if self._bytes > _FAST:
            gevent.sleep(0)  # what arrives fast does not wait, and would stop everything else
        if not self.in_request and self._bytes > self._patience.rest:
            return b""
        try:
            data: bytes = self._wait_for_client(self._seconds(), super().recv, *args)
        except TimeoutError:
            if self.in_request:
                self.end_after_answer()
                seconds = f"{self._patience.idle:g} s without a byte, {self._patience.request:g} s"
                raise RequestTimeout(f"the body came too slowly: {seconds} in all") from None
            return b""
        if self._end is None:
            self._end = time.monotonic() + self._patience.request
        self._bytes += len(data)
        return data

    def send(self, data: Any, flags: int = 0, **_: Any) -> int:
        """As of a socket. Raises ConnectionResetError for a client that takes nothing."""
        try:
            sent: int = self._wait_for_client(self._patience.request, super().send, data, flags)
        except TimeoutError:
            raise ConnectionResetError(ECONNRESET, "the client takes no bytes") from None
        return sent

    def end_request(self, party: Hashable | None, *, leaves_body: bool) -> None:
        """The answer is complete; `party` is whose key it was."""
        self.in_request, self._is_used, self._bytes = False, True, 0
        self._end = time.monotonic() + self._patience.request if leaves_body else None
        self.party = party or self.party

    def cut(self) -> None:
        """Close it while it waits for the client."""
        self.is_cut = True
        with suppress(OSError):  # the client may be gone
            self.shutdown(SHUT_RDWR)

    def _seconds(self) -> float:
        """How long the client may take for the next bytes."""
        if self._end is None and not self.in_request:
            return self._patience.keepalive if self._is_used else self._patience.idle
        now = time.monotonic()
        self._end = self._end or now + self._patience.request
        return min(self._patience.idle, self._end - now)

    def _wait(self, *args: Any) -> None:
        """Called by gevent when there is nothing to read, or no room to write."""
        with self.waiting():
            super()._wait(*args)

    def _wait_for_client(self, seconds: float, operation: Callable[..., Any], *args: Any) -> Any:
        if seconds <= 0:
            raise TimeoutError
        self.settimeout(seconds)
        self.is_waiting = True
        result = None
        try:
            result = operation(*args)
        except OSError:
            if not self.is_cut:
                raise
        finally:
            self.settimeout(None)
            self.is_waiting = False
        if self.is_cut:  # what was read is not all that the client sent
            raise ConnectionResetError(ECONNRESET, "closed for another connection")
        return result


class Connections:
    """The open connections. Past the limit, who has most of them loses the oldest that waits.

    Addresses lose theirs before keys that have less than a quarter of all. One is always free: a
    full pool would stop accepting.
    """

    def __init__(self, limit: int, patience: Patience) -> None:
        self._limit, self._patience = limit, patience
        self._parties: dict[Hashable, dict[Connection, None]] = {}  # from the oldest request on
        self.count = 0

    def open(self, accepted: socket.socket, address: Any) -> Connection:
        """Another one, for which an older one is closed if there are too many."""
        while self.count >= self._limit:
            if (oldest := next(self._to_close(), None)) is not None:
                oldest.cut()
                break
            gevent.sleep(_PAUSE)  # all are being answered
        self.count += 1
        connection = Connection(accepted, _network(address), self._patience)
        self._add(connection)
        return connection

    def close(self, connection: Connection) -> None:
        """It has ended."""
        self.count -= 1
        self._remove(connection)

    def end_request(
        self, connection: Connection, party: Hashable | None, *, leaves_body: bool
    ) -> None:
        """It waits for its next request."""
        self._remove(connection)
        connection.end_request(party, leaves_body=leaves_body)
        self._add(connection)

    def close_idle(self) -> None:
        """Close those without a request."""
        for connections in list(self._parties.values()):
            for connection in list(connections):
                if connection.is_waiting and not connection.in_request:
                    connection.cut()

    def _to_close(self) -> Iterator[Connection]:
        ranks = {
            party: (len(own) > self._limit / 4, isinstance(party, str), len(own))
            for party, own in self._parties.items()
        }
        for party in sorted(ranks, key=ranks.__getitem__, reverse=True):
            for connection in self._parties[party]:
                if connection.is_waiting and not connection.is_cut:
                    yield connection

    def _add(self, connection: Connection) -> None:
        self._parties.setdefault(connection.party, {})[connection] = None

    def _remove(self, connection: Connection) -> None:
        own = self._parties[connection.party]
        del own[connection]
        if not own:
            del self._parties[connection.party]


def _network(address: Any) -> str:
    """Whose address it is: in IPv6, anybody has 2**64 of them."""
    if not isinstance(address, tuple):  # of a Unix socket
        return ""
    ip = ip_address(address[0].partition("%")[0])
    return str(ip_network((ip, 64), strict=False)) if ip.version == 6 else str(ip)


def allow_files(count: int) -> int:
    """Raise the limit of open files of this process, as far as it may; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        soft = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return count if soft == resource.RLIM_INFINITY else soft
