"""Open loop, so many runs a second: POST latency, and from the trigger to the first user line.

A request's latency counts from when it was due, so that a slow response is not hidden by delaying
the requests after it.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from http.client import TOO_MANY_REQUESTS
from statistics import fmean
from threading import local

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from orchestrator.runs.batch import MAX_BATCH_RUNS
from tests.bench.ask import chain, engine_of, scalar, session_of, submit_many
from tests.bench.report import Report
from tests.bench.usage import using

RATES, SECONDS, THREADS = (20, 50, 100), 60.0, 32
POSTS, BATCHES = 500, 5
_IDLE = 2  # runs a second, without queueing
_OPEN = "SELECT count(*) FROM runs WHERE workflow = :name AND finished_at IS NULL"
_FIRST_LINE = "SELECT min(time_ns) / 1e9 FROM logs WHERE run_id = :id"

Sent = tuple[str, float, float]  # run, when its POST was due, and when the response came
_thread = local()


def measure(stack: Stack, rates: tuple[int, ...] = RATES, seconds: float = SECONDS) -> Report:
    """All rates, one after the other."""
    client, engine = Client(stack.url, stack.key), engine_of(stack)
    report = Report("submit_latency", f"open loop of {seconds:g} s, milliseconds")
    _one_client(stack, client, report)
    for rate in (_IDLE, *rates):
        name = f"open-{rate}"
        client.apply(chain(name, 1, "bench.say"))
        with using(stack) as report.used[f"{rate}/s"]:
            answers = _offer(stack, name, rate, seconds)
        sent = [each for each in answers if each is not None]
        still_open = scalar(engine, _OPEN, name=name)
        while scalar(engine, _OPEN, name=name):
            time.sleep(0.2)
        posts = [1000 * (responded - due) for _, due, responded in sent]
        lines = [
            1000 * (float(scalar(engine, _FIRST_LINE, id=run_id)) - due) for run_id, due, _ in sent
        ]
        idle = rate == _IDLE
        report.add(f"POST at {rate}/s", posts, at_most=4 if idle else None)
        report.add(f"trigger to first line at {rate}/s", lines, at_most=10 if idle else None)
        report.notes.append(
            f"{rate}/s: {len(sent) / seconds:.0f}/s accepted, {len(answers) - len(sent)} refused,"
            f" {still_open} runs open at its end,"
            f" POST {fmean(posts):.1f} ms on average"
        )
    engine.dispose()
    return report


def _one_client(stack: Stack, client: Client, report: Report) -> None:
    """Single requests in sequence, and batches, in a queue without a worker."""
    http = session_of(stack)
    client.apply(chain("nobodys", 1, queue="nobodys"))
    times = []
    for _ in range(POSTS):
        began = time.perf_counter()
        http.post(f"{stack.url}/api/v1/runs", json={"workflow": "nobodys"}).raise_for_status()
        times.append((time.perf_counter() - began) * 1000)
    report.add("POST, one client", times, at_most=4)
    report.add("the same, p99", times, at_most=12, of="p99")
    report.add("the same, a second", [1000 / fmean(times)], at_least=300)
    rates = []
    with using(stack) as report.used[f"{BATCHES} batches"]:
        for _ in range(BATCHES):
            began = time.perf_counter()
            submit_many(stack, "nobodys", MAX_BATCH_RUNS)
            rates.append(MAX_BATCH_RUNS / (time.perf_counter() - began))
    report.add(f"runs a second in batches of {MAX_BATCH_RUNS:,}", rates, at_least=10_000)


def _offer(stack: Stack, workflow: str, rate: int, seconds: float) -> list[Sent | None]:
    """Send each POST when it is due, whether or not earlier ones have ended; None if refused."""

    def post(due: float) -> Sent | None:
        if not hasattr(_thread, "http"):
            _thread.http = session_of(stack)
        response = _thread.http.post(
            f"{stack.url}/api/v1/runs", json={"workflow": workflow}, timeout=120
        )
        if response.status_code == TOO_MANY_REQUESTS:
            return None
        response.raise_for_status()
        return response.json()["id"], due, time.time()

    began = time.time() + 0.5
    with ThreadPoolExecutor(THREADS) as threads:
        futures = []
        for number in range(int(rate * seconds)):
            due = began + number / rate
            time.sleep(max(0.0, due - time.time()))
            futures.append(threads.submit(post, due))
        return [each.result() for each in futures]
