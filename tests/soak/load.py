"""What the soak asks for: a mix of runs, and questions about them, at a steady pace."""

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
LATEST = 200  # requests that may wait for a thread; what comes on top is given up and counted
PATIENCE = 0.3  # seconds until a run that is to be cancelled is

_STEPS = "tests.soak.steps"


def _chain(*uses: str, **options: Any) -> list[dict[str, Any]]:
    return [{"key": f"s{n}", "uses": each, **options} for n, each in enumerate(uses)]


def _fan(width: int) -> list[dict[str, Any]]:
    wide = [{"key": f"w{n}", "uses": "noop", "needs": ["first"]} for n in range(width)]
    join = {"key": "last", "uses": "noop", "needs": [each["key"] for each in wide]}
    return [{"key": "first", "uses": "noop"}, *wide, join]


_SLEEP = {"key": "first", "uses": "sleep", "with": {"seconds": 2}}
# The workflows, and of a hundred runs how many are of each.
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
EVERY = 5  # seconds between the firings of each


@dataclass
class Told:
    """What came of it, since it was last taken."""

    runs: int = 0
    late: int = 0  # not asked for, because everything before it still waited
    refused: list[str] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)  # of POST /runs


class Load:
    """Asks an API for runs from many threads, and tells how that went."""

    def __init__(self, url: str, key: str, seed: int = 1) -> None:
        self._url, self._key = url, key
        self._random = random.Random(seed)
        self._own = threading.local()
        self._lock = threading.Lock()
        self._told = Told()
        self._waiting = 0
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="load")

    def prepare(self) -> None:
        """Register the workflows, and schedules that submit some runs by themselves."""
        for name, (_, steps) in MIX.items():
            self._client.apply({"name": name, "steps": steps})
        headers = {"Authorization": f"Bearer {self._key}"}
        asked = {"workflow": "chain", "type": "interval", "every": f"{EVERY}s"}
        for _ in range(SCHEDULES):
            made = requests.post(
                f"{self._url}/api/v1/schedules", json=asked, headers=headers, timeout=10
            )
            made.raise_for_status()

    @contextmanager
    def at(self, rate: float) -> Iterator[None]:
        """Ask for so many runs a second while the block runs, however long they take."""
        ending = threading.Event()
        pacing = threading.Thread(target=self._pace, args=(rate, ending), daemon=True)
        pacing.start()
        try:
            yield
        finally:
            ending.set()
            pacing.join()

    def some(self, count: int) -> None:
        """Ask for so many runs, and wait until they are accepted."""
        for done in [self._pool.submit(self._one, self._random.random()) for _ in range(count)]:
            done.result()

    def take(self) -> Told:
        """What was told since the last time."""
        with self._lock:
            told, self._told = self._told, Told()
        return told

    def close(self) -> None:
        """Ask for nothing more."""
        self._pool.shutdown(cancel_futures=True)

    @property
    def _client(self) -> Client:
        """A connection for each thread."""
        if not hasattr(self._own, "client"):
            self._own.client = Client(self._url, self._key)
        client: Client = self._own.client
        return client

    def _pace(self, rate: float, ending: threading.Event) -> None:
        due = time.monotonic()
        while not ending.wait(max(0.0, due - time.monotonic())):
            due += self._random.expovariate(rate)
            with self._lock:
                free = self._waiting < LATEST
                self._waiting += free
                self._told.late += not free
            if free:
                self._pool.submit(self._paced, self._random.random())

    def _paced(self, lot: float) -> None:
        with self._lock:
            self._waiting -= 1
        self._one(lot)

    def _one(self, lot: float) -> None:
        """One run, and now and then a question."""
        source = random.Random(lot)
        (name,) = source.choices(list(MIX), [share for share, _ in MIX.values()])
        began = time.perf_counter()
        try:
            run = self._client.submit(name, {}, priority=source.choice((2, 4, 4, 6)))
            self._note((time.perf_counter() - began) * 1000)
            self._ask(source, run["id"])
            if name == "cancelled":
                self._cancel(run["id"])
        except (ApiError, requests.RequestException) as error:
            with self._lock:
                self._told.refused.append(str(error))

    def _ask(self, source: random.Random, run_id: str) -> None:
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
        time.sleep(PATIENCE)  # so that it has started
        try:
            self._client.cancel(run_id)
        except ApiError as error:
            if error.status != 409:  # it has ended meanwhile
                raise

    def _note(self, milliseconds: float) -> None:
        with self._lock:
            self._told.runs += 1
            self._told.milliseconds.append(milliseconds)
