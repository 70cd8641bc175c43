"""W8: how soon a cancel is true: of a run that is executed, one that waits, and of 10,000."""

import time
from typing import Any

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from orchestrator.states import FINAL_RUNS
from tests.bench.ask import chain, submit_many
from tests.bench.report import Report
from tests.bench.usage import using

REPEATS, MANY, MANY_REPEATS = 9, 10_000, 5


def measure(stack: Stack, repeats: int = REPEATS, many: int = MANY) -> Report:
    """Milliseconds from the request until the run has ended, as a client sees it."""
    client = Client(stack.url, stack.key)
    client.apply(chain("sleeper", 1, "sleep", step={"with": {"seconds": 60}}))
    client.apply(chain("nobodys", 1, queue="nobodys"))
    report = Report("w8", "cancel, milliseconds until it has ended")
    report.add("a run that is executed", [_cancelled(client, "sleeper") for _ in range(repeats)])
    report.add("a run that waits", [_cancelled(client, "nobodys") for _ in range(repeats)])
    with using(stack) as report.used[f"{MANY_REPEATS} times {many:,} by a filter"]:
        took = [_all_cancelled(stack, client, many) for _ in range(MANY_REPEATS)]
    report.add(f"{many:,} that wait, by a filter", took)
    return report


def _all_cancelled(stack: Stack, client: Client, many: int) -> float:
    submit_many(stack, "nobodys", many)
    began = time.perf_counter()
    assert client.cancel_many({"workflow": ["nobodys"]}) == many
    return (time.perf_counter() - began) * 1000


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
