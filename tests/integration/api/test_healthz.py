"""`/healthz` answers within 200 ms while many connections are misused, whoever opens them."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial

import pytest

from config.settings import Settings
from orchestrator.db.database import Database
from tests.support.factories import KEY, a_run
from tests.support.health_probe import assert_answered, probed
from tests.support.http_attacks import ServedApi, head, serve

SECONDS = 1.0  # for which the connections stay
RUNS, TOKEN = "/api/v1/runs", "/oauth/token"
TRIGGER = "/api/v1/schedules/5f0c0000-0000-4000-8000-000000000000/trigger/x"
KEYED = {"Authorization": f"Bearer {KEY}"}
FORM = {"Content_Type": "application/x-www-form-urlencoded"}
CHUNKED = {"Transfer_Encoding": "chunked", "Content_Type": "application/json"}
EVENTS = {"Accept": "text/event-stream"}
CHUNK = b"10000\r\n" + b"a" * 65536 + b"\r\n"
# How many connections, and what is sent on each.
ATTACKS = {
    "connections": (1000, b""),
    "half a head": (500, b"GET /healthz HT"),
    "silent bodies without a key": (300, head("POST", TOKEN, Content_Length="100000", **FORM)),
    "silent bodies of a trigger": (300, head("POST", TRIGGER, Content_Length="60000")),
    "silent bodies with a key": (300, head("POST", RUNS, Content_Length="60000", **KEYED)),
    "bodies without an end": (4, head("POST", TRIGGER, **CHUNKED) + CHUNK * 300),
    "bodies without an end, with a key": (4, head("POST", RUNS, **CHUNKED, **KEYED) + CHUNK * 300),
    "malformed chunks": (200, head("POST", RUNS, **CHUNKED, **KEYED) + b"zz\r\n"),
    "an endless head": (50, b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 1_000_000),
    "an endless address": (50, b"GET /" + b"a" * 1_000_000),
    "streams of one key": (300, head("GET", f"{RUNS}/events", **EVENTS, **KEYED)),
    "requests that wait for a run": (300, head("GET", f"{RUNS}/RUN?wait=30", **KEYED)),
    "a flood of one key": (200, head("GET", RUNS, **KEYED)),
    "a flood of wrong keys": (200, head("GET", RUNS, Authorization="Bearer x")),
    "a flood of wrong triggers": (200, head("POST", TRIGGER)),
    "a flood of wrong addresses": (200, head("GET", "/api/v1/artifacts/RUN?token=x.y.z")),
    "a flood of wrong tokens": (200, head("GET", RUNS, Authorization="Bearer eyJ.eyJ.x")),
    "documents without a key": (50, head("GET", "/openapi.json")),
    "answers that nobody takes": (50, head("GET", "/docs/swagger-ui-bundle.js") * 5),
}  # fmt: skip


@pytest.fixture(scope="module")
def api(settings: Settings) -> Iterator[ServedApi]:
    with serve(settings) as served:
        yield served


@pytest.mark.parametrize("name", ATTACKS)
def test_healthz_answers_during(api: ServedApi, database: Database, name: str) -> None:
    count, data = ATTACKS[name]
    data = data.replace(b"RUN", str(a_run(database).id).encode())
    assert_answered(partial(_delay, api, count, data))


def _delay(api: ServedApi, count: int, data: bytes) -> float:
    with probed(api.url, api.pid) as delays, ExitStack() as connections:
        for _ in range(count):
            client = connections.enter_context(socket.create_connection(("127.0.0.1", api.port), 5))
            with suppress(OSError):  # it is refused before all is sent
                client.sendall(data)
        time.sleep(SECONDS)
    return max(delays)
