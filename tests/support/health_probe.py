"""How long `/healthz` takes while something else is done."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import requests

LIMIT = 1.0  # seconds of an answer of /healthz; 0.2 on a machine that does nothing else
_TRIES = 3  # a long delay may be that of a machine with other work


def assert_answered(attack: Callable[[], float]) -> None:
    """The longest delay of /healthz that an attack gives is below the limit."""
    delays = [attack()]
    while delays[-1] > LIMIT and len(delays) < _TRIES:
        delays.append(attack())
    assert delays[-1] <= LIMIT, delays


@contextmanager
def probed(url: str, pid: int) -> Iterator[list[float]]:
    """The delays of /healthz, asked for on one connection until the end of the block.

    A delay is that of the clock or the processor time that the API took meanwhile, whichever is
    less: on a machine with other work a process waits for its turn. `pid` is gunicorn's.
    """
    delays, errors = list[float](), list[Exception]()
    stopped = threading.Event()

    def probe() -> None:
        try:
            _probe(url, pid, delays, stopped)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield delays
    finally:
        stopped.set()
        thread.join()
    if errors:
        raise errors[0]


def _probe(url: str, pid: int, delays: list[float], stopped: threading.Event) -> None:
    (api,) = psutil.Process(pid).children()
    session = requests.Session()
    while not delays or not stopped.wait(0.01):
        start, used = time.perf_counter(), api.cpu_times()
        try:
            answer = session.get(f"{url}/healthz", timeout=60)
        except requests.ConnectionError:  # it may be closed for others while it waits
            continue
        seconds, now = time.perf_counter() - start, api.cpu_times()
        assert answer.status_code == 200
        processor = now.user + now.system - used.user - used.system
        delays.append(min(seconds, processor))
