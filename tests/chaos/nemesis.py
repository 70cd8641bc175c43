"""The nemesis: one fault after the other, and how long the system takes to be well again."""

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

from tests.chaos.faults import FAULTS, Times, Wound
from tests.chaos.load import FIRST, Api
from tests.chaos.system import PATIENCE, System
from tests.support.factories import eventually

# Seconds at default settings: from the kill until the victim's step runs elsewhere, else from
# the end of the fault until a run that was submitted then has ended. Both go before the backlog.
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
RESTART = "rolling restart"  # what must cost no attempt: nothing else may be going on

# An attempt that was lost, and the next one; those that ended otherwise were no victims.
_FATE = text("""
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
    """When a fault was on."""

    fault: str
    begun: float
    over: float


@dataclass
class Nemesis:
    """Hurts the system in every way, and measures how long it takes to be well again."""

    system: System
    times: Times
    dice: random.Random
    patient: bool  # whether it lets the system recover before the next fault
    now: str = "-"  # what is going on
    windows: list[Window] = field(default_factory=list)
    recoveries: dict[str, list[float]] = field(default_factory=dict)
    probes: list[str] = field(default_factory=list)  # runs of its own
    failed: list[str] = field(default_factory=list)  # faults that did not go as they should
    lost: Counter[str] = field(default_factory=Counter)  # attempts, by fault
    lost_by_restarts: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def strike(
        self, names: Iterable[str] = FAULTS, enough: Callable[[], bool] = lambda: False
    ) -> None:
        """Do all of these once, in an order that nobody knows; until it is enough."""
        faults = list(names)
        self.dice.shuffle(faults)
        if not self.patient:
            faults.sort(key=lambda name: name != RESTART)
        with ThreadPoolExecutor(len(faults)) as nurses:
            for name in faults:
                if enough():
                    break
                with self._noting_failure(name):
                    case = nurses.submit(self._nurse, name, self._hurt(name))
                    if self.patient or name == RESTART:
                        case.result()
                        self.system.await_whole()
                        time.sleep(self.times.calm)  # the load goes on undisturbed for a while
        self.now = "-"

    @contextmanager
    def _noting_failure(self, name: str) -> Iterator[None]:
        """Go on after a fault that did not go as it should: what it did is to be judged, too."""
        try:
            yield
        except AssertionError as error:
            self.failed.append(f"{name}: {error}")

    def _hurt(self, name: str) -> Wound:
        self.now = name
        wound = FAULTS[name](self.system, self.dice, self.times)
        self.now = f"after {name}"
        self.lost_by_restarts += wound.losses
        return wound

    def _nurse(self, name: str, wound: Wound) -> None:
        """Wait until the system is well, and remember how long that took."""
        with self._noting_failure(name):
            self._remember(name, wound)

    def _remember(self, name: str, wound: Wound) -> None:
        well_at = self._probe()
        # Who asks for something while Postgres comes back waits for it.
        over = max(wound.over, well_at) if name.startswith("postgres") else wound.over
        again = self._fates(wound)
        with self._lock:
            self.windows.append(Window(name, wound.begun, over))
            self.lost[name] += len(again)
            firsts = (at for priority, at in again if priority == FIRST)
            took = [well_at - wound.over, *(at - wound.begun for at in firsts)]
            self.recoveries.setdefault(name, []).append(max(took))

    def _probe(self) -> float:
        """Submit a run, and tell when it had ended."""
        run_id = Api(self.system).submit("plain", priority=FIRST)
        self.probes.append(run_id)
        rows = eventually(
            lambda: self.system.rows(_PROBE, id=run_id),
            within=PATIENCE,
            until=lambda rows: rows[0][0] is not None,
            every=0.05,
        )
        return float(rows[0][0])

    def _fates(self, wound: Wound) -> list[tuple[int, float]]:
        """The priorities of those victims that were lost, and when their next attempts started."""
        found = []
        for step_id, number in wound.victims:
            rows = eventually(
                lambda step_id=step_id, number=number: self.system.rows(
                    _FATE, step_id=step_id, number=number
                ),
                within=PATIENCE,
                until=lambda rows: not rows or not rows[0].waits,
                every=0.1,
            )
            found += [
                (row.priority, float(row.again_at)) for row in rows if row.again_at is not None
            ]
        return found
