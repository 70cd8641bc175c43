"""The `http` handler against real servers: where it goes, how long it stays, what it tells."""

import gzip
import itertools
import json
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator import FailStep, RetryStep, StepContext
from workers.handlers import http_handler

CERTIFICATE = Path(__file__).parents[2] / "support" / "hooks.example.pem"
PUBLIC = "93.184.216.34"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
REDIRECTS = (301, 302, 303, 307, 308)
# Spellings of addresses of this machine, of private networks, and of a cloud's metadata.
PRIVATE = [
    "127.0.0.1", "127.1", "127.255.255.254", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1",
    "017700000001", "0", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[::7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1]", "[fd00::1]", "[ff02::1]",
    "localhost", "LOCALHOST", "localhost.", "a.localhost", "printer.local", "db.internal",
    "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "169.254.169.254", "2852039166",
    "0xa9fea9fe", "[::ffff:169.254.169.254]", "192.0.0.192", "168.63.129.16", "224.0.0.1",
    "255.255.255.255", "①②⑦.⓪.⓪.①", "127。0。0。1",
]  # fmt: skip


@dataclass
class Server:
    """A server on loopback with its requests; `sent` counts the bytes that it could send."""

    port: int
    requests: list[bytes] = field(default_factory=list)
    sent: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/path"

    def header(self, name: str, at: int = -1) -> str | None:
        """A header of one of the requests."""
        lines = self.requests[at].partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        pairs = dict(line.split(": ", 1) for line in lines)
        return {key.lower(): value for key, value in pairs.items()}.get(name.lower())


Answer = Callable[[bytes], Iterable[bytes]]  # pieces of the answer to a request


@contextmanager
def serving(answer: Answer | bytes, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A server that answers each connection with pieces; a pause is an empty piece."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=50)
    server, over = Server(listener.getsockname()[1]), threading.Event()
    threads: list[threading.Thread] = []

    def serve(connected: socket.socket) -> None:
        with connected:
            try:
                if context is not None:
                    connected = context.wrap_socket(connected, server_side=True)
                request = _request_of(connected)
                server.requests.append(request)
                for piece in [answer] if isinstance(answer, bytes) else answer(request):
                    if over.wait(0 if piece else 0.05):
                        return
                    connected.sendall(piece)
                    server.sent += len(piece)
                connected.shutdown(socket.SHUT_WR)
                connected.recv(1)
            except OSError:
                return
            finally:
                connected.close()

    def listen() -> None:
        while True:
            try:
                connected, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connected,)))
            threads[-1].start()

    threads.append(threading.Thread(target=listen))
    threads[0].start()
    try:
        yield server
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join()


def _request_of(connected: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request:
        if not (data := connected.recv(65536)):
            raise OSError("closed")
        request += data
    head, _, body = request.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            while len(body) < int(line.partition(b":")[2]):
                body += connected.recv(65536)
    return head + b"\r\n\r\n" + body


def _redirect(status: int, location: str, body: bytes = b"") -> bytes:
    head = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _call(url: str, **args: Any) -> Any:
    """Call an address as a worker does that allows private ones."""
    return _call_by({"allow_private": True}, url=url, **args)


def _call_by(options: dict[str, Any], **args: Any) -> Any:
    context = StepContext(args=args, idempotency_key="the-step")
    return http_handler(**options)(context)


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of a handler for which each name is at a public address, which is this machine."""
    connect = socket.create_connection

    def reroute(address: tuple[str, int], *rest: Any) -> socket.socket:
        assert address[0] == PUBLIC
        return connect(("127.0.0.1", address[1]), *rest)

    monkeypatch.setattr(socket, "create_connection", reroute)
    return {"resolve": lambda host, _: [PUBLIC] if "." in host else ["127.0.0.1"]}


@pytest.mark.parametrize("host", PRIVATE)
def test_a_private_address_is_refused_in_every_spelling(host: str) -> None:
    with serving(OK) as server, pytest.raises(FailStep) as refusal:
        _call_by({}, url=f"http://{host}:{server.port}/")

    assert server.requests == []
    assert "refused" in str(refusal.value) or "cannot be sent" in str(refusal.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "[::ffff:127.0.0.1]"])
def test_a_private_address_is_called_where_that_is_allowed(host: str) -> None:
    with serving(OK) as server:
        assert _call(f"http://{host}:{server.port}/")["text"] == "ok"


def test_the_refusal_names_the_setting() -> None:
    with pytest.raises(FailStep, match="ORCHESTRATOR_HTTP_PRIVATE_TARGETS=1 would allow it"):
        _call_by({}, url="http://127.0.0.1/")


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1"])
def test_a_name_that_leads_to_a_private_address_is_refused(address: str) -> None:
    with serving(OK) as server, pytest.raises(FailStep, match="no address of the public Internet"):
        _call_by({"resolve": lambda *_: [address]}, url=f"http://a.example:{server.port}/")

    assert server.requests == []


def test_a_name_is_looked_up_once_and_only_its_public_addresses_are_used(
    internet: dict[str, Any],
) -> None:
    lookups: list[str] = []

    def resolve(host: str, _: int) -> list[str]:
        lookups.append(host)
        return ["127.0.0.1", PUBLIC, "10.0.0.1"] if len(lookups) == 1 else ["127.0.0.1"]

    with serving(OK) as server:
        _call_by({"resolve": resolve}, url=f"http://a.example:{server.port}/")

    assert lookups == ["a.example"]
    assert server.header("Host") == f"a.example:{server.port}"


@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.parametrize(
    "place", ["http://127.0.0.1:{}/", "//127.1:{}/", "http://[::1]:{}/", "http://inside:{}/x"]
)
def test_a_redirect_to_a_private_address_is_refused(
    internet: dict[str, Any], status: int, place: str
) -> None:
    with serving(OK) as inside:
        with (
            serving(_redirect(status, place.format(inside.port))) as outside,
            pytest.raises(FailStep, match="the request is refused"),
        ):
            _call_by(internet, url=f"http://a.example:{outside.port}/", method="POST", body="x")
        assert len(outside.requests) == 1
        assert inside.requests == []


@pytest.mark.parametrize(
    "location",
    [
        "ftp://a.example/", "file:///etc/passwd", "gopher://a.example/", "javascript:1", "http://",
        "http://[", "http://[::1", "http://a.example:99999/", "http://a.example:x/", "http://a b/",
        "http://a.example:0/", "http://\x80\xff/", "//", "http:///etc/passwd", "http://%00/",
    ],
)  # fmt: skip
def test_a_redirect_to_no_address_fails_for_good(internet: dict[str, Any], location: str) -> None:
    answer = b"HTTP/1.1 302 X\r\nLocation: " + location.encode("latin-1") + b"\r\n\r\n"
    with serving(answer) as server, pytest.raises(FailStep, match=r"redirect|refused"):
        _call_by(internet, url=f"http://a.example:{server.port}/")


@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
def test_a_redirect_keeps_or_changes_the_method_as_requests_does(status: int, method: str) -> None:
    answers = iter([_redirect(status, "/next"), OK])
    with serving(lambda _: [next(answers)]) as server:
        _call(server.url, method=method, body="payload" if method != "GET" else None)

    first, last = server.requests
    expected = "GET" if status in (302, 303) or (status, method) == (301, "POST") else method
    assert first.startswith(f"{method} /path HTTP/1.1".encode())
    assert last.startswith(f"{expected} /next HTTP/1.1".encode())
    has_body = method != "GET" and status in (307, 308)
    assert last.endswith(b"payload") is has_body


def test_credentials_are_sent_on_to_the_same_host_only() -> None:
    secrets = {"Authorization": "Bearer t", "X-API-Key": "k", "Cookie": "a=b", "X-Other": "o"}
    with serving(OK) as other, serving(_redirect(307, f"http://localhost:{other.port}/")) as first:
        _call(first.url, headers=secrets)
        assert {name: first.header(name) for name in secrets} == secrets
        sent = {name: other.header(name) for name in secrets}
        assert sent == dict.fromkeys(secrets, None) | {"X-Other": "o"}
        assert other.header("Idempotency-Key") == "the-step"

    answers = iter([_redirect(302, "/next"), OK])
    with serving(lambda _: [next(answers)]) as same:
        _call(f"http://user:pw@127.0.0.1:{same.port}/", headers={"X-API-Key": "k"})
        assert same.header("Authorization") == "Basic dXNlcjpwdw=="
        assert same.header("X-API-Key") == "k"
        assert b"user" not in same.requests[0].partition(b"\r\n")[0]


def test_redirects_without_an_end_fail_for_good() -> None:
    with (
        serving(lambda _: [_redirect(302, "/again")]) as server,
        pytest.raises(FailStep, match="more than 10 redirects"),
    ):
        _call(server.url)

    assert len(server.requests) == 11


def test_the_body_of_a_redirect_is_not_read() -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 419430400\r\n\r\n"

    def answer(request: bytes) -> Iterable[bytes]:
        if b" /next " in request:
            return [OK]
        return itertools.chain([head], itertools.repeat(b"x" * 65536, 6400))

    with serving(answer) as server:
        assert _call(server.url)["text"] == "ok"

    assert server.sent < 20_000_000  # what fits into the buffers of both sockets


def _drip(head: bytes, piece: bytes) -> Answer:
    """The head, then a piece each 50 ms, for ever."""
    return lambda _: itertools.chain([head], itertools.cycle([b"", piece]))


@pytest.mark.parametrize(
    "answer",
    {
        "silence": _drip(b"", b""),
        "the status": _drip(b"", b"H"),
        "a header": _drip(HEAD + b"X: ", b"y"),
        "headers": _drip(HEAD, b"X: y\r\n"),
        "100 Continue": _drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        "a body without an end": _drip(HEAD + b"\r\n", b"x"),
        "a body with a length": _drip(HEAD + b"Content-Length: 9000\r\n\r\n", b"x"),
        "chunks": _drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        "the size of a chunk": _drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
        "trailers": _drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
        "gzip": _drip(HEAD + b"Content-Encoding: gzip\r\n\r\n", gzip.compress(b"")),
        "redirects": lambda _: [b"", b"", b"", _redirect(302, "/again")],
    }.items(),
    ids=lambda each: each[0],
)
def test_one_deadline_holds_for_everything(answer: tuple[str, Answer]) -> None:
    began = time.monotonic()

    with serving(answer[1]) as server, pytest.raises(RetryStep, match=r"no answer within 0\.4 s"):
        _call(server.url, timeout="400ms")

    assert time.monotonic() - began < 10


def test_the_deadline_holds_for_who_does_not_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(RetryStep, match=r"no answer within 0\.4 s"):
            _call(url, method="POST", body="x" * 50_000_000, timeout="400ms")


def test_the_deadline_holds_for_the_handshake_of_tls() -> None:
    with (
        serving(_drip(b"", b"")) as server,
        pytest.raises(RetryStep, match=r"no answer within 0\.3 s"),
    ):
        _call(f"https://127.0.0.1:{server.port}/", timeout=0.3)


def _endless(head: bytes, piece: bytes) -> Answer:
    return lambda _: itertools.chain([head], itertools.repeat(piece))


@pytest.mark.parametrize(
    "answer",
    {
        "a body": _endless(HEAD + b"\r\n", b"x" * 65536),
        "chunks": _endless(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", _chunk(b"x" * 9999)),
        "small chunks": _endless(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", _chunk(b"x") * 99),
        "a bomb of gzip": HEAD
        + b"Content-Encoding: gzip\r\n\r\n"
        + gzip.compress(bytes(200_000_000), 1),
        "a bomb of deflate": HEAD
        + b"Content-Encoding: deflate\r\n\r\n"
        + zlib.compress(bytes(200_000_000), 1),
        "gzip twice": HEAD
        + b"Content-Encoding: gzip, gzip\r\n\r\n"
        + gzip.compress(gzip.compress(bytes(100_000_000), 1)),
        "empty parts of gzip": _endless(
            HEAD + b"Content-Encoding: gzip\r\n\r\n", gzip.compress(b"") * 999
        ),
        "100 Continue": _endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 99),
    }.items(),
    ids=lambda each: each[0],
)
def test_an_answer_without_an_end_fails_for_good(answer: tuple[str, Answer | bytes]) -> None:
    with serving(answer[1]) as server, pytest.raises(FailStep, match="the answer has more than"):
        _call(server.url)

    assert server.sent < 40_000_000


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (HEAD + b"Content-Encoding: gzip\r\n\r\nplain", "not encoded as it says"),
        (HEAD + b"Content-Type: application/json\r\n\r\n{", "not the JSON it says it is"),
        (
            HEAD + b"Content-Type: application/json\r\n\r\n" + b"[" * 100_000,
            "not the JSON it says it is",
        ),
        (HEAD + b"Content-Type: application/json\r\n\r\n" + b"9" * 5000, "not the JSON it says"),
    ],
)
def test_an_answer_that_is_not_what_it_says_fails_for_good(answer: bytes, message: str) -> None:
    with serving(answer) as server, pytest.raises(FailStep, match=message):
        _call(server.url)


@pytest.mark.parametrize("charset", ["nonsense", "hex", "idna", "zlib", "undefined", "utf-8"])
def test_a_character_set_that_nobody_knows_is_read_as_utf_8(charset: str) -> None:
    head = HEAD + f"Content-Type: text/plain; charset={charset}\r\n\r\n".encode()
    with serving(head + "é\x00".encode()) as server:
        assert _call(server.url)["text"] == "é\ufffd"


def test_a_broken_answer_is_tried_again() -> None:
    for answer in (b"", b"nonsense\r\n\r\n", HEAD + b"Content-Length: 9\r\n\r\nx"):
        with serving(answer) as server, pytest.raises(RetryStep, match="no answer: "):
            _call(server.url)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        *[({"timeout": each}, "with.timeout") for each in (
            "soon", "", -1, 0, 0.0, "0s", float("nan"), float("inf"), 1e300, True, [], {}, "-3s",
            "NaN", "1e3", "9" * 5000,
        )],
        *[({"method": each}, "with.method") for each in (
            5, [], {}, True, "GET /", "A\r\nB", "É", "CONNECT", "x" * 99,
        )],
        *[({"headers": each}, "with.headers") for each in (
            "X: y", ["X"], 5, {"X": 5}, {"X": ["y"]}, {"X": {}}, {"X": "a\r\nY: b"}, {"X": "\x00"},
            {"X": "€"}, {"X": " y"}, {"X ": "y"}, {"": "y"}, {"X:": "y"}, {"é": "y"},
            {"Content-Length": "5"}, {"transfer-encoding": "chunked"}, {"Connection": "X"},
        )],
        *[({"query": each}, "with.query") for each in (
            5, True, [["a", 1]], {"a": {}}, {"a": [[]]},
        )],
        *[({"body": each}, "with.body") for each in (5, True, [["a", 1]], {"a": {"b": 1}})],
        *[({"expect": each}, "with.expect") for each in (
            200, "200", ["200"], [True], [2.5], {"a": 1},
        )],
        *[({"url": each}, "with.url") for each in (
            None, 5, [], {}, True, "", "example", "ftp://a.example", "http://", "http://a b", "//a",
            "http://[", "http://a.example:x", "http://a.example:99999", "http://*", "file:///etc",
        )],
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_argument_fails_for_good(args: dict[str, Any], message: str) -> None:
    with pytest.raises(FailStep, match=message):
        _call_by({"resolve": lambda *_: []}, **({"url": "http://a.example/"} | args))


def test_arguments_may_be_null() -> None:
    names = ("method", "headers", "query", "json", "body", "timeout", "expect")
    with serving(OK) as server:
        assert _call(server.url, **dict.fromkeys(names))["status"] == 200


def test_what_is_sent() -> None:
    with serving(OK) as server:
        _call(server.url, method="post", query={"a": [1, "b c"], "d": None}, json={"x": "é"})
        assert server.requests[-1].startswith(b"POST /path?a=1&a=b+c HTTP/1.1\r\n")
        assert json.loads(server.requests[-1].partition(b"\r\n\r\n")[2]) == {"x": "é"}
        _call(server.url, method="PUT", body="é", headers={"Accept": None, "X": "y"})
        assert server.requests[-1].endswith("\r\n\r\né".encode())
        assert (server.header("Accept"), server.header("X")) == (None, "y")
        _call(server.url, method="POST", body={"a": "b c", "n": 1})
        assert server.requests[-1].endswith(b"\r\n\r\na=b+c&n=1")
        assert len(_call(f"{server.url}?{'q' * 20_000}#part")["headers"]) == 1
        assert b"#part" not in server.requests[-1]


SECRET = "http://user:s3cret@{}/path?token=s3cret&sig=s3cret#s3cret"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:{port}", "10.0.0.1", "a.example:{port}", "a.example:1", "a.example:x", "[",
        "a b", "a.example:99999", "*", "", "a.example:0", "-a.example", "a..example",
    ],
)  # fmt: skip
@pytest.mark.parametrize("allow_private", [False, True])
def test_credentials_are_in_no_error(
    host: str, allow_private: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    options = {"allow_private": allow_private, "resolve": lambda *_: ["127.0.0.1"]}
    with serving(b"HTTP/1.1 500 No\r\n\r\n") as server:
        url = SECRET.format(host.format(port=server.port))
        with pytest.raises((FailStep, RetryStep)) as error:
            _call_by(options, url=url, timeout=2)

    assert "s3cret" not in f"{error.value} {error.value.__cause__}"
    assert "s3cret" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("place", ["/next?key=s3cret", SECRET.format("[")[:-8], "ftp://s3cret/"])
def test_credentials_of_a_redirect_are_in_no_error(place: str) -> None:
    answers = iter([_redirect(302, place), b"HTTP/1.1 404 No\r\n\r\n"])
    with (
        serving(lambda _: [next(answers)]) as server,
        pytest.raises(FailStep) as error,
    ):
        _call(server.url)

    assert "s3cret" not in f"{error.value} {error.value.__cause__}"


def test_the_error_names_the_place() -> None:
    with serving(b"HTTP/1.1 404 No\r\n\r\n") as server, pytest.raises(FailStep) as error:
        _call(f"http://user:pw@127.0.0.1:{server.port}/path?token=t#part")

    assert str(error.value) == f"GET http://127.0.0.1:{server.port}/path answered 404 No"


def test_proxies_and_passwords_of_the_environment_have_no_effect(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login worker password s3cret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with serving(OK) as proxy, serving(OK) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        _call(server.url)
        assert server.header("Authorization") is None
        assert proxy.requests == []


def test_tls_checks_the_name_although_the_connection_goes_to_an_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    trust = ssl.create_default_context(cafile=str(CERTIFICATE))
    here = {"allow_private": True, "resolve": lambda *_: ["127.0.0.1"]}
    with serving(OK, context) as server:
        right = f"https://hooks.example:{server.port}/"
        assert _call_by({**here, "trust": trust}, url=right)["text"] == "ok"
        with pytest.raises(RetryStep, match=r"other\.example"):
            _call_by({**here, "trust": trust}, url=f"https://other.example:{server.port}/")
        with pytest.raises(RetryStep, match="CERTIFICATE_VERIFY_FAILED"):
            _call_by(here, url=right)
