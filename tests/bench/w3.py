"""W3: what one step costs in runs of 40, 400 and 1,000 steps; it should stay flat."""

import time
from statistics import median

from rich.console import Console
from rich.table import Table

from orchestrator.client import Client
from orchestrator.stack import Stack
from orchestrator.states import FINAL_RUNS

SIZES = {40: 5, 400: 3, 1000: 3}  # steps, and how often


def measure(stack: Stack, console: Console) -> None:
    """Print milliseconds a step for each size, from the run's own start and end."""
    client = Client(stack.url, stack.key)
    for size in SIZES:
        steps = [{"key": f"s{n}", "uses": "noop"} for n in range(size)]
        client.apply({"name": f"chain-{size}", "steps": steps})
    table = Table(title="W3: milliseconds a step")
    for heading in ("steps", "median", "against 40"):
        table.add_column(heading)
    costs = {size: _cost(client, size, repeats) for size, repeats in SIZES.items()}
    for size, cost in costs.items():
        table.add_row(str(size), f"{cost:.2f}", f"{cost / costs[40]:.2f}")
    console.print(table)


def _cost(client: Client, size: int, repeats: int) -> float:
    return median(_one_run(client, f"chain-{size}") * 1000 / size for _ in range(repeats))


def _one_run(client: Client, workflow: str) -> float:
    """Seconds that a run took by its own account; polling a list costs little."""
    client.submit(workflow, {})
    while True:
        time.sleep(0.2)
        (last,) = client.runs(workflow=workflow, limit=1)["items"]
        if last["state"] in FINAL_RUNS:
            return float(last["duration_seconds"])
