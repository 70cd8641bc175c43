"""W3: what one step costs in runs of 40 to 5,000 steps; it should stay flat."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import redis

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from orchestrator.states import FINAL_RUNS
from tests.bench.ask import chain
from tests.bench.report import Report
from tests.bench.usage import using

SIZES = {40: 9, 400: 5, 1000: 5, 5000: 5}  # steps, and how often
FLAT = 1.10


def measure(stack: Stack, sizes: dict[int, int] = SIZES) -> Report:
    """Milliseconds a step by the run's own account; bytes to Redis; the largest message."""
    client = Client(stack.url, stack.key)
    report = Report("w3", "milliseconds a step")
    found: dict[int, list[float]] = {}
    for size, repeats in sizes.items():
        client.apply(chain(f"chain-{size}", size))
        found[size] = [_one_run(client, f"chain-{size}") * 1000 / size for _ in range(repeats)]
    least = min(sizes)
    for size, costs in found.items():
        base = [median(found[least])] * len(costs)
        report.add(f"{size:,} steps, against {least}", costs, base, at_most=FLAT)
    for size in (least, max(sizes)):
        with _listening(stack) as (largest, sent), using(stack) as report.used[f"{size:,} steps"]:
            _one_run(client, f"chain-{size}")
        report.notes.append(
            f"{size:,} steps: largest message {largest[0]:,} bytes,"
            f" {sent[0] / size:,.0f} bytes to Redis a step"
        )
    return report


def _one_run(client: Client, workflow: str) -> float:
    """Seconds that a run took by its own account; polling a list costs little."""
    client.submit(workflow, {})
    while True:
        time.sleep(0.2)
        (last,) = client.runs(workflow=workflow, limit=1)["items"]
        if last["state"] in FINAL_RUNS:
            return float(last["duration_seconds"])


@contextmanager
def _listening(stack: Stack) -> Iterator[tuple[list[int], list[int]]]:
    """The longest message that is put into a list meanwhile, and all bytes that Redis is sent."""
    client = redis.Redis.from_url(stack.environ["ORCHESTRATOR_REDIS_URL"])
    largest, sent, over = [0], [0], threading.Event()

    def listen() -> None:
        with redis.Redis.from_url(stack.environ["ORCHESTRATOR_REDIS_URL"]).monitor() as told:
            while not over.is_set():
                command = str(told.next_command()["command"])
                if command.upper().startswith("LPUSH"):
                    largest[0] = max(largest[0], len(command.encode()))

    threading.Thread(target=listen, daemon=True).start()
    before = client.info("stats")["total_net_input_bytes"]  # type: ignore[index]
    try:
        yield largest, sent
    finally:
        sent[0] = client.info("stats")["total_net_input_bytes"] - before  # type: ignore[index]
        over.set()
        client.ping()  # the last thing it hears
