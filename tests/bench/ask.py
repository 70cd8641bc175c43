"""Helpers of several benches."""

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
from orchestrator.runs.batch import MAX_BATCH_RUNS


def chain(name: str, steps: int, uses: str = "noop", **options: Any) -> dict[str, Any]:
    """A workflow of so many steps in a chain."""
    step = {"uses": uses, **options.pop("step", {})}
    return {"name": name, **options, "steps": [{"key": f"s{n}", **step} for n in range(steps)]}


def engine_of(stack: Stack) -> Engine:
    """Connections to the stack's Postgres."""
    return create_engine(stack.environ[f"{PREFIX}DATABASE_URL"])


def scalar(engine: Engine, sql: str, **params: Any) -> Any:
    """The first value of a query's result."""
    with engine.connect() as connection:
        return connection.scalar(text(sql), params)


def session_of(stack: Stack, key: str = "") -> requests.Session:
    """An HTTP session with the stack's key, or another one, and keep-alive."""
    http = requests.Session()
    http.headers["Authorization"] = f"Bearer {key or stack.key}"
    return http


def new_tenant(stack: Stack, name: str) -> str:
    """The admin key of a new tenant."""
    command = [sys.executable, "-m", "orchestrator", "tenants", "create", name]
    environ = {**os.environ, **stack.environ}
    process = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    return process.stdout.strip()


def one_run(http: requests.Session, stack: Stack, workflow: str) -> float:
    """Seconds from the POST until its response with the succeeded run."""
    began = time.perf_counter()
    body = {"workflow": workflow}
    run = http.post(f"{stack.url}/api/v1/runs?wait=60", json=body, timeout=90).json()
    assert run["state"] == "succeeded", run
    return time.perf_counter() - began


def submit_many(stack: Stack, workflow: str, runs: int, *, key: str = "") -> None:
    """Submit so many runs, in batches."""
    client = Client(stack.url, key or stack.key)
    for first in range(0, runs, MAX_BATCH_RUNS):
        client.submit_many([{"workflow": workflow}] * min(MAX_BATCH_RUNS, runs - first))


class EndedAttempts:
    """Counts the attempts of all steps that have ended since its creation."""

    def __init__(self, stack: Stack) -> None:
        self._engine = engine_of(stack)
        self._before = self._total()

    def __call__(self) -> int:
        """The count."""
        return self._total() - self._before

    def _total(self) -> int:
        return int(scalar(self._engine, "SELECT count(*) FROM attempts WHERE outcome IS NOT NULL"))


class TakenMessages:
    """Counts the messages of a queue that workers have taken since its creation.

    Not the chains that have ended: all first tasks of many chains are executed before any last one,
    so that count would stay 0 for long and then jump.
    """

    def __init__(self, redis_url: str, queue: str) -> None:
        self._client = redis.Redis.from_url(redis_url)
        self._lists = [queue, *(f"{queue}\x06\x16{level}" for level in range(1, 10))]
        self._before = self._total()

    def __call__(self) -> int:
        """The count."""
        return self._total() - self._before

    def _total(self) -> int:
        with self._client.pipeline(transaction=False) as pipeline:
            for name in self._lists:
                pipeline.llen(name)
            waiting = sum(pipeline.execute())
        return self._published() - waiting

    def _published(self) -> int:
        stats: Any = self._client.info("commandstats")
        return int(stats.get("cmdstat_lpush", {}).get("calls", 0))
