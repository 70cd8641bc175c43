"""Reads a file of the artifact store in a process of its own.

fsspec reaches S3 and its like through asyncio in a thread. Where gevent has replaced threads, as in
the API, that cannot work; a child process does not know of gevent, and its pipe can be waited for.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.errors import NotFound, Unavailable

_PIECE = 256 * 1024  # bytes read at once
GONE, THERE = "gone", "there"  # the child's first word


class SubprocessReader:
    """A file that a child process has open."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child

    def pieces(self, start: int, length: int) -> Iterator[bytes]:
        """So many bytes from a place on. Raises Unavailable when the child cannot read them."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{start} {length}\n".encode())
        self._child.stdin.close()
        while piece := self._child.stdout.read(_PIECE):
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
            told = child.stdout.readline().decode().strip()
            if told == GONE:
                raise NotFound("the bytes of this artifact are gone")
            if told != THERE:
                raise Unavailable(f"the artifact store does not answer: {told}")
            yield SubprocessReader(child)
        finally:
            child.kill()
