"""CPU time, memory and disk I/O of an attempt."""

import os
import resource
import sys
from contextlib import suppress
from threading import current_thread, main_thread
from typing import Any, NamedTuple

import psutil

# getrusage() gives resident memory in KiB, on macOS in bytes.
_MEMORY_UNIT = 1 if sys.platform == "darwin" else 1024


class _Counters(NamedTuple):
    cpu: float  # seconds
    read: int | None  # bytes from storage; None without /proc
    written: int | None
    operations: int | None  # read and write system calls


class ResourceMeter:
    """Measures from its creation on the process or thread that executes the handler.

    In a child of a prefork pool that is the process, with the programs that it has waited for; in
    a thread, that thread, whose peak of memory is the process's: the system keeps no other.
    """

    def __init__(self) -> None:
        self._is_process = current_thread() is main_thread()
        if self._is_process:
            _reset_peak()
        self._program_peak = peak_memory(resource.RUSAGE_CHILDREN)
        self._before = _counters(self._is_process)

    def read(self) -> dict[str, Any]:
        """The usage since creation; without I/O counters where there is no /proc."""
        before, now = self._before, _counters(self._is_process)
        peak, program_peak = (
            peak_memory(),
            peak_memory(resource.RUSAGE_CHILDREN),
        )
        if program_peak > self._program_peak:  # the largest program was one of this attempt
            peak = max(peak, program_peak)
        used = {"cpu_seconds": round(now.cpu - before.cpu, 6), "peak_memory_bytes": peak}
        if now.read is None or before.read is None:
            return used
        return {
            **used,
            "read_bytes": max(0, now.read - before.read),
            "write_bytes": max(0, (now.written or 0) - (before.written or 0)),
            "io_operations": max(0, (now.operations or 0) - (before.operations or 0)),
        }


class ChildMeter:
    """Measures a child from its parent, while it executes a handler: the programs that it waits for
    count once they have ended.
    """

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._peak = 0
        self._before = self._read()

    def read(self) -> dict[str, Any]:
        """The usage since creation. Raises psutil.Error for a child that is gone."""
        now = self._read()
        self._peak = max(self._peak, self._process.memory_info().rss)
        used: dict[str, float] = {"peak_memory_bytes": self._peak}
        for name, value in now.items():
            used[name] = max(0, round(value - self._before.get(name, 0), 6))
        return used

    def _read(self) -> dict[str, float]:
        counters = {"cpu_seconds": sum(self._process.cpu_times()[:4])}
        with suppress(AttributeError, psutil.AccessDenied):  # not with every system
            disk = self._process.io_counters()
            counters["read_bytes"], counters["write_bytes"] = disk.read_bytes, disk.write_bytes
            counters["io_operations"] = disk.read_count + disk.write_count
        return counters


def peak_memory(who: int = resource.RUSAGE_SELF) -> int:
    """The largest resident memory in bytes, of this process or of a program that it waited for."""
    return resource.getrusage(who).ru_maxrss * _MEMORY_UNIT


def _reset_peak() -> None:
    """Measure the peak from now on (proc(5), clear_refs; Linux)."""
    with suppress(OSError):
        file = os.open("/proc/self/clear_refs", os.O_WRONLY)
        try:
            os.write(file, b"5")
        finally:
            os.close(file)


def _counters(is_process: bool) -> _Counters:
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN) if is_process else (_THREAD,)
    used = [resource.getrusage(each) for each in who]
    cpu = sum(each.ru_utime + each.ru_stime for each in used)
    return _Counters(cpu, *_disk("self" if is_process else "thread-self"))


def _disk(who: str) -> tuple[int | None, int | None, int | None]:
    # Not psutil: it counts no threads, and a no-op step takes only 2 ms.
    try:
        file = os.open(f"/proc/{who}/io", os.O_RDONLY)
        try:
            lines = os.read(file, 1024).split()
        finally:
            os.close(file)
    except OSError:
        return None, None, None
    counters = dict(zip(lines[::2], lines[1::2], strict=False))
    operations = int(counters[b"syscr:"]) + int(counters[b"syscw:"])
    return int(counters[b"read_bytes:"]), int(counters[b"write_bytes:"]), operations


_THREAD = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
