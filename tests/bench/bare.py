"""The floor: the same work in bare Celery on the same Redis, without any stored state."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from celery import Celery, chain

from tests.bench.steps import fibonacci

_URL = os.environ.get("BARE_REDIS_URL", "")
_BACKEND = os.environ.get("BARE_BACKEND", "")
_DONE = "bare.done"

app = Celery("bare", broker=_URL, backend=_BACKEND or None)
app.conf.update(
    task_ignore_result=not _BACKEND, task_default_queue="bare", worker_disable_prefetch=True
)


@app.task(name="bare.noop")
def noop() -> None:
    """Do nothing."""


@app.task(name="bare.fib")
def fib(number: int) -> int:
    """Compute a Fibonacci number."""
    return fibonacci(number)


@app.task(name="bare.done")
def done(key: str) -> None:
    """Count the end of a chain."""
    with redis.Redis.from_url(_URL) as client:
        client.incr(key)
        client.expire(key, 600)


class Sender:
    """Sends chains, and polls for their end."""

    def __init__(self, redis_url: str) -> None:
        self._app = Celery("sender", broker=redis_url, set_as_current=False)
        self._app.conf.task_default_queue = "bare"
        self._client = redis.Redis.from_url(redis_url)

    def send(self, steps: int, key: str, number: int | None = None) -> None:
        """Send a chain of so many tasks, no-ops or fib(number); the last one increments the key."""
        name, args = ("bare.noop", ()) if number is None else ("bare.fib", (number,))
        tasks = [self._app.signature(name, args, immutable=True) for _ in range(steps - 1)]
        tasks.append(self._app.signature(_DONE, args=(key,), immutable=True))
        chain(tasks, app=self._app).apply_async()

    def ended(self, key: str) -> int:
        """How many chains with this key have ended."""
        return int(self._client.get(key) or 0)  # type: ignore[arg-type]

    def one_chain(self, steps: int, number: int | None = None) -> float:
        """Seconds from sending a chain until its end is seen."""
        key = str(uuid.uuid4())
        began = time.perf_counter()
        self.send(steps, key, number)
        while not self.ended(key):
            time.sleep(0.002)
        return time.perf_counter() - began


@contextmanager
def worker(
    redis_url: str, *, pool: str = "prefork", concurrency: int = 2, backend: str = ""
) -> Iterator[Sender]:
    """A bare Celery worker; results go to the backend, if there is one."""
    command = [
        sys.executable, "-m", "celery", "-A", "tests.bench.bare", "worker", "--queues", "bare",
        "--pool", pool, "--concurrency", str(concurrency), "--disable-prefetch", "--without-gossip",
        "--without-mingle",
    ]  # fmt: skip
    environ = {**os.environ, "BARE_REDIS_URL": redis_url, "BARE_BACKEND": backend}
    process = subprocess.Popen(
        command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield Sender(redis_url)
    finally:
        process.terminate()
        process.wait()
