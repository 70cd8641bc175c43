"""What a client can delay has an end, and costs no other client its place."""

import http.client
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import psutil
import pytest

from config.settings import Settings
from tests.support.factories import KEY, eventually
from tests.support.http_attacks import ServedApi, head, seconds_until_closed, serve, status_of

SOON = 10.0  # seconds; /healthz takes some milliseconds, on a machine that others use, too
FORM = {"Content_Type": "application/x-www-form-urlencoded"}
SILENT = head("POST", "/oauth/token", Content_Length="10000", **FORM)
ANY = f"/api/v1/schedules/{UUID(int=1)}/trigger/x"
MAGE = "/api/pipeline_schedules/1/pipeline_runs/x"
CHUNKED = {"Transfer_Encoding": "chunked", "Content_Type": "application/json"}


@pytest.fixture(scope="module")
def api(settings: Settings) -> Iterator[ServedApi]:
    """An API with short timeouts."""
    with serve(
        settings,
        idle_timeout=timedelta(seconds=2),
        request_timeout=timedelta(seconds=4),
        streams=20,
        max_body=100_000,
    ) as served:
        yield served


def test_silent_bodies_without_a_key_lock_nobody_out(settings: Settings) -> None:
    with serve(settings) as api, api.many(2600, SILENT):
        assert api.seconds_to_answer() < SOON
        assert api.seconds_to_answer("/api/v1/runs") < SOON
        eventually(lambda: _asks_for_token(api), until=lambda status: status == 401, every=0.5)


def _asks_for_token(api: ServedApi) -> int:
    return api.post("/oauth/token", {"grant_type": "client_credentials"}).status_code


@pytest.mark.parametrize(
    "data",
    [b"", b"GET /healthz HT", SILENT, head("GET", "/healthz")],
    ids=["nothing", "half a head", "no body", "no second request"],
)
def test_past_the_limit_the_oldest_that_waits_is_closed(api: ServedApi, data: bytes) -> None:
    with api.many(1100, data) as clients:
        assert api.seconds_to_answer() < SOON
        assert api.seconds_to_answer("/api/v1/runs") < SOON
        assert seconds_until_closed(clients[0]) < 2


@pytest.mark.parametrize("data", [b"", b"GET /healthz HT", SILENT])
def test_a_client_that_falls_silent_is_closed(api: ServedApi, data: bytes) -> None:
    with api.send(data) as client:
        assert seconds_until_closed(client) < 10


def test_a_body_that_comes_too_slowly_is_a_408_and_the_end(api: ServedApi) -> None:
    with api.send(SILENT) as client:
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert (answer.status, answer.getheader("Connection")) == (408, "close")
        answer.read()
        assert client.recv(1) == b""


@pytest.mark.parametrize("start", [b"GET /healthz HTTP/1.1\r\n", SILENT], ids=["head", "body"])
def test_a_client_that_drips_has_one_deadline(api: ServedApi, start: bytes) -> None:
    began = time.monotonic()
    with api.send(start) as client:
        client.settimeout(0.3)
        while time.monotonic() - began < 20:
            try:
                client.sendall(b"a")
                if not client.recv(1000):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
    assert 3 < time.monotonic() - began < 15


def test_a_client_that_takes_no_bytes_of_its_answer_is_closed(api: ServedApi) -> None:
    requests = head("GET", "/docs/swagger-ui-bundle.js") * 20  # more than the system buffers
    with api.send(requests, receive_buffer=1024) as client:
        time.sleep(8)  # it does nothing; the API gives up after 4 s
        assert seconds_until_closed(client) < 5


@pytest.mark.parametrize("path", [ANY, MAGE, "/api/v1/runs", "/api/pipeline_runs", "/oauth/token"])
@pytest.mark.parametrize("length", [{"Content_Length": "90000"}, CHUNKED], ids=["length", "chunks"])
def test_who_asks_is_settled_before_the_body_is_read(
    api: ServedApi, path: str, length: dict[str, str]
) -> None:
    began = time.monotonic()
    with api.send(head("POST", path, **length)) as client:
        status = status_of(client)
    if (path, length) == ("/oauth/token", CHUNKED):
        assert status == 408  # it says nothing of its length
        return
    assert status in (200, 401, 404, 413)
    assert time.monotonic() - began < 1.5  # the body would be waited for until 2 s


def test_a_large_body_for_no_trigger_costs_nothing(settings: Settings) -> None:
    body = {"k" * 60_000: [1] * 500_000}
    with serve(settings) as api:
        before = psutil.Process(api.pid).children()[0].memory_info().rss
        for path in (ANY, MAGE, "/api/v1/runs", "/api/v1/workflows", "/api/pipeline_runs"):
            began = time.monotonic()
            assert api.post(path, body, key="wrong").status_code in (200, 401, 404)
            assert time.monotonic() - began < SOON
        after = psutil.Process(api.pid).children()[0].memory_info().rss
    assert after - before < 50 * 2**20


@pytest.mark.parametrize("path", [ANY, "/api/v1/runs", "/oauth/token"])
def test_a_body_without_end_is_not_read_to_its_end_and_stops_nobody(
    api: ServedApi, path: str
) -> None:
    chunk = b"1000\r\n" + b"a" * 4096 + b"\r\n"
    sent = 0
    with api.send(head("POST", path, **CHUNKED)) as client:
        pushing = threading.Event()

        def push() -> None:
            nonlocal sent
            try:
                while sent < 2**30:
                    client.sendall(chunk * 16)
                    sent += len(chunk) * 16
                    pushing.set()
            except OSError:
                pass

        thread = threading.Thread(target=push)
        thread.start()
        assert pushing.wait(10)
        assert api.seconds_to_answer() < SOON
        thread.join(30)
        assert not thread.is_alive()
    assert sent < 64 * 2**20


def test_many_requests_at_once_on_one_connection_stop_nobody(api: ServedApi) -> None:
    with api.send(head("GET", "/healthz") * 3000) as client:
        assert api.seconds_to_answer() < SOON
        received = 0
        while received < 3000:
            received += client.recv(65536).count(b"HTTP/1.1 200")
        assert received == 3000


def test_a_connection_with_a_valid_key_outlives_those_without(api: ServedApi) -> None:
    keyed = head("GET", "/api/v1/runs", Authorization=f"Bearer {KEY}")
    with api.send(keyed) as client:
        assert status_of(client) == 200
        with api.many(1100, b""):
            assert api.seconds_to_answer() < SOON
            client.sendall(keyed)
            assert status_of(client) == 200
