"""W1: forty no-op steps, from the POST until a client sees the end, against a bare Celery chain."""

import time
from statistics import median

from rich.console import Console
from rich.table import Table

from orchestrator.client import Client
from orchestrator.stack import Stack
from orchestrator.states import FINAL_RUNS
from tests.bench import bare

STEPS, REPEATS = 40, 9


def measure(stack: Stack, console: Console) -> None:
    """Print ours, the floor and their ratio; the two take turns, so that noise meets both."""
    client = Client(stack.url, stack.key)
    steps = [{"key": f"s{n}", "uses": "noop"} for n in range(STEPS)]
    client.apply({"name": "forty", "steps": steps})
    redis_url = stack.environ["ORCHESTRATOR_REDIS_URL"]
    with bare.worker(redis_url):
        one_run(client, "forty")
        pairs = [
            (one_run(client, "forty"), bare.one_chain(redis_url, STEPS)) for _ in range(REPEATS)
        ]
    ours, floor = zip(*pairs, strict=True)
    table = Table(title=f"W1: {STEPS} no-op steps, seconds, {REPEATS} repeats")
    for heading in ("", "median", "best", "worst"):
        table.add_column(heading)
    for name, times in (("ours", ours), ("bare chain", floor)):
        table.add_row(name, f"{median(times):.3f}", f"{min(times):.3f}", f"{max(times):.3f}")
    table.add_row("ratio", f"{median(a / b for a, b in pairs):.2f}")
    console.print(table)


def one_run(client: Client, workflow: str, pause: float = 0.02) -> float:
    """Seconds from the POST until a poll sees that the run has ended."""
    began = time.perf_counter()
    run = client.submit(workflow, {})
    while run["state"] not in FINAL_RUNS:
        time.sleep(pause)
        run = client.run(run["id"])
    assert run["state"] == "succeeded"
    return time.perf_counter() - began
