"""W8: how soon a cancel is true: of a run that is executed, and of one that waits."""

import time
from typing import Any

from orchestrator.client import Client
from orchestrator.stack import Stack
from orchestrator.states import FINAL_RUNS
from tests.bench.ask import chain
from tests.bench.report import Report

REPEATS = 9


def measure(stack: Stack, repeats: int = REPEATS) -> Report:
    """Milliseconds from the request until the run has ended, as a client sees it."""
    client = Client(stack.url, stack.key)
    client.apply(chain("sleeper", 1, "sleep", step={"with": {"seconds": 60}}))
    client.apply(chain("nobodys", 1, queue="nobodys"))
    report = Report("w8", "cancel, milliseconds until it has ended")
    report.add("a run that is executed", [_cancelled(client, "sleeper") for _ in range(repeats)])
    report.add("a run that waits", [_cancelled(client, "nobodys") for _ in range(repeats)])
    return report


def _cancelled(client: Client, workflow: str) -> float:
    run = client.submit(workflow, {})
    wanted = "running" if workflow == "sleeper" else "queued"
    _until(client, run["id"], lambda state: state == wanted)
    began = time.perf_counter()
    client.cancel(run["id"])
    _until(client, run["id"], lambda state: state in FINAL_RUNS)
    return (time.perf_counter() - began) * 1000


def _until(client: Client, run_id: str, is_so: Any) -> None:
    while not is_so(client.run(run_id)["state"]):
        time.sleep(0.005)
