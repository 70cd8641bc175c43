"""How long `/healthz` takes while something else is done."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import requests

LIMIT = 0.2  # seconds of an answer of /healthz


@contextmanager
def probed(url: str, pid: int) -> Iterator[list[float]]:
    """The delays of /healthz, asked for all the time until the end of the block.

    A delay is that of the clock or the processor time that the API took meanwhile, whichever is
    less: on a machine with other work a process waits for its turn. `pid` is gunicorn's.
    """
    delays: list[float] = []
    stopped = threading.Event()
    thread = threading.Thread(target=_probe, args=(url, pid, delays, stopped))
    thread.start()
    try:
        yield delays
    finally:
        stopped.set()
        thread.join()


def _probe(url: str, pid: int, delays: list[float], stopped: threading.Event) -> None:
    (api,) = psutil.Process(pid).children()
    with requests.Session() as session:
        while not delays or not stopped.wait(0.01):
            start, used = time.perf_counter(), api.cpu_times()
            answer = session.get(f"{url}/healthz", timeout=60)
            seconds, now = time.perf_counter() - start, api.cpu_times()
            assert answer.status_code == 200
            processor = now.user + now.system - used.user - used.system
            delays.append(min(seconds, processor))
