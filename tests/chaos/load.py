"""Clients that submit and cancel runs during the faults, and record the responses."""

import random
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from sqlalchemy import text

from orchestrator.states import FINAL_RUNS
from tests.chaos.system import System
from tests.support.factories import eventually

CLIENTS = 3
BACKLOG = 60  # maximum of accepted runs that have not ended
RETRY_FOR = 90.0  # seconds for which a request is retried
CANCELLED = 0.06  # share of the runs
RESISTING = 0.01  # share of the runs whose steps ignore the order to stop; cancelled, too
TOP_PRIORITY = 9  # the priority of the runs whose recovery is measured
GRACE = 2.0  # seconds of grace of a cancel; shorter than the default

_NOOP = {"uses": "noop"}
_ENDED = ", ".join(f"'{state}'" for state in sorted(FINAL_RUNS))
_RESISTS = text(
    "SELECT count(*) FROM steps WHERE run_id = :id AND key = 's3' AND state = 'running'"
)
_LIVE = text(f"SELECT count(*) FROM runs WHERE state NOT IN ({_ENDED})")


def _chain_spec(name: str, **third_step: Any) -> dict[str, Any]:
    """Five steps in a chain; the third one is given."""
    steps = [{"key": f"s{number}", **_NOOP} for number in range(1, 6)]
    steps[2] = {"key": "s3", **third_step}
    return {"name": name, "steps": steps}


_FAN_SPEC = {
    "name": "fan",
    "steps": [
        {"key": "first", **_NOOP},
        *({"key": key, "needs": ["first"], **_NOOP} for key in ("left", "middle", "right")),
        {"key": "join", "needs": ["left", "middle", "right"], **_NOOP},
    ],
}
# Runs of each kind per hundred, and the workflow; every one has five steps.
KINDS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (48, _chain_spec("plain", **_NOOP)),
    "fan": (10, _FAN_SPEC),
    "noting": (20, _chain_spec("noting", uses="tests.chaos.steps.note")),
    "keyed": (6, _chain_spec("keyed", **_NOOP)),
    "lingering": (
        4,
        _chain_spec("lingering", uses="tests.chaos.steps.linger", **{"with": {"seconds": 2}}),
    ),
    "faltering": (
        5,
        _chain_spec(
            "faltering", uses="tests.chaos.steps.falter", retry={"attempts": 2, "delay": "200ms"}
        ),
    ),
    "keeping": (
        5,
        _chain_spec(
            "keeping",
            uses="tests.chaos.steps.keep",
            retry={"attempts": 100, "delay": "500ms", "backoff": 1},
        ),
    ),
    "failing": (2, _chain_spec("failing", uses="tests.chaos.steps.fail")),
    "resisting": (  # submitted by `cancel_resisting` only
        0,
        _chain_spec("resisting", uses="tests.chaos.steps.resist", **{"with": {"seconds": 60}}),
    ),
}


class Api:
    """An API client that retries while the API is down or refuses for overload."""

    def __init__(self, system: System) -> None:
        self._url = f"{system.stack.url}/api/v1"
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {system.stack.key}"
        self.retried = 0

    def post(self, path: str, body: dict[str, Any]) -> requests.Response:
        """Retry until there is a response; the idempotency key makes that safe."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        end = time.monotonic() + RETRY_FOR
        while True:
            try:
                response = self._session.post(
                    f"{self._url}{path}", json=body, headers=headers, timeout=30
                )
            except requests.RequestException:
                if time.monotonic() > end:
                    raise
            else:
                is_final = response.status_code < 500 and response.status_code != 429
                if is_final or time.monotonic() > end:
                    return response
            self.retried += 1
            time.sleep(random.uniform(0.05, 0.3))  # the client's pause between two attempts

    def submit(self, workflow: str, **options: Any) -> str:
        """Submit a run; returns its id."""
        response = self.post("/runs", {"workflow": workflow, **options})
        response.raise_for_status()
        return str(response.json()["id"])

    def apply(self, spec: dict[str, Any]) -> None:
        """Register a workflow."""
        self.post("/workflows", spec).raise_for_status()

    def cancel(self, run_id: str) -> bool:
        """Cancel a run; False when it had ended."""
        response = self.post(f"/runs/{run_id}/cancel", {"grace": f"{GRACE}s"})
        if response.status_code == 409:  # cancelled: by an earlier attempt of this request
            return "is cancelled" in response.text
        response.raise_for_status()
        return True


@dataclass
class Load:
    """The clients, and what was accepted."""

    system: System
    accepted: Path  # a file with run id and kind per line, outside of the system
    pace: float  # maximum of runs that each client submits in a second
    cancelled: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)  # requests that failed in the end
    retried: int = 0
    live: int = 0
    count: int = 0
    resisting: int = 0
    _recent: deque[str] = field(default_factory=lambda: deque(maxlen=BACKLOG))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ending: threading.Event = field(default_factory=threading.Event)

    def submit_all(self) -> None:
        """Submit runs of all kinds while the backlog is short."""
        api, kinds = Api(self.system), list(KINDS)
        weights = [share for share, _ in KINDS.values()]
        while not self._ending.is_set():
            if self.live >= BACKLOG:
                self._ending.wait(0.05)
                continue
            kind = random.choices(kinds, weights)[0]
            options: dict[str, Any] = {"priority": random.choice((2, 4, 4, 6, 8))}
            if kind == "keyed":
                options["concurrency_key"] = random.choice("abcdef")
            if kind == "lingering":  # hit by faults: its recovery must not wait in the queue
                options["priority"] = TOP_PRIORITY
            with self._collecting_failure(api):
                run_id = api.submit(kind, **options)
                self._record(run_id, kind)
                self._recent.append(run_id)
            self._ending.wait(random.uniform(0, 2 / self.pace))

    def cancel_some(self) -> None:
        """Cancel runs at random moments, up to their share."""
        api = Api(self.system)
        while not self._ending.is_set():
            if len(self.cancelled) >= CANCELLED * self.count or not self._recent:
                self._ending.wait(0.05)
                continue
            self._ending.wait(random.uniform(0, 0.3))
            run_id = random.choice(list(self._recent))
            with self._collecting_failure(api):
                if run_id not in self.cancelled and api.cancel(run_id):
                    self.cancelled.add(run_id)

    def cancel_resisting(self) -> None:
        """Submit runs whose steps ignore the order to stop, and cancel them while they run."""
        api = Api(self.system)
        while not self._ending.is_set():
            if self.resisting >= RESISTING * self.count:
                self._ending.wait(0.05)
                continue
            with self._collecting_failure(api):
                run_id = api.submit("resisting", priority=8)
                self._record(run_id, "resisting")
                self.resisting += 1
                eventually(lambda run_id=run_id: self._resists(run_id), within=RETRY_FOR)
                if api.cancel(run_id):
                    self.cancelled.add(run_id)

    def count_live(self) -> None:
        """Poll the number of runs that have not ended."""
        while not self._ending.wait(0.25):
            self.live = self._count_live()

    def drain(self, within: float) -> None:
        """Wait until every run has ended."""
        eventually(self._count_live, within=within, until=lambda live: live == 0, every=0.2)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run all clients during the block."""
        api = Api(self.system)
        for _, spec in KINDS.values():
            api.apply(spec)
        clients = [*[self.submit_all] * CLIENTS, self.cancel_some, self.cancel_resisting]
        work = [*clients, self.count_live]
        threads = [threading.Thread(target=each, daemon=True) for each in work]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ending.set()
            for thread in threads:
                thread.join(RETRY_FOR + 60)
            self.failures += [f"{each.name} still waits" for each in threads if each.is_alive()]

    def accepted_runs(self) -> dict[str, str]:
        """The accepted runs: id and kind."""
        lines = self.accepted.read_text().splitlines()
        return dict(line.split() for line in lines)  # type: ignore[misc]

    def _count_live(self) -> int:
        return int(self.system.rows(_LIVE)[0][0])

    def _resists(self, run_id: str) -> bool:
        return bool(self.system.rows(_RESISTS, id=run_id)[0][0])

    def _record(self, run_id: str, kind: str) -> None:
        with self._lock, self.accepted.open("a") as file:
            file.write(f"{run_id} {kind}\n")
            self.count += 1

    @contextmanager
    def _collecting_failure(self, api: Api) -> Iterator[None]:
        try:
            yield
        except (requests.RequestException, ValueError, AssertionError) as error:
            self.failures.append(f"{type(error).__name__}: {error}")
        self.retried, api.retried = self.retried + api.retried, 0


def kinds_of(accepted: dict[str, str]) -> Counter[str]:
    """The number of runs of each kind."""
    return Counter(accepted.values())
