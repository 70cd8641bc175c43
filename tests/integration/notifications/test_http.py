"""One attempt of one delivery: the address, the deadline, and the result of each response."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from orchestrator.notifications import http
from orchestrator.notifications.http import SendResult
from tests.support.webhook_receivers import answering, dripping

CERTIFICATE = Path(__file__).parents[2] / "support" / "hooks.example.pem"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def _post(url: str, **options: object) -> SendResult:
    options = {"allow_private": True} | options
    return http.post_webhook(url, {"X-Ours": "1"}, b"{}", **options)  # type: ignore[arg-type]


def _loopback(*_: object) -> list[str]:
    return ["127.0.0.1"]


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_is_a_success(status: int) -> None:
    with answering(status) as receiver:
        assert _post(receiver.url) == SendResult(status=status)


@pytest.mark.parametrize("status", [400, 401, 404, 410, 429, 500, 503, 599, 999])
def test_anything_else_is_an_error_that_names_it(status: int) -> None:
    with answering(status) as receiver:
        result = _post(receiver.url)

    assert result.status == status
    assert str(result.error).startswith(f"answered {status}")
    assert not result.final


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["/elsewhere", "http://169.254.169.254/latest"])
def test_a_redirect_is_not_followed(status: int, location: str) -> None:
    with answering(status, headers={"Location": location}) as receiver:
        result = _post(receiver.url)

    assert result.status == status
    assert "redirects are not followed" in str(result.error)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "[::1]", "localhost", "0", "2130706433"])
def test_this_machine_is_not_connected_to(host: str) -> None:
    with answering(200) as receiver:
        port = receiver.url.partition("127.0.0.1:")[2]
        result = _post(f"http://{host}:{port}", allow_private=False)

    assert result.final
    assert str(result.error).startswith("refused: ")
    assert receiver.requests == []


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1"]
)
def test_a_name_that_leads_to_a_private_address_is_not_connected_to(address: str) -> None:
    with answering(200) as receiver:
        port = receiver.url.partition("127.0.0.1:")[2]
        result = _post(
            f"http://a.example:{port}", allow_private=False, resolve=lambda *_: [address]
        )

    assert result == SendResult(
        error=f"refused: a.example has no address of the public Internet, but {address}", final=True
    )
    assert receiver.requests == []


def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    lookups: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        lookups.append(host)
        return ["127.0.0.1"]

    with answering(200) as receiver:
        port = receiver.url.partition("127.0.0.1:")[2]
        result = _post(f"http://nowhere.invalid:{port}", resolve=resolve)

    assert result.status == 200
    assert lookups == ["nowhere.invalid"]
    assert receiver.requests[0].headers["host"] == f"nowhere.invalid:{port.partition('/')[0]}"


def test_an_unknown_name_is_not_final() -> None:
    result = _post("http://nowhere.invalid/")

    assert result.status is None
    assert not result.final
    assert "nowhere.invalid cannot be looked up" in str(result.error)


def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    with answering(200) as receiver:
        port = receiver.url.partition("127.0.0.1:")[2]
        result = _post(f"http://a.example:{port}", resolve=lambda *_: ["127.0.0.2", "127.0.0.1"])

    assert result.status == 200


def test_a_refused_connection_names_address_and_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = _post(f"http://127.0.0.1:{port}/")

    assert f"127.0.0.1 port {port}" in str(result.error)


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"H", b"T", b"T", b"P", b"/", b"1", b".", b"1", b" "] * 20,
        [b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n"] * 100],
        [b"HTTP/1.1 100 Continue\r\n\r\n"] * 100,
    ],
)
def test_a_response_that_drips_ends_at_the_deadline(pieces: Sequence[bytes]) -> None:
    began = time.monotonic()
    with dripping(pieces) as receiver:
        result = _post(receiver.url, within=0.5)
    took = time.monotonic() - began

    assert result == SendResult(error="no answer within 0.5 s")
    assert 0.4 < took < 5


def test_an_error_response_whose_body_drips_is_an_error_response() -> None:
    head = b"HTTP/1.1 500 Oh no\r\nContent-Length: 100000\r\n\r\n"
    with dripping([head, b"because ", *[b"x"] * 1000], every=0.2) as receiver:
        result = _post(receiver.url, within=5)

    assert result.status == 500
    assert result.error == "answered 500 Oh no: because"


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: " + b"b" * 200_000,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000,
        b"\x00" * 100_000,
    ],
)
def test_what_is_not_http_is_an_error(response: bytes) -> None:
    with dripping([response]) as receiver:
        result = _post(receiver.url, within=5)

    assert result.status is None
    assert result.error


def test_only_the_printable_beginning_of_an_error_response_is_kept() -> None:
    response = b"HTTP/1.1 400 N\x00o\r\n\r\n <b>\xff\x00\r\n no" + b"x" * 60_000
    with dripping([response]) as receiver:
        result = _post(receiver.url, within=5)

    assert str(result.error).startswith("answered 400 N o: <b>\ufffd no")
    assert len(str(result.error)) < 600


@pytest.mark.parametrize(
    ("header", "min_seconds", "max_seconds"),
    [
        ("120", 120, 120),
        ("0", 0, 0),
        (lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=90)), 80, 91),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("\u00b2", 0, 0),
        ("9" * 4000, 999_999_999, 999_999_999),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(
    header: str | Callable[[], str], min_seconds: float, max_seconds: float
) -> None:
    value = header if isinstance(header, str) else header()
    with answering(503, headers={"Retry-After": value}) as receiver:
        result = _post(receiver.url)

    assert min_seconds <= result.retry_after <= max_seconds


@contextmanager
def _with_tls() -> Iterator[int]:
    """The port of a receiver that has the certificate of hooks.example."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connected, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(connected, server_side=True) as secure:
                    request = b""
                    while not request.endswith(b"{}"):
                        request += secure.recv(65536)
                    secure.sendall(OK)
            except OSError:  # the client rejects the certificate
                continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_tls_checks_the_name_although_the_connection_goes_to_an_address() -> None:
    trust = ssl.create_default_context(cafile=str(CERTIFICATE))
    with _with_tls() as port:
        right = _post(f"https://hooks.example:{port}/", resolve=_loopback, trust=trust)
        wrong = _post(f"https://other.example:{port}/", resolve=_loopback, trust=trust)
        unknown = _post(f"https://hooks.example:{port}/", resolve=_loopback)

    assert right == SendResult(status=200)
    assert "other.example" in str(wrong.error)
    assert "CERTIFICATE_VERIFY_FAILED" in str(unknown.error)
