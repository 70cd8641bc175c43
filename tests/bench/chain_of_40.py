"""Forty steps, from the POST until a client sees the end, against a bare Celery chain."""

from collections.abc import Sequence

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.bench import bare
from tests.bench.ask import chain, one_run, session_of
from tests.bench.report import Report
from tests.bench.usage import using

STEPS, REPEATS, FIB = 40, 9, 10


def measure(
    stack: Stack, repeats: int = REPEATS, numbers: Sequence[int | None] = (None, FIB)
) -> Report:
    """No-ops and fib(10); ours and the floor alternate, so that noise affects both."""
    client, http = Client(stack.url, stack.key), session_of(stack)
    client.apply(chain("forty", STEPS))
    client.apply(chain("forty-fib", STEPS, "bench.fib", step={"with": {"number": FIB}}))
    report = Report("chain_of_40", f"{STEPS} steps from the POST to the end seen, seconds")
    with bare.worker(stack.environ["ORCHESTRATOR_REDIS_URL"]) as sender:
        for number in numbers:
            name = "forty-fib" if number else "forty"
            one_run(http, stack, name)
            sender.one_chain(STEPS, number)
            pairs = [
                (one_run(http, stack, name), sender.one_chain(STEPS, number))
                for _ in range(repeats)
            ]
            ours, floor = zip(*pairs, strict=True)
            what = f"fib({number})" if number else "nothing"
            report.add(f"{STEPS} steps of {what}", ours, floor, at_most=1.5)
            if number is None:
                report.add("the same, seconds", ours, at_most=0.2)
        with using(stack) as report.used[f"ours, {repeats} runs"]:
            for _ in range(repeats):
                one_run(http, stack, "forty")
        with using(stack) as report.used[f"bare, {repeats} chains"]:
            for _ in range(repeats):
                sender.one_chain(STEPS)
    return report
