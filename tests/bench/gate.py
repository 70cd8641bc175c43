"""Regression gate: fails when a step, a long run, a backlog or a list costs twice as much as now.

Short forms of chain_of_40, cost_per_step, throughput and lists, as ratios measured side by side: a
lost index or an N+1 query fails the build, a slow machine does not.
"""

import sys
from statistics import median
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from orchestrator.local.stack import Stack
from tests.bench import chain_of_40, cost_per_step, lists, servers, throughput


class Gate(NamedTuple):
    """A ratio and its limit."""

    name: str
    ratio: float
    limit: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the ratio is within the limit."""
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit


def _forty(stack: Stack) -> Gate:
    line = chain_of_40.measure(stack, repeats=5, numbers=(None,)).lines[0]
    return Gate("40 steps against a bare chain", median(line.ratios), 3.0)


def _long(stack: Stack) -> Gate:
    line = cost_per_step.measure(stack, {40: 4, 200: 3}).lines[-1]
    return Gate("a step of 200 against one of 40", median(line.ratios), 1.6)


def _throughput(stack: Stack) -> Gate:
    line = throughput.measure(stack, runs=150, pools={"prefork": 2}, backend=False).lines[0]
    return Gate("steps a second against bare Celery", median(line.ratios), 0.5, at_least=True)


def _lists(stack: Stack) -> Gate:
    one, *others = lists.measure(stack, total=10_000, requests_each=10).lines
    worst = max(others, key=lambda line: median(line.ours))
    return Gate(f"{worst.name} against one row", median(worst.ours) / median(one.ours), 11.0)


def _servers(stack: Stack) -> Gate:
    (line,) = servers.measure(stack, turns=5).lines
    return Gate(f"a POST on {line.name}", median(line.ratios), 1.4)


def gates(stack: Stack) -> list[Gate]:
    """All of them, one after the other."""
    chosen = [_forty, _long, _throughput, _lists, *([_servers] if servers.are_named() else [])]
    return [gate(stack) for gate in chosen]


def main() -> None:
    """Print every gate; the exit status is 1 when one does not hold."""
    with servers.embedded() as stack:
        results = gates(stack)
    console = Console(width=110)
    table = Table(title="regression gate")
    for heading in ("", "ratio", "limit", ""):
        table.add_column(heading)
    for each in results:
        limit = f"{'≥' if each.at_least else '≤'} {each.limit:g}"
        table.add_row(each.name, f"{each.ratio:.2f}", limit, "holds" if each.holds else "FAILS")
    console.print(table)
    sys.exit(0 if all(each.holds for each in results) else 1)


if __name__ == "__main__":
    main()
