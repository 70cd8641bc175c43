"""Clients that submit and cancel runs through the chaos, and remember what they were told."""

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
BACKLOG = 60  # accepted runs that have not ended; more wait for nothing but their turn
PERSISTENCE = 90.0  # seconds that a request is tried again
CANCELLED = 0.06  # of the runs
RESISTING = 0.01  # of the runs: cancelled, too, and their steps do not obey
FIRST = 9  # the priority of those whose recovery is measured
GRACE = 2.0  # seconds that cancelled steps get; short ones, for whatever the default lets pass

_NOOP = {"uses": "noop"}
_ENDED = ", ".join(f"'{state}'" for state in sorted(FINAL_RUNS))
_RESISTS = text(
    "SELECT count(*) FROM steps WHERE run_id = :id AND key = 's3' AND state = 'running'"
)
_LIVE = text(f"SELECT count(*) FROM runs WHERE state NOT IN ({_ENDED})")


def _line(name: str, **third: Any) -> dict[str, Any]:
    """Five steps in a line, of which the third is special."""
    steps = [{"key": f"s{number}", **_NOOP} for number in range(1, 6)]
    steps[2] = {"key": "s3", **third}
    return {"name": name, "steps": steps}


_FAN = {
    "name": "fan",
    "steps": [
        {"key": "first", **_NOOP},
        *({"key": key, "needs": ["first"], **_NOOP} for key in ("left", "middle", "right")),
        {"key": "join", "needs": ["left", "middle", "right"], **_NOOP},
    ],
}
# How many of a hundred runs are of which kind; every one has five steps.
KINDS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (48, _line("plain", **_NOOP)),
    "fan": (10, _FAN),
    "noting": (20, _line("noting", uses="tests.chaos.steps.note")),
    "keyed": (6, _line("keyed", **_NOOP)),
    "lingering": (
        4,
        _line("lingering", uses="tests.chaos.steps.linger", **{"with": {"seconds": 2}}),
    ),
    "faltering": (
        5,
        _line(
            "faltering", uses="tests.chaos.steps.falter", retry={"attempts": 2, "delay": "200ms"}
        ),
    ),
    "keeping": (
        5,
        _line(
            "keeping",
            uses="tests.chaos.steps.keep",
            retry={"attempts": 100, "delay": "500ms", "backoff": 1},
        ),
    ),
    "failing": (2, _line("failing", uses="tests.chaos.steps.fail")),
    "resisting": (  # only by the client that cancels it
        0,
        _line("resisting", uses="tests.chaos.steps.resist", **{"with": {"seconds": 60}}),
    ),
}


class Api:
    """Speaks to the API and does not give up while it is away."""

    def __init__(self, system: System) -> None:
        self._url = f"{system.stack.url}/api/v1"
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {system.stack.key}"
        self.tried_again = 0

    def post(self, path: str, body: dict[str, Any]) -> requests.Response:
        """Ask until there is an answer; the same key makes asking twice harmless."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        end = time.monotonic() + PERSISTENCE
        while True:
            try:
                answer = self._session.post(
                    f"{self._url}{path}", json=body, headers=headers, timeout=30
                )
            except requests.RequestException:
                if time.monotonic() > end:
                    raise
            else:
                if answer.status_code < 500 or time.monotonic() > end:
                    return answer
            self.tried_again += 1
            time.sleep(random.uniform(0.05, 0.3))  # what a client does between two tries

    def submit(self, workflow: str, **asked: Any) -> str:
        """Submit a run; gives its id."""
        answer = self.post("/runs", {"workflow": workflow, **asked})
        answer.raise_for_status()
        return str(answer.json()["id"])

    def apply(self, spec: dict[str, Any]) -> None:
        """Register a workflow."""
        self.post("/workflows", spec).raise_for_status()

    def cancel(self, run_id: str) -> bool:
        """Cancel a run; False: it had ended."""
        answer = self.post(f"/runs/{run_id}/cancel", {"grace": f"{GRACE}s"})
        if answer.status_code == 409:  # nobody else cancels: then it was an earlier try of this
            return "is cancelled" in answer.text
        answer.raise_for_status()
        return True


@dataclass
class Load:
    """The clients, and what they were promised."""

    system: System
    accepted: Path  # a line for each: run id and kind; outside of the system
    pace: float  # runs that each client submits in a second, at most
    cancelled: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)  # requests that nobody answered in the end
    tried_again: int = 0
    live: int = 0
    count: int = 0
    resisting: int = 0
    _recent: deque[str] = field(default_factory=lambda: deque(maxlen=BACKLOG))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ending: threading.Event = field(default_factory=threading.Event)

    def submit_all(self) -> None:
        """Submit runs of all kinds while the backlog is short, until told to end."""
        api, kinds = Api(self.system), list(KINDS)
        weights = [share for share, _ in KINDS.values()]
        while not self._ending.is_set():
            if self.live >= BACKLOG:
                self._ending.wait(0.05)
                continue
            kind = random.choices(kinds, weights)[0]
            asked: dict[str, Any] = {"priority": random.choice((2, 4, 4, 6, 8))}
            if kind == "keyed":
                asked["concurrency_key"] = random.choice("abcdef")
            if kind == "lingering":  # the prey: what follows its loss must not wait for its turn
                asked["priority"] = FIRST
            with self._noting_failure(api):
                run_id = api.submit(kind, **asked)
                self._remember(run_id, kind)
                self._recent.append(run_id)
            self._ending.wait(random.uniform(0, 2 / self.pace))

    def cancel_some(self) -> None:
        """Cancel runs at random moments, so many that their share is kept."""
        api = Api(self.system)
        while not self._ending.is_set():
            if len(self.cancelled) >= CANCELLED * self.count or not self._recent:
                self._ending.wait(0.05)
                continue
            self._ending.wait(random.uniform(0, 0.3))
            run_id = random.choice(list(self._recent))
            with self._noting_failure(api):
                if run_id not in self.cancelled and api.cancel(run_id):
                    self.cancelled.add(run_id)

    def cancel_resisting(self) -> None:
        """Submit and cancel runs whose steps do not obey, while they are executed."""
        api = Api(self.system)
        while not self._ending.is_set():
            if self.resisting >= RESISTING * self.count:
                self._ending.wait(0.05)
                continue
            with self._noting_failure(api):
                run_id = api.submit("resisting", priority=8)
                self._remember(run_id, "resisting")
                self.resisting += 1
                eventually(lambda run_id=run_id: self._resists(run_id), within=PERSISTENCE)
                if api.cancel(run_id):
                    self.cancelled.add(run_id)

    def look(self) -> None:
        """Count the runs that have not ended, again and again."""
        while not self._ending.wait(0.25):
            self.live = self._count_live()

    def drain(self, within: float) -> None:
        """Until every run has ended."""
        eventually(self._count_live, within=within, until=lambda live: live == 0, every=0.2)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Submit and cancel while the block runs."""
        api = Api(self.system)
        for _, spec in KINDS.values():
            api.apply(spec)
        clients = [*[self.submit_all] * CLIENTS, self.cancel_some, self.cancel_resisting]
        work = [*clients, self.look]
        threads = [threading.Thread(target=each, daemon=True) for each in work]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ending.set()
            for thread in threads:
                thread.join(PERSISTENCE + 60)
            self.failures += [f"{each.name} waits still" for each in threads if each.is_alive()]

    def promised(self) -> dict[str, str]:
        """The accepted runs: id and kind."""
        lines = self.accepted.read_text().splitlines()
        return dict(line.split() for line in lines)  # type: ignore[misc]

    def _count_live(self) -> int:
        return int(self.system.rows(_LIVE)[0][0])

    def _resists(self, run_id: str) -> bool:
        return bool(self.system.rows(_RESISTS, id=run_id)[0][0])

    def _remember(self, run_id: str, kind: str) -> None:
        with self._lock, self.accepted.open("a") as file:
            file.write(f"{run_id} {kind}\n")
            self.count += 1

    @contextmanager
    def _noting_failure(self, api: Api) -> Iterator[None]:
        try:
            yield
        except (requests.RequestException, ValueError, AssertionError) as error:
            self.failures.append(f"{type(error).__name__}: {error}")
        self.tried_again, api.tried_again = self.tried_again + api.tried_again, 0


def kinds_of(promised: dict[str, str]) -> Counter[str]:
    """How many runs there were of each kind."""
    return Counter(promised.values())
