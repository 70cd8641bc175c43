"""W4: steps a second of 2,000 runs that wait already, against bare Celery on the same Redis."""

import time
import uuid
from collections.abc import Callable
from itertools import pairwise

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.bench import bare
from tests.bench.ask import Taken, chain, submit_many
from tests.bench.report import Report
from tests.bench.usage import Used, using
from tests.support.processes import a_worker

RUNS, STEPS, PARTS = 2000, 5, 5
POOLS = {"prefork": 2, "threads": 8}
_PAUSE = 0.1  # seconds between two looks
_SHARE = 0.05  # of the steps, until which the worker starts


def measure(
    stack: Stack, runs: int = RUNS, pools: dict[str, int] = POOLS, *, backend: bool = True
) -> Report:
    """Both pools; the floor without a result backend, and with one in the same Redis."""
    report = Report("w4", f"steps a second, {runs:,} runs of {STEPS} waiting, in {PARTS} parts")
    redis_url = stack.environ["ORCHESTRATOR_REDIS_URL"]
    for pool, many in pools.items():
        ours, report.used[f"ours, {pool}"] = _ours(stack, pool, many, runs)
        floor, report.used[f"bare, {pool}"] = _bare(stack, redis_url, pool, many, runs, "")
        report.add(f"{pool} {many}, against bare Celery", ours, floor, at_least=0.8)
        if backend:
            kept, _ = _bare(stack, redis_url, pool, many, runs, redis_url)
            report.add(f"{pool} {many}, against a Redis backend", ours, kept, at_least=1.0)
    return report


def _ours(stack: Stack, pool: str, many: int, runs: int) -> tuple[list[float], Used]:
    name = f"w4-{uuid.uuid4().hex[:8]}"
    taken = Taken(stack.environ["ORCHESTRATOR_REDIS_URL"], name)
    Client(stack.url, stack.key).apply(chain(name, STEPS, queue=name))
    submit_many(stack, name, runs)
    with a_worker(stack, name, "--pool", pool, "--concurrency", str(many)):
        return rates(stack, taken, runs * STEPS)


def _bare(
    stack: Stack, redis_url: str, pool: str, many: int, runs: int, backend: str
) -> tuple[list[float], Used]:
    taken, sender = Taken(redis_url, "bare"), bare.Sender(redis_url)
    for _ in range(runs):
        sender.send(STEPS, "w4")
    with bare.worker(redis_url, pool=pool, many=many, backend=backend):
        return rates(stack, taken, runs * STEPS)


def rates(stack: Stack, look: Callable[[], int], steps: int) -> tuple[list[float], Used]:
    """Steps a second in each part, once a few are begun: until then the worker starts."""
    first = _wait(look, max(1, int(steps * _SHARE)))[0]
    marks = [first + (steps - first) * part // PARTS for part in range(PARTS + 1)]
    with using(stack) as used:
        seen = [_wait(look, mark) for mark in marks]
    return [
        (later[0] - earlier[0]) / (later[1] - earlier[1]) for earlier, later in pairwise(seen)
    ], used


def _wait(look: Callable[[], int], mark: int) -> tuple[int, float]:
    """How many are begun, once so many are, and when that was."""
    while (found := look()) < mark:
        time.sleep(_PAUSE)
    return found, time.perf_counter()
