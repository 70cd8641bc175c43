"""Steps a second of 2,000 runs that wait already, against bare Celery on the same Redis."""

import time
import uuid
from collections.abc import Callable
from itertools import pairwise

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.bench import bare
from tests.bench.ask import EndedAttempts, TakenMessages, chain, submit_many
from tests.bench.report import Report
from tests.bench.usage import Used, using
from tests.support.processes import a_worker

RUNS, STEPS, PARTS = 2000, 5, 5
POOLS = {"prefork": 2, "threads": 8}
_PAUSE = 0.1  # seconds between two polls
_SHARE = 0.05  # of the steps: the warm-up of the worker, not measured


def measure(
    stack: Stack, runs: int = RUNS, pools: dict[str, int] = POOLS, *, backend: bool = True
) -> Report:
    """Both pools, against bare Celery without a result backend, and with one in the same Redis."""
    title = f"steps a second, {runs:,} runs of {STEPS} waiting, in {PARTS} parts"
    report = Report("throughput", title)
    redis_url = stack.environ["ORCHESTRATOR_REDIS_URL"]
    for pool, concurrency in pools.items():
        ours, report.used[f"ours, {pool}"] = _ours(stack, pool, concurrency, runs)
        floor, report.used[f"bare, {pool}"] = _bare(stack, redis_url, pool, concurrency, runs, "")
        report.add(f"{pool} {concurrency}, against bare Celery", ours, floor, at_least=0.8)
        if backend:
            with_backend, _ = _bare(stack, redis_url, pool, concurrency, runs, redis_url)
            name = f"{pool} {concurrency}, against a Redis backend"
            report.add(name, ours, with_backend, at_least=1.0)
    return report


def _ours(stack: Stack, pool: str, concurrency: int, runs: int) -> tuple[list[float], Used]:
    name = f"throughput-{uuid.uuid4().hex[:8]}"
    attempts = EndedAttempts(stack)
    Client(stack.url, stack.key).apply(chain(name, STEPS, queue=name))
    submit_many(stack, name, runs)
    with a_worker(stack, name, "--pool", pool, "--concurrency", str(concurrency)):
        return rates(stack, attempts, runs * STEPS)


def _bare(
    stack: Stack, redis_url: str, pool: str, concurrency: int, runs: int, backend: str
) -> tuple[list[float], Used]:
    messages, sender = TakenMessages(redis_url, "bare"), bare.Sender(redis_url)
    for _ in range(runs):
        sender.send(STEPS, "throughput")
    with bare.worker(redis_url, pool=pool, concurrency=concurrency, backend=backend):
        return rates(stack, messages, runs * STEPS)


def rates(stack: Stack, look: Callable[[], int], steps: int) -> tuple[list[float], Used]:
    """Steps a second in each part, after a warm-up of the worker."""
    first = _wait(look, max(1, int(steps * _SHARE)))[0]
    marks = [first + (steps - first) * part // PARTS for part in range(PARTS + 1)]
    with using(stack) as used:
        points = [_wait(look, mark) for mark in marks]
    return [
        (later[0] - earlier[0]) / (later[1] - earlier[1]) for earlier, later in pairwise(points)
    ], used


def _wait(look: Callable[[], int], mark: int) -> tuple[int, float]:
    """Wait until `look` reaches `mark`; returns the count and the time."""
    while (count := look()) < mark:
        time.sleep(_PAUSE)
    return count, time.perf_counter()
