"""Runs the benches on a stack of its own and prints one table for each."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from config.settings import Settings
from orchestrator import local
from orchestrator.stack import Stack
from tests.bench import lists, streams, w1, w3

SCRIPTS: dict[str, Callable[[Stack, Console], None]] = {
    "w1": w1.measure,
    "w3": w3.measure,
    "lists": lists.measure,
    "streams": streams.measure,
}


def main(names: list[str]) -> None:
    """Run the named benches, all by default."""
    if unknown := set(names) - SCRIPTS.keys():
        sys.exit(f"no bench {', '.join(unknown)}; there are {', '.join(SCRIPTS)}")
    console = Console()
    with TemporaryDirectory(prefix="orchestrator-bench-", ignore_cleanup_errors=True) as folder:
        settings = replace(Settings.from_env(), data_dir=Path(folder))
        with Stack(settings, port=local.free_port(), flower=False) as stack:
            for name in names or SCRIPTS:
                SCRIPTS[name](stack, console)


main(sys.argv[1:])
