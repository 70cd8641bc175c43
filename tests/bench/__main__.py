"""Run benches, each on a stack of its own; print their tables, and write them as JSON.

python -m tests.bench chain_of_40 cost_per_step --json folder
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
    overload,
    servers,
    streams,
    submit_latency,
    throughput,
    urgent_run,
)
from tests.bench.report import Report

Value = TypeVar("Value")

_MODULES = (
    chain_of_40, handler_overhead, cost_per_step, throughput, submit_latency, fan_out, lists,
    cancel_latency, urgent_run, idle, million_waiting, streams, overload, servers,
)  # fmt: skip
BENCHES: dict[str, Callable[[Stack], Report]] = {
    module.__name__.rpartition(".")[2]: module.measure for module in _MODULES
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
    options = parser.parse_args()
    if unknown := set(options.names) - BENCHES.keys():
        parser.error(f"no bench {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    console = Console(width=150)
    default = [name for name in BENCHES if name != "servers" or servers.are_named()]
    for name in options.names or default:
        with console.status(f"{name} …"):
            report = run(BENCHES[name])
        report.print(console)
        if options.json:
            report.write(options.json)


if __name__ == "__main__":
    main()
