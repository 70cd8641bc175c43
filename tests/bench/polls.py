"""Clients that poll every two seconds: lost connections, and requests that failed."""

import os

from orchestrator.local.stack import Stack
from tests.bench.report import Report
from tests.support.polling import poll_by_all

POLLS, PAUSE = int(os.environ.get("POLLS", "1000")), 2.0  # seconds


def measure(stack: Stack, polls: int = POLLS, pause: float = PAUSE) -> Report:
    """requests, httpx and node's fetch, each with one connection."""
    report = Report("polls", f"{polls:,} polls, one every {pause:g} s")
    for name, result in poll_by_all(f"{stack.url}/healthz", polls, pause).items():
        report.add(f"connections of {name}", [result.connections], at_most=1)
        report.add(f"failures of {name}", [len(result.failures)], at_most=0)
        report.notes += [f"{name}: {each}" for each in result.failures[:5]]
    return report
