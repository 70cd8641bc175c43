"""W12: what an idle stack costs: queries a second, CPU, memory."""

import time

from orchestrator.local.stack import Stack
from tests.bench.ask import engine_of, scalar
from tests.bench.report import Report
from tests.bench.usage import using

SECONDS, REPEATS = 20.0, 5
_OURS = ("api", "scheduler", "worker")
_TRANSACTIONS = "SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database"


def measure(stack: Stack, seconds: float = SECONDS, repeats: int = REPEATS) -> Report:
    """API, scheduler and a worker of two, with nothing to do."""
    report, engine = Report("w12", f"idle for {seconds:g} s"), engine_of(stack)
    time.sleep(seconds)  # until nothing is warm any more
    asked, share, memory = [], [], []
    for _ in range(repeats):
        before = scalar(engine, _TRANSACTIONS)
        with using(stack) as used:
            time.sleep(seconds)
        asked.append(float(scalar(engine, _TRANSACTIONS) - before) / seconds)
        share.append(100 * sum(used.cpu[role] for role in _OURS) / seconds)
        memory.append(sum(used.memory[role] for role in _OURS))
        report.used["idle"] = used
    report.add("transactions a second", asked, at_most=5)
    report.add("% of a core, API + scheduler + worker", share, at_most=1)
    report.add("MB, API + scheduler + worker", memory, at_most=300)
    engine.dispose()
    return report
