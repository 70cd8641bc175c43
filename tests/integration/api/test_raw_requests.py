"""What gunicorn itself refuses, malformed bodies, long addresses, kept connections: raw bytes."""

import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from config.response_headers import DEFAULT_HEADERS
from config.settings import Settings
from tests.support.factories import KEY
from tests.support.http_attacks import serve

UUID = "5f0c0000-0000-4000-8000-000000000000"
HOST = b"Host: localhost\r\n"
CHUNKED = (
    f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
).encode()
# Paths that take a body: of the native API, of each contract, and of OAuth.
PATHS = [
    "/api/v1/runs", "/api/v1/workflows", "/api/v1/requests", f"/api/v1/automations/{UUID}/runs",
    "/api/process-exec/v1", "/api/pipelines/x", "/api/pipeline_schedules/1/pipeline_runs",
    "/api/pipeline_schedules/1/pipeline_runs/token", "/oauth/token", "/healthz",
    f"/api/{UUID}/{UUID}/execution/job", f"/api/v1/schedules/{UUID}/trigger/x",
]  # fmt: skip
MALFORMED = {
    "no number": b"zz\r\n{}\r\n0\r\n\r\n",
    "negative": b"-1\r\n",
    "a sign": b"+2\r\n{}\r\n0\r\n\r\n",
    "0x": b"0x2\r\n{}\r\n0\r\n\r\n",
    "no size": b"\r\n{}\r\n",
    "a line without an end": b"1" * 20_000,
    "no end of a chunk": b"2\r\n{}xx0\r\n\r\n",
    "an extension": b"2;=\r\n{}\r\n0\r\n\r\n",
    "too short": b"5\r\n{}",
    "no last chunk": b"2\r\n{}\r\n",
    "a trailer": b"2\r\n{}\r\n0\r\nno colon\r\n\r\n",
    "a forbidden trailer": b"2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n",
    "trailers without an end": b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 200_000,
}


@pytest.fixture(scope="module")
def port(settings: Settings) -> Iterator[int]:
    """The API under gunicorn, as `orchestrator api` starts it."""
    with serve(settings) as api:
        yield api.port


@dataclass(frozen=True)
class Reply:
    """A response, read to the end of its connection or of its body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def _send(port: int, *pieces: bytes) -> Reply:
    """Send bytes, and no more, then read the response."""
    with socket.create_connection(("127.0.0.1", port), 20) as connected:
        with suppress(OSError):  # the server may refuse before it has read all
            for piece in pieces:
                connected.sendall(piece)
            connected.shutdown(socket.SHUT_WR)
        return _read(connected)


def _read(connected: socket.socket) -> Reply:
    response = http.client.HTTPResponse(connected)
    response.begin()
    with response:
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, headers, response.read())


def _check_problem(reply: Reply, status: int) -> None:
    """The reply is a problem of this status, with the headers of every response."""
    assert (reply.status, reply.headers["content-type"]) == (status, "application/problem+json")
    assert reply.json.keys() == {"type", "title", "status", "code", "detail"}
    assert reply.json["status"] == status
    assert all(reply.json.values())
    assert {name: reply.headers[name.lower()] for name in DEFAULT_HEADERS} == DEFAULT_HEADERS


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_chunked_body_is_the_clients_mistake(port: int, path: str, body: bytes) -> None:
    reply = _send(port, f"POST {path} HTTP/1.1\r\n".encode(), HOST, CHUNKED, body)

    assert reply.status < 500, reply.body
    if path == "/api/v1/runs":
        _check_problem(reply, 400)
        assert re.search("the chunked body|the body ends too soon", reply.json["detail"])


def test_a_body_that_is_shorter_than_it_says_is_the_clients_mistake(port: int) -> None:
    length = CHUNKED.replace(b"Transfer-Encoding: chunked", b"Content-Length: 100")

    reply = _send(port, b"POST /api/v1/runs HTTP/1.1\r\n", HOST, length, b"{}")

    _check_problem(reply, 400)
    assert "ends too soon" in reply.json["detail"]


@pytest.mark.parametrize(
    ("status", "head"),
    [
        (400, b"nonsense\r\n\r\n"),
        (400, b"GET\r\n\r\n"),
        (400, b"GET /healthz\r\n\r\n"),
        (400, b"GET /healthz HTTP/9.9\r\n\r\n"),
        (400, b"get /healthz HTTP/1.1\r\n\r\n"),
        (400, b"GET / healthz HTTP/1.1\r\n\r\n"),
        (400, b"GET /\xff HTTP/1.1\r\n\r\n"),
        (400, b"GET healthz HTTP/1.1\r\n\r\n"),
        (400, b"GET /healthz HTTP/1.1\nHost: a\n\n"),
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
        (400, b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n"),
        (400, b"GET /healthz HTTP/1.1\r\nA B: c\r\n\r\n"),
        (400, b"GET /healthz HTTP/1.1\r\nX: \x00\r\n\r\n"),
        (400, b"GET /healthz HTTP/1.1\r\nX: y\r\n folded\r\n\r\n"),
        (400, b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        (400, b"POST /healthz HTTP/1.1\r\nContent-Length: -1\r\n\r\n"),
        (400, b"POST /healthz HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        (400, b"POST /healthz HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (400, b"POST /healthz HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (501, b"POST /healthz HTTP/1.1\r\nTransfer-Encoding: nonsense\r\n\r\n"),
        (414, b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n"),
        (414, b"GET /" + b"a" * 1_000_000),
        (417, b"POST /healthz HTTP/1.1\r\nExpect: 200-maybe\r\n\r\n"),
        (431, b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 9000 + b"\r\n\r\n"),
        (431, b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n"),
        (431, b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 2_000_000),
    ],
    ids=lambda each: repr(each)[:60],
)
def test_what_gunicorn_refuses_is_a_problem(port: int, status: int, head: bytes) -> None:
    _check_problem(_send(port, head), status)


def test_a_refusal_reaches_a_client_that_is_still_sending(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 20) as connected:
        connected.sendall(b"POST /healthz HTTP/1.1\r\nExpect: nothing\r\n\r\n" + b"x" * 1_000_000)
        _check_problem(_read(connected), 417)


# 4,000 characters, as published; each is up to 12 bytes when it is percent-encoded.
@pytest.mark.parametrize("character", ["a", "-", " ", "é", "€", "😀"])
@pytest.mark.parametrize("path", ["/api/process-exec/v1", "/service/process-exec/v1"])
def test_a_query_of_4000_characters_is_taken(port: int, character: str, path: str) -> None:
    text = f"name='{character * 3993}'"
    assert len(text) == 4000

    reply = _query(port, path, text)
    longer = _query(port, path, f"{text} ")

    assert reply.status == 200, reply.headers
    assert longer.status == 400
    assert "4,001 characters are too long" in longer.headers["x-odsl-error"]


def _query(port: int, path: str, text: str) -> Reply:
    encoded = "".join(f"%{byte:02X}" for byte in text.encode())
    head = f"GET {path}?_filter={encoded} HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\n"
    return _send(port, head.encode(), HOST, b"\r\n")


def test_a_query_longer_than_64_kib_is_told_how_long_it_may_be(port: int) -> None:
    for bytes_more, status in ((0, 400), (10_000, 414)):
        reply = _query(port, "/api/process-exec/v1", quote("x" * (65_600 // 3 + bytes_more)))
        assert reply.status == status


def test_an_idle_connection_is_kept_for_who_polls(port: int) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    client.connect()
    client.auto_open = 0  # a connection that was closed is not opened again
    for pause in (0, 2.2, 4.2, 6.2):  # seconds
        time.sleep(pause)
        client.request("GET", "/healthz")
        with client.getresponse() as answer:
            assert (answer.status, answer.read()) == (200, b'{"status":"ok"}\n')
    client.close()
