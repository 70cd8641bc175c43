"""POST one message to one receiver within a total deadline, to a checked address only."""

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

CONNECT_SECONDS = 3.0  # for one address
TOTAL_SECONDS = 10.0  # from the first packet to the head of the response
_EXCERPT = 500  # bytes of an error response that are kept
_EXCERPT_SECONDS = 1.0  # to read them
_MAX_RESPONSE = 64 * 1024  # bytes read of a response
# Reading the system's certificates takes longer than a whole delivery.
_default_trust = cache(ssl.create_default_context)


@dataclass(frozen=True, kw_only=True)
class SendResult:
    """The result of one attempt; no error means that it was accepted."""

    status: int | None = None  # None: no response
    error: str | None = None
    final: bool = False  # a later attempt would fail as well
    retry_after: float = 0  # seconds


def sign_request(secrets: Collection[str], message_id: str, body: bytes) -> dict[str, str]:
    """The headers of https://www.standardwebhooks.com, with one signature for each secret.

    The id is the same for every attempt, the timestamp is not.
    """
    now = datetime.now(UTC)
    signers = map(standardwebhooks.Webhook, secrets)
    signatures = [signer.sign(message_id, now, body.decode()) for signer in signers]
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
    """POST a body. Redirects are not followed: their targets were not registered."""
    try:
        target = targets.check_url(url, allow_private=allow_private)
        addresses = targets.resolve_public(target, allow_private=allow_private, resolve=resolve)
    except TargetRefused as error:
        return SendResult(error=f"refused: {error}", final=True)
    except OSError as error:
        return SendResult(error=str(error))
    end = time.monotonic() + within
    try:
        with _connect(target, addresses, trust or _default_trust(), end) as connected:
            return _post(target, _DeadlineSocket(connected, end), headers, body)
    except TimeoutError:
        return SendResult(error=f"no answer within {within:g} s")
    except (OSError, http.client.HTTPException) as error:
        return SendResult(error=f"{type(error).__name__}: {error}")


class _DeadlineSocket(io.RawIOBase):
    """A socket with one deadline for all its reads and writes together.

    `http.client` closes it before the body is read, so `close` does nothing: `post_webhook` closes
    the real socket.
    """

    def __init__(self, connected: socket.socket, end: float) -> None:
        self._socket, self._end, self._room = connected, end, _MAX_RESPONSE

    def shorten(self, seconds: float) -> None:
        """Move the deadline to `seconds` from now, if that is earlier."""
        self._end = min(self._end, time.monotonic() + seconds)

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._socket.settimeout(_seconds_left(self._end))
            rest = rest[self._socket.send(rest) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._socket.settimeout(_seconds_left(self._end))
        if not self._room:
            raise OSError(f"the answer is longer than {_MAX_RESPONSE:,} bytes")
        count = self._socket.recv_into(buffer[: self._room])
        self._room -= count
        return count

    def close(self) -> None:
        pass


def _connect(
    target: Target, addresses: list[str], trust: ssl.SSLContext, end: float
) -> socket.socket:
    """Connect to the first address that accepts; TLS still checks the host's name."""
    last_error = OSError(f"{target.host} has no address")
    for address in addresses:
        try:
            timeout = min(CONNECT_SECONDS, _seconds_left(end))
            connected = socket.create_connection((address, target.port), timeout)
        except OSError as error:
            last_error = OSError(f"{address} port {target.port}: {error}")
            continue
        connected.settimeout(_seconds_left(end))
        if target.scheme == "http":
            return connected
        return trust.wrap_socket(connected, server_hostname=target.host.rstrip("."))
    raise last_error


def _post(
    target: Target, connected: _DeadlineSocket, headers: Mapping[str, str], body: bytes
) -> SendResult:
    connection = http.client.HTTPConnection(target.host, target.port)
    connection.sock = connected
    headers = {"Host": target.host_header, "Connection": "close", **headers}
    with suppress(BrokenPipeError, ConnectionResetError):  # it may respond before it has read all
        connection.request("POST", target.path, body, headers)
    response = connection.getresponse()
    if 200 <= response.status < 300:
        return SendResult(status=response.status)
    connected.shorten(_EXCERPT_SECONDS)
    return SendResult(
        status=response.status,
        error=_error_text(response),
        retry_after=_retry_after(response.getheader("Retry-After", "")),
    )


def _error_text(response: http.client.HTTPResponse) -> str:
    message = _printable(f"answered {response.status} {response.reason}")
    if 300 <= response.status < 400:
        return f"{message}; redirects are not followed: register the address that it leads to"
    excerpt = ""
    with suppress(OSError, http.client.HTTPException):
        excerpt = _printable(response.read1(_EXCERPT).decode("utf-8", "replace"))
    return f"{message}: {excerpt}" if excerpt else message


def _printable(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _retry_after(header: str) -> float:
    """The seconds of a `Retry-After` header, a number or a date; 0 for anything else."""
    try:
        if header.isascii() and header.isdigit():
            return float(header[:9])
        moment = parsedate_to_datetime(header)
        return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return 0.0


def _seconds_left(end: float) -> float:
    """The seconds until the deadline. Raises TimeoutError when it has passed."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time is over")
    return left
