"""Ten steps of real work, fib(33), against the same loop in plain Python."""

import subprocess
import sys
import time

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.bench.ask import chain, one_run, session_of
from tests.bench.report import Report
from tests.bench.usage import using

STEPS, NUMBER, REPEATS = 10, 33, 5
_PLAIN = f"from tests.bench.steps import fibonacci\nfor _ in range({STEPS}): fibonacci({NUMBER})"


def measure(stack: Stack, repeats: int = REPEATS) -> Report:
    """Seconds of the whole run, and of the loop in one process."""
    client, http = Client(stack.url, stack.key), session_of(stack)
    client.apply(chain("work", STEPS, "bench.fib", step={"with": {"number": NUMBER}}))
    report = Report("handler_overhead", f"{STEPS} steps of fib({NUMBER}), seconds")
    with using(stack) as report.used["ours"]:
        pairs = [(one_run(http, stack, "work"), _plain_python()) for _ in range(repeats)]
    ours, floor = zip(*pairs, strict=True)
    report.add("against plain Python", ours, floor)
    return report


def _plain_python() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", _PLAIN], check=True)
    return time.perf_counter() - began
