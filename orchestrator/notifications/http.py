"""Send one message to one receiver, and say what came of it; never for longer than its time."""

import http.client
import io
import socket
import ssl
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache

import standardwebhooks

from orchestrator.notifications import targets
from orchestrator.notifications.targets import Resolve, Target, TargetRefused

CONNECT_SECONDS = 3.0  # seconds for one address
TOTAL_SECONDS = 10.0  # seconds from the first packet to the head of the answer
_EXCERPT = 500  # bytes of a refusal that are kept
_EXCERPT_WAIT = 1.0  # seconds for them
_MOST = 64 * 1024  # bytes of an answer that are read at all


@dataclass(frozen=True, kw_only=True)
class SendResult:
    """What came of one try; without an error it was taken."""

    status: int | None = None  # None: there was no answer
    error: str | None = None
    final: bool = False  # the same try later would end the same
    retry_after: float = 0  # seconds that the receiver asks for


def sign_request(secrets: Collection[str], message_id: str, body: bytes) -> dict[str, str]:
    """The headers by which a receiver knows a message for ours, by any one of the secrets.

    As https://www.standardwebhooks.com says; every try has the same id and a time of its own.
    """
    now = datetime.now(UTC)
    signatures = [
        standardwebhooks.Webhook(each).sign(message_id, now, body.decode()) for each in secrets
    ]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def post_webhook(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    allow_private: bool,
    resolve: Resolve | None = None,
    trust: ssl.SSLContext | None = None,
    within: float = TOTAL_SECONDS,
) -> SendResult:
    """POST a body. Redirects are not followed: each would be a target that nobody named."""
    try:
        target = targets.check_url(url, allow_private=allow_private)
        found = targets.resolve_public(target, allow_private=allow_private, resolve=resolve)
    except TargetRefused as error:
        return SendResult(error=f"refused: {error}", final=True)
    except OSError as error:
        return SendResult(error=str(error))
    end = time.monotonic() + within
    try:
        with _connected(target, found, trust or _trust(), end) as connected:
            return _ask(target, _Line(connected, end), headers, body)
    except TimeoutError:
        return SendResult(error=f"no answer within {within:g} s")
    except (OSError, http.client.HTTPException) as error:
        return SendResult(error=f"{type(error).__name__}: {error}")


class _Line(io.RawIOBase):
    """A connection whose every read and write has the same end, however slowly bytes drip in.

    `http.client` takes it for a socket, and closes it before the body is read: whoever opened the
    real one closes that.
    """

    def __init__(self, connected: socket.socket, end: float) -> None:
        self._socket, self._end, self._room = connected, end, _MOST

    def hurry(self, seconds: float) -> None:
        """Bring the end forward."""
        self._end = min(self._end, time.monotonic() + seconds)

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._socket.settimeout(_left(self._end))
            rest = rest[self._socket.send(rest) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._socket.settimeout(_left(self._end))
        if not self._room:
            raise OSError(f"the answer is longer than {_MOST:,} bytes")
        count = self._socket.recv_into(buffer[: self._room])
        self._room -= count
        return count

    def close(self) -> None:
        pass


def _connected(
    target: Target, found: list[str], trust: ssl.SSLContext, end: float
) -> socket.socket:
    """A connection to the first address that answers; TLS still checks the host's name."""
    failed = OSError(f"{target.host} has no address")
    for address in found:
        try:
            connected = socket.create_connection(
                (address, target.port), min(CONNECT_SECONDS, _left(end))
            )
        except OSError as error:
            failed = OSError(f"{address} port {target.port}: {error}")
            continue
        connected.settimeout(_left(end))
        if target.scheme == "http":
            return connected
        return trust.wrap_socket(connected, server_hostname=target.host.rstrip("."))
    raise failed


@cache  # reading the system's certificates takes longer than a whole delivery
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()


def _ask(target: Target, line: _Line, headers: Mapping[str, str], body: bytes) -> SendResult:
    connection = http.client.HTTPConnection(target.host, target.port)
    connection.sock = line
    told = {"Host": target.host_header, "Connection": "close", **headers}
    with suppress(BrokenPipeError, ConnectionResetError):  # it may answer before it heard all
        connection.request("POST", target.path, body, told)
    response = connection.getresponse()
    if 200 <= response.status < 300:
        return SendResult(status=response.status)
    line.hurry(_EXCERPT_WAIT)
    return SendResult(
        status=response.status,
        error=_refusal(response),
        retry_after=_seconds(response.getheader("Retry-After", "")),
    )


def _refusal(response: http.client.HTTPResponse) -> str:
    said = _printable(f"answered {response.status} {response.reason}")
    if 300 <= response.status < 400:
        return f"{said}; redirects are not followed: register the address that it leads to"
    try:
        excerpt = response.read1(_EXCERPT).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        excerpt = ""
    return f"{said}: {_printable(excerpt)}" if _printable(excerpt) else said


def _printable(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _seconds(retry_after: str) -> float:
    """How long a `Retry-After` asks for, as a number or a date; 0 for neither."""
    try:
        if retry_after.isascii() and retry_after.isdigit():
            return float(retry_after[:9])
        moment = parsedate_to_datetime(retry_after)
        return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return 0.0


def _left(end: float) -> float:
    """The seconds until then. Raises TimeoutError when there are none."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time is over")
    return left
