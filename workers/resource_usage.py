"""What an attempt takes of the machine: processor, memory, disk."""

import os
import resource
import sys
from threading import current_thread, main_thread
from typing import Any, NamedTuple

# The kernel counts resident memory in KiB, on a Mac in bytes.
_MEMORY_UNIT = 1 if sys.platform == "darwin" else 1024


class _Counters(NamedTuple):
    cpu: float  # seconds
    read: int | None  # bytes from storage; None where the system does not say
    written: int | None
    operations: int | None  # calls that read or wrote anything


class ResourceMeter:
    """Counts from its making on, for the thread or process that a handler has for itself.

    In a child of a prefork pool that is the process, with the programs that it has waited for; in
    a thread, that thread. Peak memory is always the process's, and since the process began: the
    system keeps no other.
    """

    def __init__(self) -> None:
        self._whole = current_thread() is main_thread()
        self._before = _counters(self._whole)

    def read(self) -> dict[str, Any]:
        """What was taken so far."""
        before, now = self._before, _counters(self._whole)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MEMORY_UNIT
        used = {"cpu_seconds": round(now.cpu - before.cpu, 6), "peak_memory_bytes": peak}
        if now.read is None or before.read is None:
            return used
        return {
            **used,
            "read_bytes": max(0, now.read - before.read),
            "write_bytes": max(0, (now.written or 0) - (before.written or 0)),
            "io_operations": max(0, (now.operations or 0) - (before.operations or 0)),
        }


def _counters(whole: bool) -> _Counters:
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN) if whole else (_THREAD,)
    used = [resource.getrusage(each) for each in who]
    cpu = sum(each.ru_utime + each.ru_stime for each in used)
    return _Counters(cpu, *_disk("self" if whole else "thread-self"))


def _disk(who: str) -> tuple[int | None, int | None, int | None]:
    # Read by hand: a step that does nothing takes 2 ms, and psutil counts no threads.
    try:
        file = os.open(f"/proc/{who}/io", os.O_RDONLY)
        try:
            lines = os.read(file, 1024).split()
        finally:
            os.close(file)
    except OSError:
        return None, None, None
    found = dict(zip(lines[::2], lines[1::2], strict=False))
    operations = int(found[b"syscr:"]) + int(found[b"syscw:"])
    return int(found[b"read_bytes:"]), int(found[b"write_bytes:"]), operations


_THREAD = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
