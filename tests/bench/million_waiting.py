"""Steps a second while 1,000, 100,000 and 1,000,000 other runs wait."""

import uuid

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.bench.ask import EndedAttempts, chain, engine_of, scalar, submit_many
from tests.bench.report import Report
from tests.bench.throughput import STEPS, rates
from tests.support.processes import a_worker

WAITING, RUNS = (1_000, 100_000, 1_000_000), 600
_QUEUE = "million-waiting"
_HAVE = "SELECT count(*) FROM runs WHERE workflow = 'backlog'"


def measure(stack: Stack, waiting: tuple[int, ...] = WAITING) -> Report:
    """Runs of the highest priority in the queue; the worker takes no other run meanwhile."""
    client, engine = Client(stack.url, stack.key), engine_of(stack)
    report = Report("million_waiting", f"steps a second of {RUNS} runs that go first")
    client.apply(chain("backlog", 1, priority=0, queue=_QUEUE))
    by_count: dict[int, list[float]] = {}
    for count in waiting:
        submit_many(stack, "backlog", count - int(scalar(engine, _HAVE)))
        by_count[count] = _one(stack, client)
    for count in waiting:
        report.add(f"{count:,} waiting", by_count[count], by_count[waiting[0]], at_least=0.9)
    engine.dispose()
    return report


def _one(stack: Stack, client: Client) -> list[float]:
    name = f"first-{uuid.uuid4().hex[:8]}"
    client.apply(chain(name, STEPS, priority=9, queue=_QUEUE))
    attempts = EndedAttempts(stack)
    submit_many(stack, name, RUNS)
    with a_worker(stack, _QUEUE, "--concurrency", "2"):
        return rates(stack, attempts, RUNS * STEPS)[0]
