"""Free ports, directory locks, and stopping processes."""

import ctypes
import fcntl
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import Unavailable

STOP_SECONDS = 15  # from SIGTERM to SIGKILL; a worker has the grace of its steps, too


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Lock the directory for the block. Raises Unavailable when another process holds it."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Unavailable(
                f"another `orchestrator up` owns {directory}; stop it, or choose another --data-dir"
            ) from None
        yield


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free_port(port: int) -> bool:
    """Whether the port of loopback is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def stop_process(process: subprocess.Popen[bytes], within: float = STOP_SECONDS) -> None:
    """Stop a process: SIGTERM, then SIGKILL after `within` seconds."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(within)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_with_parent() -> None:
    """For `preexec_fn`: the child gets SIGTERM when its parent dies. Linux only, else a no-op."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 is PR_SET_PDEATHSIG
