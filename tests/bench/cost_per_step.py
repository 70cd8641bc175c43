"""The cost of a step in runs of 40 to 5,000 steps; it should not grow."""

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

SIZES = {40: 9, 400: 5, 1000: 5, 5000: 5}  # steps: repeats
FLAT = 1.10


def measure(stack: Stack, sizes: dict[int, int] = SIZES) -> Report:
    """Milliseconds a step by `duration_seconds`; bytes to Redis; the largest message."""
    client = Client(stack.url, stack.key)
    report = Report("cost_per_step", "milliseconds a step")
    by_size: dict[int, list[float]] = {}
    for size, repeats in sizes.items():
        client.apply(chain(f"chain-{size}", size))
        by_size[size] = [_one_run(client, f"chain-{size}") * 1000 / size for _ in range(repeats)]
    smallest = min(sizes)
    for size, costs in by_size.items():
        base = [median(by_size[smallest])] * len(costs)
        report.add(f"{size:,} steps, against {smallest}", costs, base, at_most=FLAT)
    for size in (smallest, max(sizes)):
        with _listening(stack) as (largest, sent), using(stack) as report.used[f"{size:,} steps"]:
            _one_run(client, f"chain-{size}")
        report.notes.append(
            f"{size:,} steps: largest message {largest[0]:,} bytes,"
            f" {sent[0] / size:,.0f} bytes to Redis a step"
        )
    return report


def _one_run(client: Client, workflow: str) -> float:
    """The run's `duration_seconds`; it is polled in a list, which costs little."""
    client.submit(workflow, {})
    while True:
        time.sleep(0.2)
        (last,) = client.runs(workflow=workflow, limit=1)["items"]
        if last["state"] in FINAL_RUNS:
            return float(last["duration_seconds"])


@contextmanager
def _listening(stack: Stack) -> Iterator[tuple[list[int], list[int]]]:
    """The largest message pushed to a list in the block, and all bytes sent to Redis."""
    client = redis.Redis.from_url(stack.environ["ORCHESTRATOR_REDIS_URL"])
    largest, sent, over = [0], [0], threading.Event()

    def listen() -> None:
        with redis.Redis.from_url(stack.environ["ORCHESTRATOR_REDIS_URL"]).monitor() as monitor:
            while not over.is_set():
                command = str(monitor.next_command()["command"])
                if command.upper().startswith("LPUSH"):
                    largest[0] = max(largest[0], len(command.encode()))

    threading.Thread(target=listen, daemon=True).start()
    before = client.info("stats")["total_net_input_bytes"]  # type: ignore[index]
    try:
        yield largest, sent
    finally:
        sent[0] = client.info("stats")["total_net_input_bytes"] - before  # type: ignore[index]
        over.set()
        client.ping()  # ends the monitor's blocking read
