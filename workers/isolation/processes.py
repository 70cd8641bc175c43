"""The processes that a step starts: ended with it, and never a second worker."""

import ctypes
import gc
import multiprocessing.process
import os
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from typing import Any

import psutil

_GRACE = 1.0  # seconds between SIGTERM and SIGKILL
_ROUNDS = 3  # as a process may start another one while it is told to stop
_SET_CHILD_SUBREAPER = 36  # prctl(2)
_MAX_NAMES = 5  # of those that are reported

# What `multiprocessing` starts for itself; it starts them again when it needs them.
_server: Any = forkserver._forkserver
_tracker: Any = resource_tracker._resource_tracker
_main_process = multiprocessing.process.current_process()  # of the worker's parent process
_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Become the parent of the descendants whose parents end, instead of init (Linux)."""
    with suppress(AttributeError):
        _libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def allow_multiprocessing() -> None:
    """In a child of the pool: `multiprocessing` takes this process for one that may have children.

    `billiard` has put its own object there, which is a daemon and cannot be pickled for `spawn`.
    """
    multiprocessing.process._current_process = _main_process  # type: ignore[attr-defined]


@contextmanager
def one_process() -> Iterator[None]:
    """End a copy of this process that was forked in the block and comes out of it."""
    pid = os.getpid()
    status = 1
    try:
        yield
        status = 0
    finally:
        if os.getpid() != pid:
            os._exit(status)


def end_descendants() -> str:
    """End what this process started and did not wait for; returns the names, or an empty text."""
    names: list[str] = []
    for _ in range(_ROUNDS):
        if not _has_children():
            break
        gc.collect()  # what `multiprocessing` still has to unregister would start its helpers again
        helpers = {_server._forkserver_pid, _tracker._pid}
        descendants = psutil.Process().children(recursive=True)
        names += end_processes([each for each in descendants if each.pid not in helpers])
        for helper in (_server, _tracker):  # they end when nobody has their pipes
            with suppress(Exception):
                helper._stop()
    subprocess._cleanup()  # type: ignore[attr-defined]
    multiprocessing.process._children.clear()  # type: ignore[attr-defined]
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


def end_session(number: int, marks: Mapping[str, str], grace: float) -> None:
    """End what is below this process in a session, or has left it and has these variables."""
    for _ in range(_ROUNDS):
        if not _has_children():
            return
        below = psutil.Process().children(recursive=True)
        rest = [each for each in below if _session_of(each) == number or _has(each, marks)]
        if not rest:
            return
        end_processes(rest, grace)


def end_processes(processes: Collection[psutil.Process], grace: float = _GRACE) -> list[str]:
    """Terminate these processes, kill those that do not obey, and reap them; returns the names."""
    names = []
    for each in processes:
        with suppress(psutil.Error):
            if each.status() != psutil.STATUS_ZOMBIE:
                names.append(f"{each.name()} ({each.pid})")
                each.terminate()
                each.resume()
    for each in _alive_after(grace, processes):
        with suppress(psutil.Error):
            each.kill()
    _alive_after(_GRACE, processes)
    return names


def _alive_after(seconds: float, processes: Collection[psutil.Process]) -> list[psutil.Process]:
    """Those that still run after so many seconds; returns as soon as there are none."""
    until = time.monotonic() + seconds
    while (alive := [each for each in processes if not _has_ended(each)]) and (
        time.monotonic() < until
    ):
        time.sleep(0.01)
    return alive


def _has_ended(process: psutil.Process) -> bool:
    """Whether it has ended; reaps it if it is a child of this process, and no other one."""
    try:
        if process.status() != psutil.STATUS_ZOMBIE:
            return False
    except psutil.Error:
        return True
    with suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    return True


def _session_of(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except OSError:
        return 0


def _has(process: psutil.Process, marks: Mapping[str, str]) -> bool:
    try:
        return all(marks.values()) and marks.items() <= process.environ().items()
    except (psutil.Error, OSError):
        return False


def _has_children() -> bool:
    """Whether there is any child, running or not waited for; one system call."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
