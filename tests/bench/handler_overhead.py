"""W2: ten steps of real work, fib(33), against plain Python: what is the orchestrator's share?"""

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
    """The whole run, and the same loop in one process."""
    client, http = Client(stack.url, stack.key), session_of(stack)
    client.apply(chain("work", STEPS, "bench.fib", step={"with": {"number": NUMBER}}))
    report = Report("w2", f"{STEPS} steps of fib({NUMBER}), seconds")
    with using(stack) as report.used["ours"]:
        pairs = [(one_run(http, stack, "work"), _plainly()) for _ in range(repeats)]
    ours, floor = zip(*pairs, strict=True)
    report.add("against plain Python", ours, floor)
    return report


def _plainly() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", _PLAIN], check=True)
    return time.perf_counter() - began
