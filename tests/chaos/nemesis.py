"""The nemesis: injects one fault after the other, and measures the recovery."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import text

from tests.chaos.faults import FAULTS, Fault, Times
from tests.chaos.load import TOP_PRIORITY, Api
from tests.chaos.system import PATIENCE, System
from tests.support.factories import eventually

# Seconds at default settings: from the kill until the step runs elsewhere, else from the end of the
# fault until a run submitted then has ended. Both have the highest priority.
BUDGETS: dict[str, float] = {
    "child killed": 15,
    "worker killed": 15,
    "worker stopped past its lease": 15,
    "redis flushed": 20,
    "redis restarted empty": 20,
    "redis silent": 20,
    "redis refuses": 20,
    "redis half-closed": 20,
    "postgres crashed": 5,
    "postgres connections cut": 5,
}
RESTART = "rolling restart"  # must lose no attempt, so no other fault may be on

# The start of the attempt after a lost one; null for attempts that ended otherwise.
_NEXT_ATTEMPT = text("""
    SELECT attempts.outcome IS NULL OR attempts.outcome = 'lost' AND next.started_at IS NULL
        AND steps.state IN ('pending', 'queued', 'running', 'waiting') AS waits,
        CASE WHEN attempts.outcome = 'lost' THEN extract(epoch FROM next.started_at) END
            AS again_at, steps.priority
    FROM attempts JOIN steps ON steps.id = attempts.step_id
    LEFT JOIN attempts next
        ON next.step_id = attempts.step_id AND next.number = attempts.number + 1
    WHERE attempts.step_id = :step_id AND attempts.number = :number
""")
_PROBE = text("SELECT extract(epoch FROM finished_at) FROM runs WHERE id = :id")


class Window(NamedTuple):
    """When a fault was on, in seconds of the epoch."""

    fault: str
    begun: float
    over: float


@dataclass
class Nemesis:
    """Injects the faults, and measures how long the system takes to recover."""

    system: System
    times: Times
    dice: random.Random
    waits: bool  # whether it waits for the recovery before the next fault
    now: str = "-"  # the current fault, for progress output
    windows: list[Window] = field(default_factory=list)
    recoveries: dict[str, list[float]] = field(default_factory=dict)
    probes: list[str] = field(default_factory=list)  # ids of the runs that measure recovery
    failed: list[str] = field(default_factory=list)  # faults that did not work, or not recover
    lost: Counter[str] = field(default_factory=Counter)  # lost attempts by fault
    lost_by_restarts: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def inject_faults(
        self, names: Iterable[str] = FAULTS, enough: Callable[[], bool] = lambda: False
    ) -> None:
        """Inject all of these once, in random order, until `enough`."""
        faults = list(names)
        self.dice.shuffle(faults)
        if not self.waits:
            faults.sort(key=lambda name: name != RESTART)
        with ThreadPoolExecutor(len(faults)) as threads:
            for name in faults:
                if enough():
                    break
                with self._collecting_failure(name):
                    recovery = threads.submit(self._await_recovery, name, self._inject(name))
                    if self.waits or name == RESTART:
                        recovery.result()
                        self.system.await_whole()
                        time.sleep(self.times.pause)  # load without faults
        self.now = "-"

    @contextmanager
    def _collecting_failure(self, name: str) -> Iterator[None]:
        """Collect the error of a fault, and continue: the verdict covers its effects, too."""
        try:
            yield
        except AssertionError as error:
            self.failed.append(f"{name}: {error}")

    def _inject(self, name: str) -> Fault:
        self.now = name
        fault = FAULTS[name](self.system, self.dice, self.times)
        self.now = f"after {name}"
        self.lost_by_restarts += fault.losses
        return fault

    def _await_recovery(self, name: str, fault: Fault) -> None:
        """Wait until the system has recovered, and record how long that took."""
        with self._collecting_failure(name):
            self._measure(name, fault)

    def _measure(self, name: str, fault: Fault) -> None:
        recovered_at = self._probe()
        # Requests wait while Postgres recovers.
        over = max(fault.over, recovered_at) if name.startswith("postgres") else fault.over
        again = self._restarts(fault)
        with self._lock:
            self.windows.append(Window(name, fault.begun, over))
            self.lost[name] += len(again)
            restarted = (at for priority, at in again if priority == TOP_PRIORITY)
            durations = [recovered_at - fault.over, *(at - fault.begun for at in restarted)]
            self.recoveries.setdefault(name, []).append(max(durations))

    def _probe(self) -> float:
        """Submit a run; returns when it ended."""
        run_id = Api(self.system).submit("plain", priority=TOP_PRIORITY)
        self.probes.append(run_id)
        rows = eventually(
            lambda: self.system.rows(_PROBE, id=run_id),
            within=PATIENCE,
            until=lambda rows: rows[0][0] is not None,
            every=0.05,
        )
        return float(rows[0][0])

    def _restarts(self, fault: Fault) -> list[tuple[int, float]]:
        """Priority and start of the next attempt, for each victim that was lost."""
        restarts = []
        for step_id, number in fault.victims:
            rows = eventually(
                lambda step_id=step_id, number=number: self.system.rows(
                    _NEXT_ATTEMPT, step_id=step_id, number=number
                ),
                within=PATIENCE,
                until=lambda rows: not rows or not rows[0].waits,
                every=0.1,
            )
            restarts += [
                (row.priority, float(row.again_at)) for row in rows if row.again_at is not None
            ]
        return restarts
