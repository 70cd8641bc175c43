"""Three times as many POSTs as the API can do: what it accepts, and how fast it refuses the rest.

Open loop, one process for each of three tenants. A latency counts from when the request was due.
`OVERLOAD_SECONDS=60` measures for a minute instead of ten seconds.
"""

import http.client
import itertools
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.bench.ask import chain, engine_of, new_tenant, scalar
from tests.bench.report import Report
from tests.bench.usage import using

SECONDS = float(os.environ.get("OVERLOAD_SECONDS", "10"))
TENANTS, FACTOR = 3, 3
_CONNECTIONS = 30  # of one tenant
_WORKFLOW = "nobodys"  # in a queue without a worker
_BODY = json.dumps({"workflow": _WORKFLOW})
_COUNT = "SELECT count(*) FROM runs WHERE workflow = :name"


class Reply(NamedTuple):
    """The response to one request, with milliseconds."""

    status: int
    latency: float  # since it was due
    duration: float  # since it was sent
    retry_after: bool


class Load(NamedTuple):
    """What one tenant sends: so many requests a second, or each connection one after the other."""

    url: str
    key: str
    rate: float | None
    seconds: float
    connections: int
    method: str = "POST"


def measure(stack: Stack, seconds: float = SECONDS) -> Report:
    """Each tenant alone, then the capacity, then three times that with /healthz meanwhile."""
    keys = [stack.key, *(new_tenant(stack, f"tenant{n}") for n in range(1, TENANTS))]
    for key in keys:
        Client(stack.url, key).apply(chain(_WORKFLOW, 1, queue=_WORKFLOW))
    load = partial(Load, stack.url)
    report = Report("overload", f"{FACTOR} times the capacity for {seconds:g} s, milliseconds")
    alone = accepted_of(_send(load(keys[0], None, 3.0, 1)))
    capacity = len(accepted_of(send_all([load(key, None, 3.0, 2) for key in keys]))) / 3.0
    before = _runs(stack)
    offered = [load(key, FACTOR * capacity / TENANTS, seconds, _CONNECTIONS) for key in keys]
    with using(stack) as report.used["overload"], _Health(stack.url) as health:
        replies = send_all(offered)
    accepted, refused = accepted_of(replies), [each for each in replies if each.status != 201]
    normal = sorted(reply.latency for reply in alone)
    p99 = normal[int(0.99 * len(normal))]
    report.add("POST, alone", normal)
    report.add("accepted", [each.latency for each in accepted], at_most=3 * p99, of="p99")
    report.add("refused, since sent", [each.duration for each in refused], at_most=100, of="p99")
    report.add("GET /healthz", health.times, at_most=200, of="p99")
    statuses = ", ".join(f"{sum(r.status == s for r in refused)} of {s}" for s in (429, 503))
    lost = len(accepted) - (_runs(stack) - before)
    report.notes += [
        f"capacity {capacity:.0f}/s, offered {len(replies) / seconds:.0f}/s,"
        f" accepted {len(accepted) / seconds:.0f}/s,"
        f" refused {len(refused) / len(replies):.0%} ({statuses}),"
        f" {sum(not each.retry_after for each in refused)} of them without Retry-After",
        f"{lost} accepted runs are not in the database",
    ]
    return report


def accepted_of(replies: Sequence[Reply]) -> list[Reply]:
    """Those that were done."""
    return [each for each in replies if each.status in (200, 201)]


def _runs(stack: Stack) -> int:
    engine = engine_of(stack)
    count = int(scalar(engine, _COUNT, name=_WORKFLOW))
    engine.dispose()
    return count


def send_all(loads: Sequence[Load]) -> list[Reply]:
    """Send the loads of all tenants at once."""
    with multiprocessing.get_context("spawn").Pool(len(loads)) as pool:
        return list(itertools.chain(*pool.map(_send, loads)))


def _send(load: Load) -> list[Reply]:
    """Send the load of one tenant."""
    numbers, replies = itertools.count(), list[Reply]()
    start = time.monotonic() + 0.5
    arguments = (load, numbers, start, replies)
    threads = [
        threading.Thread(target=_connection, args=arguments) for _ in range(load.connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return replies


def _connection(
    load: Load, numbers: "itertools.count[int]", start: float, replies: list[Reply]
) -> None:
    client = _connect(load.url)
    while True:
        due = time.monotonic() if load.rate is None else start + next(numbers) / load.rate
        if max(due, time.monotonic()) > start + load.seconds:
            return
        time.sleep(max(0.0, max(due, start) - time.monotonic()))
        replies.append(_ask(client, load, max(due, start)))


def _ask(client: http.client.HTTPConnection, load: Load, due: float) -> Reply:
    sent = time.monotonic()
    headers = {"Authorization": f"Bearer {load.key}", "Content-Type": "application/json"}
    body = _BODY if load.method == "POST" else None
    client.request(load.method, "/api/v1/runs", body, headers)
    response = client.getresponse()
    response.read()
    now = time.monotonic()
    has_date = response.headers["Retry-After"] is not None
    return Reply(response.status, 1000 * (now - due), 1000 * (now - sent), has_date)


def _connect(url: str) -> http.client.HTTPConnection:
    address = urlsplit(url)
    return http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)


class _Health:
    """Milliseconds of GET /healthz, each on a new connection, twenty times a second."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.times: list[float] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._poll)

    def __enter__(self) -> "_Health":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._ends.wait(0.05):
            began = time.monotonic()
            client = _connect(self._url)
            client.request("GET", "/healthz")
            assert client.getresponse().status == 200
            self.times.append(1000 * (time.monotonic() - began))
            client.close()
