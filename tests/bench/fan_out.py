"""One step, a thousand that need it, and one that needs them all."""

from statistics import median

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.bench.ask import one_run, session_of
from tests.bench.report import Report
from tests.bench.usage import using

WIDE, REPEATS = 1000, 5


def measure(stack: Stack, wide: int = WIDE, repeats: int = REPEATS) -> Report:
    """The whole run against a tenth of its width: a step should cost the same."""
    client, http = Client(stack.url, stack.key), session_of(stack)
    report = Report("fan_out", f"fan-out {wide:,} and join, milliseconds a step")
    costs: dict[int, list[float]] = {}
    for width in (wide // 10, wide):
        name = f"fan-{width}"
        client.apply(_fan(name, width))
        one_run(http, stack, name)
        with using(stack) as report.used[f"{width:,} wide"]:
            costs[width] = [one_run(http, stack, name) * 1000 / (width + 2) for _ in range(repeats)]
    report.add(f"{wide // 10:,} wide", costs[wide // 10])
    base = [median(costs[wide // 10])] * repeats
    report.add(f"{wide:,} wide, against {wide // 10:,}", costs[wide], base, at_most=1.1)
    return report


def _fan(name: str, width: int) -> dict[str, object]:
    many = [{"key": f"w{n}", "uses": "noop", "needs": ["first"]} for n in range(width)]
    join = {"key": "join", "uses": "noop", "needs": [each["key"] for each in many]}
    return {"name": name, "steps": [{"key": "first", "uses": "noop"}, *many, join]}
