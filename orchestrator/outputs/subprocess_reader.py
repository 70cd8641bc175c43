"""Read a file of the artifact store in a child process.

fsspec reaches S3 and its like through asyncio in a thread. Where gevent has replaced threads, as in
the API, that cannot work. A child process is not patched, and gevent can wait for its pipe.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.errors import NotFound, Unavailable

_CHUNK = 256 * 1024  # bytes per read
GONE, THERE = "gone", "there"  # the first line of the child's output


class SubprocessReader:
    """A file that is open in a child process."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child

    def pieces(self, start: int, length: int) -> Iterator[bytes]:
        """Yield `length` bytes from `start`. Raises Unavailable when the child cannot read."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{start} {length}\n".encode())
        self._child.stdin.close()
        while piece := self._child.stdout.read(_CHUNK):
            yield piece
        if self._child.wait():
            raise Unavailable("the artifact store stopped answering")


@contextmanager
def open_in_subprocess(url: str, address: str) -> Iterator[SubprocessReader]:
    """Open a file of the store at a URL. Raises NotFound and Unavailable."""
    command = [sys.executable, "-m", "orchestrator.outputs.storage", url, address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            status = child.stdout.readline().decode().strip()
            if status == GONE:
                raise NotFound("the bytes of this artifact are gone")
            if status != THERE:
                raise Unavailable(f"the artifact store does not answer: {status}")
            yield SubprocessReader(child)
        finally:
            child.kill()
