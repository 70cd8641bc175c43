"""The stack as real processes, and helpers to run workflows on it and to kill parts of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import requests

from config.settings import PREFIX, Settings
from orchestrator.client import Client
from orchestrator.local import processes
from orchestrator.local.stack import Stack
from tests.support.factories import KEY, eventually

LEASE = timedelta(seconds=3)
GRACE = timedelta(seconds=2)


@contextmanager
def running(directory: Path, database_url: str, redis_url: str, **options: Any) -> Iterator[Stack]:
    """API, scheduler, two workers of two children each, on running services, warmed up."""
    settings = Settings(
        database_url=database_url,
        redis_url=redis_url,
        data_dir=directory,
        admin_key=KEY,
        steps=("tests.support.handlers", "examples.ecb_fx.steps"),
        lease=LEASE,
        cancel_grace=GRACE,
        http_private_targets=True,
        flower_port=processes.free_port(),
    )
    stack_options = {
        "workers": 2,
        "concurrency": 2,
        "flower": False,
        "port": processes.free_port(),
    } | options
    with Stack(replace(settings, **stack_options.pop("settings", {})), **stack_options) as stack:
        client = Client(stack.url, stack.key)
        client.apply({"name": "warm-up", "steps": [{"key": "s", "uses": "noop"}]})
        run = client.submit("warm-up", {})
        ended(client, run["id"], within=30)
        yield stack


@contextmanager
def a_worker(
    stack: Stack, name: str, *words: str, once: bool = True, **settings: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker with a queue of the same name, unless `words` name another one."""
    command = [sys.executable, "-m", "orchestrator", "worker", "--name", name]
    environ = {f"{PREFIX}{setting.upper()}": value for setting, value in settings.items()}
    process = subprocess.Popen(
        [*command, *(["--once"] if once else []), "--queues", name, *words],
        env={**os.environ, **stack.environ, **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a process group of its own
    )
    try:
        yield process
    finally:
        processes.stop_process(process)


def the_worker(stack: Stack, name: str) -> dict[str, Any] | None:
    """The worker whose name begins so, from the API; None when there is none."""
    headers = {"Authorization": f"Bearer {stack.key}"}
    response = requests.get(f"{stack.url}/api/v1/workers", headers=headers, timeout=10)
    return next((each for each in response.json()["items"] if each["name"].startswith(name)), None)


def submit(client: Client, spec: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Register a workflow and run it."""
    client.apply(spec)
    return client.submit(spec["name"], options.pop("params", {}), **options)


def ended(client: Client, run_id: str, within: float = 60) -> dict[str, Any]:
    """The run, once it has ended."""
    final = ("succeeded", "failed", "timed_out", "cancelled")
    return eventually(
        lambda: client.run(run_id), within=within, until=lambda run: run["state"] in final
    )


def lines_in(path: Path, lines: int = 1, within: float = 60) -> list[str]:
    """The lines that a handler wrote to the file, once there are so many."""
    return eventually(
        lambda: path.read_text().splitlines() if path.exists() else [],
        within=within,
        until=lambda written: len(written) >= lines,
    )


def kill(pid: int) -> None:
    """Kill a process with SIGKILL."""
    os.kill(pid, signal.SIGKILL)


def parent_of(pid: int) -> int:
    """The process id of the worker whose child this is."""
    return int(psutil.Process(pid).ppid())


def is_alive(pid: int) -> bool:
    """Whether the process still runs."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
