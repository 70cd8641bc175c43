"""Every known fault during a load, and a check of every guarantee afterwards.

The suite runs a short form with short leases. `CHAOS_RUNS=20000 make chaos` continues until so many
runs are accepted, with default settings and against the budgets; `CHAOS_SEED` repeats an order of
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
    True: Times(stopped=18, redis_away=30, disk_full=5, wrong_clock=8, slow=5, pause=15),
    False: Times(stopped=4.5, redis_away=3, disk_full=1, wrong_clock=1, slow=1, pause=0),
}
RATE = 1000.0 if LONG else 3.5  # runs that each client submits in a second, at most
_DRAIN_TIME = 120 if LONG else 40  # seconds until all runs have ended after the last fault
KILLS = ("child killed", "worker killed", "worker stopped past its lease")
_ROUNDS = 5  # rounds after which every fault must have had every effect
_EVERY = 10.0  # seconds between two lines of progress


@pytest.mark.timeout(900 + RUNS / 5 if LONG else 400)
def test_nothing_is_lost_whatever_happens(tmp_path: Path) -> None:
    lease, grace = (_default("lease"), _default("cancel_grace")) if LONG else (LEASE, GRACE)
    with chaotic_system(lease, grace) as system:
        load = Load(system, tmp_path / "accepted", RATE)
        nemesis = Nemesis(system, TIMES[LONG], random.Random(SEED), waits=LONG)
        print(f"\n{RUNS} runs of five steps, seed {SEED}")
        try:
            with load.running(), _progress(load, nemesis):
                nemesis.inject_faults()
                while LONG and load.count < RUNS:
                    nemesis.inject_faults(enough=lambda: load.count >= RUNS)
                # A killed child may have been idle, and a victim's run cancelled just then.
                while not (_lost_by_kills(nemesis) or nemesis.failed):
                    nemesis.inject_faults(KILLS)
                eventually(lambda: _is_enough(load), within=120, every=0.2)
            load.drain(within=_DRAIN_TIME)
            violations = verdict.violations(system, load, nemesis)
        finally:
            _print_report(load, nemesis)

        assert violations == {}
        assert nemesis.failed == []
        assert _is_enough(load)
        assert verdict.killed(system) >= 0.005 * RUNS
        assert nemesis.lost_by_restarts == 0
        assert nemesis.recoveries.keys() == FAULTS.keys()
        assert _lost_by_kills(nemesis) > 0
        if LONG:
            assert _over_budget(nemesis) == []
        if min(map(len, nemesis.recoveries.values())) >= _ROUNDS:
            assert all(nemesis.lost[name] for name in KILLS)
            assert verdict.refused(system)


def _lost_by_kills(nemesis: Nemesis) -> int:
    return sum(nemesis.lost[name] for name in KILLS)


def _is_enough(load: Load) -> bool:
    return load.count >= RUNS and len(load.cancelled) >= 0.05 * RUNS


def _default(name: str) -> timedelta:
    value: timedelta = getattr(Settings(), name)
    return value


@contextmanager
def _progress(load: Load, nemesis: Nemesis) -> Iterator[None]:
    """Print the progress every few seconds."""
    begun, ended = time.monotonic(), threading.Event()

    def report() -> None:
        while not ended.wait(_EVERY):
            print(
                f"{time.monotonic() - begun:6.0f} s  {load.count:6} accepted  {load.live:3} live"
                f"  {len(load.cancelled):5} cancelled  {load.retried:5} tried again"
                f"  {nemesis.now}",
                flush=True,
            )

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _print_report(load: Load, nemesis: Nemesis) -> None:
    """Print the figures, and write them to `CHAOS_REPORT`."""
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
        "kinds": kinds_of(load.accepted_runs()),
        "requests tried again": load.retried,
        "requests that failed": len(load.failures),
        "cancelled": len(load.cancelled),
        "killed because they did not obey": verdict.killed(load.system),
        "cancel seconds": {"p50": _quantile(cancels, 0.5), "p99": _quantile(cancels, 0.99)},
        "cancel seconds beyond the grace": {
            "p99": _quantile(late, 0.99),
            "max": _quantile(late, 1),
        },
        "late outcomes refused": len(verdict.refused(load.system)),
        "attempts lost by kills": _lost_by_kills(nemesis),
        "attempts lost by rolling restarts": nemesis.lost_by_restarts,
        "saves that failed": verdict.unsaved(load.system),
        "attempts noted": verdict.executed(load.system),
        "faults that failed": nemesis.failed,
        "faults": [_row(name, sorted(nemesis.recoveries.get(name, []))) for name in FAULTS],
    }


def _row(name: str, durations: list[float]) -> dict[str, Any]:
    budget = BUDGETS.get(name) if LONG else None
    return {
        "fault": name,
        "times": len(durations),
        **{
            each: _quantile(durations, share)
            for each, share in (("p50", 0.5), ("p99", 0.99), ("max", 1))
        },
        "budget": budget,
        "met": budget is None or all(each <= budget for each in durations),
    }


def _quantile(ordered: list[float], share: float) -> float:
    """The quantile of the ordered values at `share`."""
    if not ordered:
        return 0.0
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)


def _over_budget(nemesis: Nemesis) -> list[str]:
    rows = (_row(name, sorted(durations)) for name, durations in nemesis.recoveries.items())
    return [row["fault"] for row in rows if not row["met"]]
