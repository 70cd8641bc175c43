"""Runs benches, each on a stack of its own; prints their tables and writes them as JSON.

python -m tests.bench w1 w3 --json folder
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from rich.console import Console

from config.settings import Settings
from orchestrator.local import processes
from orchestrator.local.stack import Stack
from tests.bench import (
    cancel_latency,
    chain_of_40,
    cost_per_step,
    fan_out,
    handler_overhead,
    idle,
    lists,
    million_waiting,
    servers,
    streams,
    submit_latency,
    throughput,
    urgent_run,
)
from tests.bench.report import Report

Value = TypeVar("Value")

BENCHES: dict[str, Callable[[Stack], Report]] = {
    "w1": chain_of_40.measure,
    "w2": handler_overhead.measure,
    "w3": cost_per_step.measure,
    "w4": throughput.measure,
    "w5": submit_latency.measure,
    "w6": fan_out.measure,
    "w7": lists.measure,
    "w8": cancel_latency.measure,
    "w10": urgent_run.measure,
    "w12": idle.measure,
    "w14": million_waiting.measure,
    "streams": streams.measure,
    "servers": servers.measure,
}


def run(bench: Callable[[Stack], Value]) -> Value:
    """One bench on a stack of its own: API, scheduler, a worker of two processes."""
    with TemporaryDirectory(prefix="orchestrator-bench-", ignore_cleanup_errors=True) as folder:
        settings = replace(Settings(), data_dir=Path(folder), steps=("tests.bench.steps",))
        with Stack(settings, port=processes.free_port(), flower=False) as stack:
            return bench(stack)


def main() -> None:
    """Run the named benches, all by default."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="bench", help=", ".join(BENCHES))
    parser.add_argument("--json", type=Path, help="folder for one file each")
    asked = parser.parse_args()
    if unknown := set(asked.names) - BENCHES.keys():
        parser.error(f"no bench {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    console = Console(width=150)
    every = [name for name in BENCHES if name != "servers" or servers.are_named()]
    for name in asked.names or every:
        with console.status(f"{name} …"):
            report = run(BENCHES[name])
        report.print(console)
        if asked.json:
            report.write(asked.json)


if __name__ == "__main__":
    main()
