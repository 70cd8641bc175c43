"""The nemesis: one fault after the other, and how long the system takes to be well again."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import text

from tests.chaos.faults import FAULTS, Times, Wound
from tests.chaos.load import Api
from tests.chaos.system import PATIENCE, System
from tests.factories import eventually

# Seconds at default settings: from the kill until the victim's step runs elsewhere, else from
# the end of the fault until a run that was submitted then has ended.
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

# An attempt that was lost, and the next one; those that ended otherwise were no victims.
_FATE = text("""
    SELECT attempts.outcome IS NULL OR attempts.outcome = 'lost' AND next.started_at IS NULL
        AND steps.state IN ('pending', 'queued', 'running', 'waiting') AS waits,
        CASE WHEN attempts.outcome = 'lost' THEN extract(epoch FROM next.started_at) END AS again_at
    FROM attempts JOIN steps ON steps.id = attempts.step_id
    LEFT JOIN attempts next
        ON next.step_id = attempts.step_id AND next.number = attempts.number + 1
    WHERE attempts.step_id = :step_id AND attempts.number = :number
""")
_PROBE = text("SELECT extract(epoch FROM finished_at) FROM runs WHERE id = :id")


@dataclass
class Nemesis:
    """Hurts the system in every way, and measures how long it takes to be well again."""

    system: System
    times: Times
    dice: random.Random
    now: str = "-"  # what is going on
    windows: list[tuple[float, float]] = field(default_factory=list)  # of all faults
    recoveries: dict[str, list[float]] = field(default_factory=dict)
    lost_by_restarts: int = 0

    def strike_all(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Do everything once, in an order that nobody knows; until it is enough."""
        faults = list(FAULTS)
        self.dice.shuffle(faults)
        for name in faults:
            if enough():
                return
            self.strike(name)

    def strike(self, name: str) -> None:
        """Do one thing, wait until the system is well, and remember how long that took."""
        self.now = name
        wound = FAULTS[name](self.system, self.dice, self.times)
        self.lost_by_restarts += wound.losses
        self.windows.append((wound.begun, wound.over))
        self.now = f"after {name}"
        took = [self._probe() - wound.over]
        took += [again - wound.begun for again in self._fates(wound)]
        self.recoveries.setdefault(name, []).append(max(took))
        self.now = "-"
        self.system.await_whole()

    def _probe(self) -> float:
        """Submit a run, and tell when it had ended."""
        run_id = Api(self.system).submit("plain", priority=9)
        rows = eventually(
            lambda: self.system.rows(_PROBE, id=run_id),
            within=PATIENCE,
            until=lambda rows: rows[0][0] is not None,
            every=0.05,
        )
        return float(rows[0][0])

    def _fates(self, wound: Wound) -> list[float]:
        """When the victims' next attempts started."""
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
            found += [float(row.again_at) for row in rows if row.again_at is not None]
        return found
