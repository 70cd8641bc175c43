"""Runs go through every fault we know, and not one promise is broken.

In the suite a short form, with short leases. `CHAOS_RUNS=20000 make chaos` goes on until so many
runs are through, at default settings and against the budgets; `CHAOS_SEED` repeats an order of
faults, `CHAOS_REPORT` names a file for the figures.
"""

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from tests.chaos import verdict
from tests.chaos.faults import FAULTS, Times
from tests.chaos.load import Load, kinds_of
from tests.chaos.nemesis import BUDGETS, Nemesis
from tests.chaos.system import chaotic_system
from tests.support.factories import eventually
from tests.support.processes import GRACE, LEASE

RUNS = int(os.environ.get("CHAOS_RUNS", "300"))
LONG = RUNS >= 1000
SEED = int(os.environ.get("CHAOS_SEED", random.randrange(10**6)))
TIMES = {
    True: Times(stopped=18, redis_away=30, disk_full=5, wrong_clock=8, slow=5, calm=15),
    False: Times(stopped=4.5, redis_away=3, disk_full=1, wrong_clock=1, slow=1, calm=0),
}
PACE = 1000.0 if LONG else 3.5  # runs that each client submits in a second, if the system bears it
_DRAINED = 120 if LONG else 40  # seconds within which all has ended once the faults have
MURDERS = ("child killed", "worker killed", "worker stopped past its lease")
_MANY = 5  # rounds after which everything that a fault may do has been done
_EVERY = 10.0  # seconds between two lines of progress


@pytest.mark.timeout(900 + RUNS / 5 if LONG else 400)
def test_nothing_is_lost_whatever_happens(tmp_path: Path) -> None:
    lease, grace = (_default("lease"), _default("cancel_grace")) if LONG else (LEASE, GRACE)
    with chaotic_system(lease, grace) as system:
        load = Load(system, tmp_path / "accepted", PACE)
        nemesis = Nemesis(system, TIMES[LONG], random.Random(SEED), patient=LONG)
        print(f"\n{RUNS} runs of five steps, seed {SEED}")
        try:
            with load.going_on(), _progress(load, nemesis):
                nemesis.strike()
                while LONG and load.count < RUNS:
                    nemesis.strike(enough=lambda: load.count >= RUNS)
                # A child may have nothing to do, and what a victim did may be cancelled just then.
                while not (_murdered(nemesis) or nemesis.failed):
                    nemesis.strike(MURDERS)
                eventually(lambda: _is_enough(load), within=120, every=0.2)
            load.drain(within=_DRAINED)
            wrong = verdict.wrong(system, load, nemesis)
        finally:
            _tell(load, nemesis)

        assert wrong == {}
        assert nemesis.failed == []
        assert _is_enough(load)
        assert verdict.killed(system) >= 0.005 * RUNS
        assert nemesis.lost_by_restarts == 0
        assert nemesis.recoveries.keys() == FAULTS.keys()
        assert _murdered(nemesis) > 0
        if LONG:
            assert _over_budget(nemesis) == []
        if min(map(len, nemesis.recoveries.values())) >= _MANY:
            assert all(nemesis.lost[name] for name in MURDERS)
            assert verdict.refused(system)


def _murdered(nemesis: Nemesis) -> int:
    return sum(nemesis.lost[name] for name in MURDERS)


def _is_enough(load: Load) -> bool:
    return load.count >= RUNS and len(load.cancelled) >= 0.05 * RUNS


def _default(name: str) -> timedelta:
    value: timedelta = getattr(Settings(), name)
    return value


@contextmanager
def _progress(load: Load, nemesis: Nemesis) -> Iterator[None]:
    """Print how it goes, every few seconds."""
    begun, over = time.monotonic(), threading.Event()

    def say() -> None:
        while not over.wait(_EVERY):
            print(
                f"{time.monotonic() - begun:6.0f} s  {load.count:6} accepted  {load.live:3} live"
                f"  {len(load.cancelled):5} cancelled  {load.tried_again:5} tried again"
                f"  {nemesis.now}",
                flush=True,
            )

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _tell(load: Load, nemesis: Nemesis) -> None:
    """Print the figures, and keep them where `CHAOS_REPORT` says."""
    report = _report(load, nemesis)
    print(f"{'fault':32}{'times':>6}{'p50':>8}{'p99':>8}{'max':>8}{'budget':>8}  met")
    for row in report["faults"]:
        budget = "-" if row["budget"] is None else f"{row['budget']:.0f}"
        print(
            f"{row['fault']:32}{row['times']:6}{row['p50']:8.2f}{row['p99']:8.2f}"
            f"{row['max']:8.2f}{budget:>8}  {'yes' if row['met'] else 'NO'}"
        )
    print(json.dumps({name: value for name, value in report.items() if name != "faults"}, indent=1))
    if path := os.environ.get("CHAOS_REPORT"):
        Path(path).write_text(json.dumps(report, indent=1))


def _report(load: Load, nemesis: Nemesis) -> dict[str, Any]:
    cancels = sorted(verdict.cancel_times(load.system))
    late = sorted(verdict.delays(load.system, nemesis))
    return {
        "seed": SEED,
        "runs": load.count,
        "kinds": kinds_of(load.promised()),
        "requests tried again": load.tried_again,
        "requests that failed": len(load.failures),
        "cancelled": len(load.cancelled),
        "killed because they did not obey": verdict.killed(load.system),
        "cancel seconds": {"p50": _at(cancels, 0.5), "p99": _at(cancels, 0.99)},
        "cancel seconds beyond the grace": {"p99": _at(late, 0.99), "max": _at(late, 1)},
        "late outcomes refused": len(verdict.refused(load.system)),
        "attempts lost by murders": _murdered(nemesis),
        "attempts lost by rolling restarts": nemesis.lost_by_restarts,
        "saves that failed": verdict.unsaved(load.system),
        "attempts noted": verdict.executed(load.system),
        "faults that failed": nemesis.failed,
        "faults": [_row(name, sorted(nemesis.recoveries.get(name, []))) for name in FAULTS],
    }


def _row(name: str, took: list[float]) -> dict[str, Any]:
    budget = BUDGETS.get(name) if LONG else None
    return {
        "fault": name,
        "times": len(took),
        **{each: _at(took, share) for each, share in (("p50", 0.5), ("p99", 0.99), ("max", 1))},
        "budget": budget,
        "met": budget is None or all(each <= budget for each in took),
    }


def _at(ordered: list[float], share: float) -> float:
    """The value that so large a share does not exceed."""
    if not ordered:
        return 0.0
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)


def _over_budget(nemesis: Nemesis) -> list[str]:
    rows = (_row(name, sorted(took)) for name, took in nemesis.recoveries.items())
    return [row["fault"] for row in rows if not row["met"]]
