"""The cost of an idle stack: transactions a second, CPU, memory."""

import time

from orchestrator.local.stack import Stack
from tests.bench.ask import engine_of, scalar
from tests.bench.report import Report
from tests.bench.usage import using

SECONDS, REPEATS = 20.0, 5
_ROLES = ("api", "scheduler", "worker")
_TRANSACTIONS = "SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database"


def measure(stack: Stack, seconds: float = SECONDS, repeats: int = REPEATS) -> Report:
    """API, scheduler and a worker with two children, without any run."""
    report, engine = Report("idle", f"idle for {seconds:g} s"), engine_of(stack)
    time.sleep(seconds)  # until the effects of the start are over
    transactions, cpu, memory = [], [], []
    for _ in range(repeats):
        before = scalar(engine, _TRANSACTIONS)
        with using(stack) as used:
            time.sleep(seconds)
        transactions.append(float(scalar(engine, _TRANSACTIONS) - before) / seconds)
        cpu.append(100 * sum(used.cpu[role] for role in _ROLES) / seconds)
        memory.append(sum(used.memory[role] for role in _ROLES))
        report.used["idle"] = used
    report.add("transactions a second", transactions, at_most=5)
    report.add("% of a core, API + scheduler + worker", cpu, at_most=1)
    report.add("MB, API + scheduler + worker", memory, at_most=300)
    engine.dispose()
    return report
