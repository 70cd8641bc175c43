"""Free ports, directory locks, and stopping processes."""

import ctypes
import errno
import fcntl
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from config.folders import data_folder, open_private
from orchestrator.errors import Unavailable

STOP_SECONDS = 15  # from SIGTERM to SIGKILL; a worker has the grace of its steps, too


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Lock the directory for the block. Raises Unavailable if it is of no use, or locked."""
    try:
        data_folder(directory)
        lock = open_private(directory / "lock")
    except OSError as error:
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "not a folder" if is_file else error.strerror
        raise Unavailable(
            f"{directory} cannot keep the data: {reason}; choose another folder with --data-dir"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Unavailable(
                f"another `orchestrator up` owns {directory}; stop it, or choose another --data-dir"
            ) from None
        yield


@contextmanager
def plain_path(directory: Path) -> Iterator[Path]:
    """The directory, or a link to it if its path has a character that a program misreads.

    pg_ctl passes paths to a shell, and supervisord reads `%`, ` ;` and ` #` in its configuration.
    """
    if re.fullmatch(r"[A-Za-z0-9_./-]+", str(directory)):
        yield directory
        return
    with TemporaryDirectory(prefix="orchestrator-") as folder:
        link = Path(folder) / "data"
        link.symlink_to(directory)
        yield link


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_error(port: int) -> str | None:
    """Why the port of loopback cannot be used; None: it is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return "taken" if error.errno == errno.EADDRINUSE else error.strerror
        return None


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
