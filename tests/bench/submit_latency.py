"""W5: open loop, so many runs a second: POST latency, and from the trigger to the first user line.

A request counts from when it was due: waiting for the ones before it is part of what a client
would see, or slow answers would hide each other.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean
from threading import local

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from orchestrator.runs import MAX_BATCH_RUNS
from tests.bench.ask import chain, engine_of, scalar, session_of, submit_many
from tests.bench.report import Report
from tests.bench.usage import using

RATES, SECONDS, THREADS = (20, 50, 100), 60.0, 32
POSTS, BATCHES = 500, 5
_IDLE = 2  # runs a second, at which nothing waits for anything
_OPEN = "SELECT count(*) FROM runs WHERE workflow = :name AND finished_at IS NULL"
_FIRST_LINE = "SELECT min(time_ns) / 1e9 FROM logs WHERE run_id = :id"

Sent = tuple[str, float, float]  # run, when its POST was due, and when it was answered
_mine = local()


def measure(stack: Stack, rates: tuple[int, ...] = RATES, seconds: float = SECONDS) -> Report:
    """Each rate once the one before has ended."""
    client, engine = Client(stack.url, stack.key), engine_of(stack)
    report = Report("w5", f"open loop of {seconds:g} s, milliseconds")
    _one_client(stack, client, report)
    for rate in (_IDLE, *rates):
        name = f"open-{rate}"
        client.apply(chain(name, 1, "bench.say"))
        with using(stack) as report.used[f"{rate}/s"]:
            sent = _offer(stack, name, rate, seconds)
        behind = scalar(engine, _OPEN, name=name)
        while scalar(engine, _OPEN, name=name):
            time.sleep(0.2)
        posts = [1000 * (answered - due) for _, due, answered in sent]
        lines = [
            1000 * (float(scalar(engine, _FIRST_LINE, id=run_id)) - due) for run_id, due, _ in sent
        ]
        idle = rate == _IDLE
        report.add(f"POST at {rate}/s", posts, at_most=6 if idle else None)
        report.add(f"trigger to first line at {rate}/s", lines, at_most=12 if idle else None)
        report.notes.append(
            f"{rate}/s: {len(sent) / seconds:.0f}/s accepted, {behind} runs open at its end,"
            f" POST {fmean(posts):.1f} ms on average"
        )
    engine.dispose()
    return report


def _one_client(stack: Stack, client: Client, report: Report) -> None:
    """One request after the other, and whole batches, of runs that nobody executes."""
    http = session_of(stack)
    client.apply(chain("nobodys", 1, queue="nobodys"))
    took = []
    for _ in range(POSTS):
        began = time.perf_counter()
        http.post(f"{stack.url}/api/v1/runs", json={"workflow": "nobodys"}).raise_for_status()
        took.append((time.perf_counter() - began) * 1000)
    report.add("POST, one client", took, at_most=6)
    report.add("the same, p99", took, at_most=30, of="p99")
    report.add("the same, a second", [1000 / fmean(took)], at_least=250)
    rates = []
    with using(stack) as report.used[f"{BATCHES} batches"]:
        for _ in range(BATCHES):
            began = time.perf_counter()
            submit_many(stack, "nobodys", MAX_BATCH_RUNS)
            rates.append(MAX_BATCH_RUNS / (time.perf_counter() - began))
    report.add(f"runs a second in batches of {MAX_BATCH_RUNS:,}", rates, at_least=10_000)


def _offer(stack: Stack, workflow: str, rate: int, seconds: float) -> list[Sent]:
    """Send a POST whenever one is due, whatever became of the ones before."""

    def post(due: float) -> Sent:
        if not hasattr(_mine, "http"):
            _mine.http = session_of(stack)
        answer = _mine.http.post(
            f"{stack.url}/api/v1/runs", json={"workflow": workflow}, timeout=120
        )
        answer.raise_for_status()
        return answer.json()["id"], due, time.time()

    began = time.time() + 0.5
    with ThreadPoolExecutor(THREADS) as threads:
        asked = []
        for number in range(int(rate * seconds)):
            due = began + number / rate
            time.sleep(max(0.0, due - time.time()))
            asked.append(threads.submit(post, due))
        return [each.result() for each in asked]
