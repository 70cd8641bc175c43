"""Run benches, each on a stack of its own; print their tables, and write them as JSON.

python -m tests.bench chain_of_40 cost_per_step --json folder
With `--server` on a new database of that Postgres; its processes are not among those counted.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from config.settings import PREFIX
from orchestrator.local.stack import Stack
from tests.bench import (
    api_processes,
    cancel_latency,
    chain_of_40,
    cost_per_step,
    fan_out,
    handler_overhead,
    idle,
    lists,
    million_waiting,
    overload,
    polls,
    servers,
    streams,
    submit_latency,
    throughput,
    urgent_run,
)
from tests.bench.report import Report

_MODULES = (
    chain_of_40, handler_overhead, cost_per_step, throughput, submit_latency, fan_out, lists,
    cancel_latency, urgent_run, idle, million_waiting, streams, overload, api_processes, polls,
    servers,
)  # fmt: skip
BENCHES: dict[str, Callable[[Stack], Report]] = {
    module.__name__.rpartition(".")[2]: module.measure for module in _MODULES
}


def run(bench: Callable[[Stack], Report], *, is_named: bool) -> Report:
    """One bench on a stack of its own, on embedded servers or those of the environment."""
    with servers.named() if is_named else servers.embedded() as stack:
        report = bench(stack)
        report.server = servers.version(stack)
        return report


def main() -> None:
    """Run the named benches, all by default."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="bench", help=", ".join(BENCHES))
    parser.add_argument("--server", metavar="URL", help="of Postgres; default: an embedded one")
    parser.add_argument("--json", type=Path, help="folder for one file each")
    options = parser.parse_args()
    if unknown := set(options.names) - BENCHES.keys():
        parser.error(f"no bench {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    console = Console(width=150)
    default = [name for name in BENCHES if name != "servers" or servers.are_named()]
    if options.server:
        os.environ[f"{PREFIX}DATABASE_URL"] = options.server
    for name in options.names or default:
        with console.status(f"{name} …"):
            report = run(BENCHES[name], is_named=bool(options.server))
        report.print(console)
        if options.json:
            report.write(options.json)


if __name__ == "__main__":
    main()
