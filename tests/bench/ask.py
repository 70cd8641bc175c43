"""What several benches ask of a stack."""

import os
import subprocess
import sys
import time
from typing import Any

import redis
import requests
from sqlalchemy import Engine, create_engine, text

from config.settings import PREFIX
from orchestrator.client import Client
from orchestrator.local.stack import Stack
from orchestrator.runs import MAX_BATCH_RUNS


def chain(name: str, steps: int, uses: str = "noop", **options: Any) -> dict[str, Any]:
    """A workflow of so many steps in a line."""
    step = {"uses": uses, **options.pop("step", {})}
    return {"name": name, **options, "steps": [{"key": f"s{n}", **step} for n in range(steps)]}


def engine_of(stack: Stack) -> Engine:
    """Connections to the stack's Postgres."""
    return create_engine(stack.environ[f"{PREFIX}DATABASE_URL"])


def scalar(engine: Engine, sql: str, **given: Any) -> Any:
    """The first value that a query finds."""
    with engine.connect() as connection:
        return connection.scalar(text(sql), given)


def session_of(stack: Stack, key: str = "") -> requests.Session:
    """Plain HTTP with the stack's key, or another one, on connections that stay open."""
    http = requests.Session()
    http.headers["Authorization"] = f"Bearer {key or stack.key}"
    return http


def new_tenant(stack: Stack, name: str) -> str:
    """The admin key of a new tenant."""
    command = [sys.executable, "-m", "orchestrator", "tenants", "create", name]
    environ = {**os.environ, **stack.environ}
    said = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    return said.stdout.strip()


def one_run(http: requests.Session, stack: Stack, workflow: str) -> float:
    """Seconds from the POST until its answer says that the run has ended well."""
    began = time.perf_counter()
    asked = {"workflow": workflow}
    run = http.post(f"{stack.url}/api/v1/runs?wait=60", json=asked, timeout=90).json()
    assert run["state"] == "succeeded", run
    return time.perf_counter() - began


def submit_many(stack: Stack, workflow: str, runs: int, *, key: str = "") -> None:
    """Let so many runs be accepted."""
    client = Client(stack.url, key or stack.key)
    for first in range(0, runs, MAX_BATCH_RUNS):
        client.submit_many([{"workflow": workflow}] * min(MAX_BATCH_RUNS, runs - first))


class Taken:
    """Counts the messages of a queue that workers have taken since it was made.

    Of many chains all first tasks are executed before any last one: who counted the chains that
    have ended would see none for long, and then all at once.
    """

    def __init__(self, redis_url: str, queue: str) -> None:
        self._client = redis.Redis.from_url(redis_url)
        self._lists = [queue, *(f"{queue}\x06\x16{level}" for level in range(1, 10))]
        self._before = self._taken()

    def __call__(self) -> int:
        """How many."""
        return self._taken() - self._before

    def _taken(self) -> int:
        with self._client.pipeline(transaction=False) as pipeline:
            for name in self._lists:
                pipeline.llen(name)
            waiting = sum(pipeline.execute())
        return self._published() - waiting

    def _published(self) -> int:
        told: Any = self._client.info("commandstats")
        return int(told.get("cmdstat_lpush", {}).get("calls", 0))
