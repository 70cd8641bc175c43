"""The servers that benches run on; and latency of a POST of a run on named ones.

`.ci/stock python -m tests.bench servers` names Debian's. Both stacks run side by side and are
measured in turns, so that other load on the machine slows both.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from config.settings import PREFIX, Settings
from orchestrator.client import Client
from orchestrator.local import processes
from orchestrator.local.stack import Stack
from tests.bench.ask import chain, engine_of, scalar, session_of
from tests.bench.report import Report
from tests.conftest import own_services

TURNS, POSTS = 10, 40
STEPS = ("tests.bench.steps",)  # the handlers of benches


def are_named() -> bool:
    """Whether the environment names a Postgres to compare with."""
    return f"{PREFIX}DATABASE_URL" in os.environ


def measure(stack: Stack, turns: int = TURNS) -> Report:
    """The median of each turn, of runs in a queue without a worker."""
    if not are_named():
        raise SystemExit(f"name the servers to compare with: {PREFIX}DATABASE_URL, …REDIS_URL")
    with named() as other:
        report = Report("servers", "POST of a run, milliseconds")
        for each in (stack, other):
            Client(each.url, each.key).apply(chain("nobodys", 1, queue="nobodys"))
            _posts(each)  # warm-up
        pairs = [(_posts(other), _posts(stack)) for _ in range(turns)]
        ours, embedded = ([pair[at] for pair in pairs] for at in (0, 1))
        report.add(f"{version(other)} against {version(stack)}", ours, embedded, at_most=1.3)
        return report


@contextmanager
def embedded() -> Iterator[Stack]:
    """A stack on servers of its own: API, scheduler, a worker of two processes."""
    with TemporaryDirectory(prefix="orchestrator-bench-", ignore_cleanup_errors=True) as folder:
        settings = replace(Settings(), data_dir=Path(folder), steps=STEPS)
        with Stack(settings, port=processes.free_port(), flower=False) as stack:
            yield stack


@contextmanager
def named() -> Iterator[Stack]:
    """The same on the servers of the environment, with a database of its own."""
    with (
        TemporaryDirectory(prefix="orchestrator-bench-", ignore_cleanup_errors=True) as folder,
        own_services() as services,
    ):
        settings = replace(
            Settings(),
            database_url=services.database_url,
            redis_url=services.redis_url,
            data_dir=Path(folder),
            steps=STEPS,
        )
        with Stack(settings, port=processes.free_port(), flower=False) as stack:
            yield stack


def _posts(stack: Stack) -> float:
    """The median of POSTS requests, in milliseconds."""
    http, times = session_of(stack), []
    for _ in range(POSTS):
        began = time.perf_counter()
        http.post(f"{stack.url}/api/v1/runs", json={"workflow": "nobodys"}).raise_for_status()
        times.append((time.perf_counter() - began) * 1000)
    return median(times)


def version(stack: Stack) -> str:
    """The version of the stack's Postgres."""
    engine = engine_of(stack)
    version = scalar(engine, "SELECT current_setting('server_version')")
    engine.dispose()
    return f"Postgres {str(version).partition(' ')[0]}"
