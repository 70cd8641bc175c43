"""One HTTP exchange over a connection to a checked address, within a deadline and a size."""

import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress

from orchestrator.notifications.targets import Target

CONNECT_SECONDS = 3.0  # for one address


class AnswerTooLong(OSError):
    """The other side sends more bytes than are read."""


class DeadlineSocket(io.RawIOBase):
    """A socket with one deadline for all its reads and writes together, and a limit to its reads.

    `http.client` closes it before the body is read, so `close` does nothing: who has the real
    socket closes that.
    """

    def __init__(self, connected: socket.socket, end: float, max_bytes: int) -> None:
        self._socket, self._end = connected, end
        self._max_bytes = self._room = max_bytes

    def shorten(self, seconds: float) -> None:
        """Move the deadline to `seconds` from now, if that is earlier."""
        self._end = min(self._end, time.monotonic() + seconds)

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._socket.settimeout(seconds_left(self._end))
            rest = rest[self._socket.send(rest) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._socket.settimeout(seconds_left(self._end))
        if not self._room:
            raise AnswerTooLong(f"the answer is longer than {self._max_bytes:,} bytes")
        count = self._socket.recv_into(buffer[: self._room])
        self._room -= count
        return count

    def close(self) -> None:
        pass


def connect(
    target: Target, addresses: list[str], trust: ssl.SSLContext, end: float
) -> socket.socket:
    """Connect to the first address that accepts; TLS still checks the host's name."""
    last_error = OSError(f"{target.host} has no address")
    for address in addresses:
        try:
            timeout = min(CONNECT_SECONDS, seconds_left(end))
            connected = socket.create_connection((address, target.port), timeout)
        except OSError as error:
            last_error = OSError(f"{address} port {target.port}: {error}")
            continue
        connected.settimeout(seconds_left(end))
        if target.scheme == "http":
            return connected
        return trust.wrap_socket(connected, server_hostname=target.host.rstrip("."))
    raise last_error


def exchange(
    connected: DeadlineSocket,
    target: Target,
    method: str,
    headers: Mapping[str, str],
    body: bytes | None,
) -> http.client.HTTPResponse:
    """Send a request; gives the response, whose body is still to be read."""
    connection = http.client.HTTPConnection(target.host, target.port)
    connection.sock = connected
    headers = {"Host": target.host_header, "Connection": "close", **headers}
    with suppress(BrokenPipeError, ConnectionResetError):  # it may respond before it has read all
        connection.request(method, target.path, body, headers)
    return connection.getresponse()


def seconds_left(end: float) -> float:
    """The seconds until the deadline. Raises TimeoutError when it has passed."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time is over")
    return left
