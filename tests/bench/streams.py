"""1,000 open streams in one API process: delay from commit to reader, memory, other requests.

Readers are sockets in one selector, spread over the events of several runs. A client polls a run
meanwhile, and before the streams are open, for comparison.
"""

import json
import selectors
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import requests

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.bench.ask import chain
from tests.bench.report import Report
from tests.bench.usage import using

STREAMS = 1000
RUNS = 10
SECONDS = 20.0


def measure(stack: Stack) -> Report:
    """One worker produces the events of all followed runs."""
    client = Client(stack.url, stack.key)
    # The polled run has ended; the followed runs sleep in many short steps.
    client.apply(chain("plain", 1))
    client.apply(chain("slow", 400, "sleep", step={"with": {"seconds": 0.2}}))
    plain = client.submit("plain", {})["id"]
    alone, _ = _poll(stack, plain, SECONDS / 4)
    followed = [client.submit("slow", {})["id"] for _ in range(RUNS)]
    report = Report("streams", f"{STREAMS} streams of {RUNS} runs, milliseconds")
    readers = _Readers(stack, followed)
    with using(stack) as report.used["meanwhile"]:
        beside, delays = _poll(stack, plain, SECONDS, readers)
    report.add("commit to reader", delays, at_most=150, of="p95")
    report.add("GET of a run, no stream", alone)
    report.add("GET of a run, beside them", beside)
    return report


class _Readers:
    """Open streams, and the delays of their events."""

    def __init__(self, stack: Stack, runs: list[str]) -> None:
        address = urlsplit(stack.url)
        self._loop = selectors.DefaultSelector()
        self.open = 0
        for number in range(STREAMS):
            reader = socket.create_connection((address.hostname, address.port))
            path = f"/api/v1/runs/{runs[number % len(runs)]}/events"
            request = f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {stack.key}\r\n"
            reader.sendall(f"{request}Accept: text/event-stream\r\n\r\n".encode())
            response = reader.recv(65536)
            assert b" 200 OK" in response, response
            reader.setblocking(False)
            self._loop.register(reader, selectors.EVENT_READ)
            self.open += 1

    def read(self, seconds: float) -> list[float]:
        """Milliseconds from the commit of each event to its arrival; without replayed events."""
        delays = []
        begun = datetime.now(UTC) + timedelta(seconds=1)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for ready, _ in self._loop.select(left):
                text = ready.fileobj.recv(65536)  # type: ignore[union-attr]
                if not text:
                    self._loop.unregister(ready.fileobj)
                now = datetime.now(UTC)
                for line in text.split(b"\n"):
                    if line.startswith(b"data: ") and line.endswith(b"}"):
                        at = datetime.fromisoformat(json.loads(line[6:])["occurred_at"])
                        if at > begun:
                            delays.append((now - at).total_seconds() * 1000)
        return delays


def _poll(
    stack: Stack, run_id: str, seconds: float, readers: _Readers | None = None
) -> tuple[list[float], list[float]]:
    """Milliseconds of each request, and the delays of the readers meanwhile."""
    times: list[float] = []
    delays: list[float] = []
    polling = threading.Thread(target=_time_requests, args=(stack, run_id, seconds, times))
    polling.start()
    if readers is not None:
        delays = readers.read(seconds)
    polling.join()
    return times, delays


def _time_requests(stack: Stack, run_id: str, seconds: float, times: list[float]) -> None:
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {stack.key}"
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begun = time.perf_counter()
            assert session.get(f"{stack.url}/api/v1/runs/{run_id}").ok
            times.append((time.perf_counter() - begun) * 1000)
            time.sleep(0.02)
