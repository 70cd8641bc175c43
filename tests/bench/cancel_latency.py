"""How long a cancel takes: of a running run, of a queued one, and of 10,000 by a filter."""

import time
from typing import Any

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from orchestrator.states import FINAL_RUNS
from tests.bench.ask import chain, submit_many
from tests.bench.report import Report
from tests.bench.usage import using

REPEATS, MANY, MANY_REPEATS = 9, 10_000, 5


def measure(stack: Stack, repeats: int = REPEATS, count: int = MANY) -> Report:
    """Milliseconds from the request until a client sees the end of the run."""
    client = Client(stack.url, stack.key)
    client.apply(chain("sleeper", 1, "sleep", step={"with": {"seconds": 60}}))
    client.apply(chain("nobodys", 1, queue="nobodys"))
    report = Report("cancel_latency", "cancel, milliseconds until it has ended")
    report.add("a run that is executed", [_cancelled(client, "sleeper") for _ in range(repeats)])
    report.add("a run that waits", [_cancelled(client, "nobodys") for _ in range(repeats)])
    with using(stack) as report.used[f"{MANY_REPEATS} times {count:,} by a filter"]:
        times = [_all_cancelled(stack, client, count) for _ in range(MANY_REPEATS)]
    report.add(f"{count:,} that wait, by a filter", times)
    return report


def _all_cancelled(stack: Stack, client: Client, count: int) -> float:
    submit_many(stack, "nobodys", count)
    began = time.perf_counter()
    assert client.cancel_many({"workflow": ["nobodys"]}) == count
    return (time.perf_counter() - began) * 1000


def _cancelled(client: Client, workflow: str) -> float:
    run = client.submit(workflow, {})
    state_before = "running" if workflow == "sleeper" else "queued"
    _until(client, run["id"], lambda state: state == state_before)
    began = time.perf_counter()
    client.cancel(run["id"])
    _until(client, run["id"], lambda state: state in FINAL_RUNS)
    return (time.perf_counter() - began) * 1000


def _until(client: Client, run_id: str, condition: Any) -> None:
    while not condition(client.run(run_id)["state"]):
        time.sleep(0.005)
