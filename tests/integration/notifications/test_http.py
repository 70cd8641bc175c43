"""One try of one message: what is connected to, for how long, and what is made of the answer."""

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
    given = {"allow_private": True} | options
    return http.post_webhook(url, {"X-Ours": "1"}, b"{}", **given)  # type: ignore[arg-type]


def _here(*_: object) -> list[str]:
    return ["127.0.0.1"]


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_means_that_it_was_taken(status: int) -> None:
    with answering(status) as receiver:
        assert _post(receiver.url) == SendResult(status=status)


@pytest.mark.parametrize("status", [400, 401, 404, 410, 429, 500, 503, 599, 999])
def test_anything_else_is_an_error_that_names_it(status: int) -> None:
    with answering(status) as receiver:
        answer = _post(receiver.url)

    assert answer.status == status
    assert str(answer.error).startswith(f"answered {status}")
    assert not answer.final


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["/elsewhere", "http://169.254.169.254/latest"])
def test_a_redirect_is_not_followed(status: int, location: str) -> None:
    with answering(status, headers={"Location": location}) as receiver:
        answer = _post(receiver.url)

    assert answer.status == status
    assert "redirects are not followed" in str(answer.error)
    assert len(receiver.heard) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "[::1]", "localhost", "0", "2130706433"])
def test_this_machine_is_not_connected_to(host: str) -> None:
    with answering(200) as receiver:
        port = receiver.url.partition("127.0.0.1:")[2]
        answer = _post(f"http://{host}:{port}", allow_private=False)

    assert answer.final
    assert str(answer.error).startswith("refused: ")
    assert receiver.heard == []


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1"]
)
def test_a_name_that_leads_to_a_private_address_is_not_connected_to(address: str) -> None:
    with answering(200) as receiver:
        port = receiver.url.partition("127.0.0.1:")[2]
        answer = _post(
            f"http://a.example:{port}", allow_private=False, resolve=lambda *_: [address]
        )

    assert answer == SendResult(
        error=f"refused: a.example has no address of the public Internet, but {address}", final=True
    )
    assert receiver.heard == []


def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    with answering(200) as receiver:
        port = receiver.url.partition("127.0.0.1:")[2]
        answer = _post(f"http://nowhere.invalid:{port}", resolve=resolve)

    assert answer.status == 200
    assert asked == ["nowhere.invalid"]
    assert receiver.heard[0].headers["host"] == f"nowhere.invalid:{port.partition('/')[0]}"


def test_a_name_that_nobody_has_is_worth_another_try() -> None:
    answer = _post("http://nowhere.invalid/")

    assert answer.status is None
    assert not answer.final
    assert "nowhere.invalid cannot be looked up" in str(answer.error)


def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    with answering(200) as receiver:
        port = receiver.url.partition("127.0.0.1:")[2]
        answer = _post(f"http://a.example:{port}", resolve=lambda *_: ["127.0.0.2", "127.0.0.1"])

    assert answer.status == 200


def test_a_port_where_nobody_listens_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    answer = _post(f"http://127.0.0.1:{port}/")

    assert f"127.0.0.1 port {port}" in str(answer.error)


@pytest.mark.parametrize(
    "said",
    [
        [],
        [b"H", b"T", b"T", b"P", b"/", b"1", b".", b"1", b" "] * 20,
        [b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n"] * 100],
        [b"HTTP/1.1 100 Continue\r\n\r\n"] * 100,
    ],
)
def test_a_receiver_that_drips_gets_no_more_than_its_time(said: Sequence[bytes]) -> None:
    began = time.monotonic()
    with dripping(said) as receiver:
        answer = _post(receiver.url, within=0.5)
    took = time.monotonic() - began

    assert answer == SendResult(error="no answer within 0.5 s")
    assert 0.4 < took < 2


def test_a_refusal_whose_body_drips_is_a_refusal_all_the_same() -> None:
    head = b"HTTP/1.1 500 Oh no\r\nContent-Length: 100000\r\n\r\n"
    with dripping([head, b"because ", *[b"x"] * 1000], every=0.2) as receiver:
        answer = _post(receiver.url, within=5)

    assert answer.status == 500
    assert answer.error == "answered 500 Oh no: because"


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: " + b"b" * 200_000,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000,
        b"\x00" * 100_000,
    ],
)
def test_what_is_not_http_is_an_error(said: bytes) -> None:
    with dripping([said]) as receiver:
        answer = _post(receiver.url, within=5)

    assert answer.status is None
    assert answer.error


def test_only_the_beginning_of_a_refusal_is_kept_and_only_what_can_be_read() -> None:
    said = b"HTTP/1.1 400 N\x00o\r\n\r\n <b>\xff\x00\r\n no" + b"x" * 60_000
    with dripping([said]) as receiver:
        answer = _post(receiver.url, within=5)

    assert str(answer.error).startswith("answered 400 N o: <b>\ufffd no")
    assert len(str(answer.error)) < 600


@pytest.mark.parametrize(
    ("header", "least", "most"),
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
def test_a_receiver_may_ask_for_a_pause(
    header: str | Callable[[], str], least: float, most: float
) -> None:
    asked = header if isinstance(header, str) else header()
    with answering(503, headers={"Retry-After": asked}) as receiver:
        answer = _post(receiver.url)

    assert least <= answer.retry_after <= most


@contextmanager
def _with_tls() -> Iterator[int]:
    """The port of a receiver that has the certificate of hooks.example."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                line, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(line, server_side=True) as secure:
                    heard = b""
                    while not heard.endswith(b"{}"):
                        heard += secure.recv(65536)
                    secure.sendall(OK)
            except OSError:  # the other side does not trust us
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
        right = _post(f"https://hooks.example:{port}/", resolve=_here, trust=trust)
        wrong = _post(f"https://other.example:{port}/", resolve=_here, trust=trust)
        unknown = _post(f"https://hooks.example:{port}/", resolve=_here)

    assert right == SendResult(status=200)
    assert "other.example" in str(wrong.error)
    assert "CERTIFICATE_VERIFY_FAILED" in str(unknown.error)
