"""The load of the soak: a mix of runs, and reads, at a steady rate."""

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import requests

from orchestrator.client import ApiError, Client

THREADS = 24
MAX_WAITING = 200  # requests that may wait for a thread; further ones are dropped and counted
CANCEL_AFTER = 0.3  # seconds from the submission to the cancel

_STEPS = "tests.soak.steps"


def _chain(*uses: str, **options: Any) -> list[dict[str, Any]]:
    return [{"key": f"s{n}", "uses": each, **options} for n, each in enumerate(uses)]


def _fan(width: int) -> list[dict[str, Any]]:
    wide = [{"key": f"w{n}", "uses": "noop", "needs": ["first"]} for n in range(width)]
    join = {"key": "last", "uses": "noop", "needs": [each["key"] for each in wide]}
    return [{"key": "first", "uses": "noop"}, *wide, join]


_SLEEP = {"key": "first", "uses": "sleep", "with": {"seconds": 2}}
# Runs of each workflow per hundred, and its steps.
MIX: dict[str, tuple[int, list[dict[str, Any]]]] = {
    "chain": (50, _chain(*["noop"] * 5)),
    "fan": (16, _fan(6)),
    "retried": (10, _chain(f"{_STEPS}.flaky", retry={"attempts": 3, "delay": 0.1})),
    "talking": (12, _chain(f"{_STEPS}.chat", f"{_STEPS}.chat")),
    "saving": (6, _chain(f"{_STEPS}.save")),
    "failing": (3, _chain("noop", f"{_STEPS}.fail", "noop", "noop")),
    "cancelled": (3, [_SLEEP, *_chain("noop", "noop")]),
}
SCHEDULES = 5
SCHEDULE_INTERVAL = 5  # seconds


@dataclass
class Results:
    """The results since the last `take`."""

    runs: int = 0
    late: int = 0  # dropped, because MAX_WAITING were waiting
    refused: list[str] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)  # of POST /runs


class Load:
    """Submits runs from many threads, and collects the results."""

    def __init__(self, url: str, key: str, seed: int = 1) -> None:
        self._url, self._key = url, key
        self._random = random.Random(seed)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._results = Results()
        self._waiting = 0
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="load")

    def prepare(self) -> None:
        """Register the workflows and some schedules."""
        for name, (_, steps) in MIX.items():
            self._client.apply({"name": name, "steps": steps})
        headers = {"Authorization": f"Bearer {self._key}"}
        body = {"workflow": "chain", "type": "interval", "every": f"{SCHEDULE_INTERVAL}s"}
        for _ in range(SCHEDULES):
            response = requests.post(
                f"{self._url}/api/v1/schedules", json=body, headers=headers, timeout=10
            )
            response.raise_for_status()

    @contextmanager
    def at(self, rate: float) -> Iterator[None]:
        """Submit at this rate (open loop, Poisson arrivals) during the block."""
        ending = threading.Event()
        pacing = threading.Thread(target=self._pace, args=(rate, ending), daemon=True)
        pacing.start()
        try:
            yield
        finally:
            ending.set()
            pacing.join()

    def some(self, count: int) -> None:
        """Submit so many runs, and wait until they are accepted."""
        for done in [self._pool.submit(self._one, self._random.random()) for _ in range(count)]:
            done.result()

    def take(self) -> Results:
        """The results since the last call."""
        with self._lock:
            results, self._results = self._results, Results()
        return results

    def close(self) -> None:
        """Stop submitting."""
        self._pool.shutdown(cancel_futures=True)

    @property
    def _client(self) -> Client:
        """The client of this thread."""
        if not hasattr(self._local, "client"):
            self._local.client = Client(self._url, self._key)
        client: Client = self._local.client
        return client

    def _pace(self, rate: float, ending: threading.Event) -> None:
        due = time.monotonic()
        while not ending.wait(max(0.0, due - time.monotonic())):
            due += self._random.expovariate(rate)
            with self._lock:
                free = self._waiting < MAX_WAITING
                self._waiting += free
                self._results.late += not free
            if free:
                self._pool.submit(self._paced, self._random.random())

    def _paced(self, seed: float) -> None:
        with self._lock:
            self._waiting -= 1
        self._one(seed)

    def _one(self, seed: float) -> None:
        """Submit one run, and sometimes read."""
        source = random.Random(seed)
        (name,) = source.choices(list(MIX), [share for share, _ in MIX.values()])
        began = time.perf_counter()
        try:
            run = self._client.submit(name, {}, priority=source.choice((2, 4, 4, 6)))
            self._record((time.perf_counter() - began) * 1000)
            self._read(source, run["id"])
            if name == "cancelled":
                self._cancel(run["id"])
        except (ApiError, requests.RequestException) as error:
            with self._lock:
                self._results.refused.append(str(error))

    def _read(self, source: random.Random, run_id: str) -> None:
        match source.randrange(10):
            case 0 | 1:
                self._client.runs(limit=50)
            case 2:
                self._client.runs(state="failed", limit=20)
            case 3 | 4:
                self._client.run(run_id)
            case 5:
                self._client.log(run_id)

    def _cancel(self, run_id: str) -> None:
        time.sleep(CANCEL_AFTER)  # it has started by then
        try:
            self._client.cancel(run_id)
        except ApiError as error:
            if error.status != 409:  # it has ended
                raise

    def _record(self, milliseconds: float) -> None:
        with self._lock:
            self._results.runs += 1
            self._results.milliseconds.append(milliseconds)
