"""The stack of a soak."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from config.settings import Settings
from orchestrator.local import processes
from orchestrator.local.stack import Stack


@contextmanager
def own_stack(steps: str, *, workers: int) -> Iterator[tuple[Stack, Path]]:
    """A stack whose workers know a module of steps, and its folder; gone with the block."""
    with TemporaryDirectory(prefix="orchestrator-soak-", ignore_cleanup_errors=True) as folder:
        settings = replace(Settings(), data_dir=Path(folder), steps=(steps,))
        port = processes.free_port()
        with Stack(settings, port=port, workers=workers, concurrency=2, flower=False) as stack:
            yield stack, Path(folder)
