"""The floor: the same work as a bare Celery chain on the same Redis, without any state kept."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from celery import Celery, chain

_URL = os.environ.get("BARE_REDIS_URL", "")

app = Celery("bare", broker=_URL)
app.conf.update(task_ignore_result=True, task_default_queue="bare", worker_disable_prefetch=True)


@app.task(name="bare.noop")
def noop() -> None:
    """Nothing."""


@app.task(name="bare.done")
def done(key: str) -> None:
    """Say that the chain has ended."""
    redis.Redis.from_url(_URL).set(key, 1, ex=60)


def one_chain(redis_url: str, steps: int) -> float:
    """Seconds from sending a chain to seeing that it has ended."""
    sender = Celery("sender", broker=redis_url, set_as_current=False)
    sender.conf.task_default_queue = "bare"
    key = str(uuid.uuid4())
    tasks = [sender.signature("bare.noop", immutable=True) for _ in range(steps - 1)]
    tasks.append(sender.signature("bare.done", args=(key,), immutable=True))
    client = redis.Redis.from_url(redis_url)
    began = time.perf_counter()
    chain(tasks, app=sender).apply_async()
    while not client.exists(key):
        time.sleep(0.005)
    return time.perf_counter() - began


@contextmanager
def worker(redis_url: str) -> Iterator[None]:
    """A bare Celery worker of two children."""
    command = [
        sys.executable, "-m", "celery", "-A", "tests.bench.bare", "worker", "--concurrency", "2",
        "--queues", "bare", "--disable-prefetch", "--without-gossip", "--without-mingle",
    ]  # fmt: skip
    environ = {**os.environ, "BARE_REDIS_URL": redis_url}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=environ, **quiet)  # type: ignore[call-overload]
    try:
        one_chain(redis_url, 5)
        yield
    finally:
        process.terminate()
        process.wait()
