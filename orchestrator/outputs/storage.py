"""The artifact store: a folder, or anything that fsspec reaches by a URL.

Addresses are generated, never taken from user input. The row is written after the upload, so a
crash can leave a file without a row, but no row without its file.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from config.folders import PRIVATE_FILE, private_folder
from config.settings import Settings
from orchestrator.errors import NotFound, OrchestratorError, Unavailable

_CHUNK = 256 * 1024  # bytes per read
_GONE = "the bytes of this artifact are gone"
_THERE = "there"  # the first line of a child process that can read a file


class ArtifactTooLarge(Exception):
    """The file has more bytes than the limit."""


class OpenedArtifact(NamedTuple):
    """A file: `pieces(start, length)` yields its bytes, fewer only at the end of the file."""

    pieces: Callable[[int, int], Iterator[bytes]]


@dataclass(frozen=True)
class StoredArtifact:
    """Size and hash of a written file."""

    size: int  # bytes
    sha256: str


class ArtifactStore:
    """Files under one root of an fsspec filesystem."""

    def __init__(self, filesystem: Any, url: str, root: str) -> None:
        from fsspec.implementations.local import LocalFileSystem

        self._files, self._url, self._root = filesystem, url, root.rstrip("/")
        self._is_local = isinstance(filesystem, LocalFileSystem)

    def write(self, address: str, pieces: Iterable[bytes], limit: int) -> StoredArtifact:
        """Write a file, or remove it on any error. Raises ArtifactTooLarge and Unavailable."""
        if self._files.async_impl and _threads_are_greenlets():
            return write_in_subprocess(self._url, address, b"".join(pieces), limit)
        path = self._path(address)
        try:
            with _unavailable_on_error():
                file = self._open_new(path)
            try:
                stored = self._copy(pieces, file, limit)
            except BaseException:
                with suppress(Exception):
                    # Closing would create the object in an object store; `discard` does not.
                    (file.close if self._is_local else file.discard)()
                raise
            with _unavailable_on_error():
                file.close()
        except BaseException:  # also a StepSignal
            self.remove(address)
            raise
        return stored

    def open(self, address: str) -> AbstractContextManager[OpenedArtifact]:
        """Open a file. Raises NotFound when it is gone, Unavailable when the store fails."""
        if self._files.async_impl and _threads_are_greenlets():
            return open_in_subprocess(self._url, address)
        path = self._path(address)
        with _unavailable_on_error():
            try:
                file = self._files.open(path, "rb", block_size=_CHUNK)
            except FileNotFoundError:
                raise NotFound(_GONE) from None
        return _opened(file)

    def read(self, address: str) -> bytes:
        """Read a whole file. Raises NotFound and Unavailable."""
        with self.open(address) as file, _unavailable_on_error():
            return b"".join(file.pieces(0, 2**63))

    def remove(self, address: str) -> None:
        """Remove a file if it exists; errors are ignored, and leave an orphaned file."""
        with suppress(Exception):
            self._files.rm_file(self._path(address))

    def _open_new(self, path: str) -> Any:
        """Open a file for writing; a local one and its folders are for their owner only."""
        if not self._is_local:
            return self._files.open(path, "wb")
        root = Path(self._root)
        for folder in reversed(Path(path).relative_to(root).parents):
            private_folder(root / folder)
        file = self._files.open(path, "wb")
        os.fchmod(file.fileno(), PRIVATE_FILE)
        return file

    def _path(self, address: str) -> str:
        return f"{self._root}/{address}"

    def _copy(self, pieces: Iterable[bytes], file: Any, limit: int) -> StoredArtifact:
        size, digest = 0, hashlib.sha256()
        for piece in pieces:
            size += len(piece)
            if size > limit:
                raise ArtifactTooLarge(f"a file of more than {limit:,} bytes is not kept")
            digest.update(piece)
            with _unavailable_on_error():
                file.write(piece)
        if self._is_local:
            with _unavailable_on_error():
                file.flush()
                os.fsync(file.fileno())
        return StoredArtifact(size, digest.hexdigest())


def store_of(settings: Settings) -> ArtifactStore:
    """The artifact store of this deployment."""
    return open_store(settings.artifacts or str(settings.data_dir.resolve() / "artifacts"))


@cache
def open_store(url: str) -> ArtifactStore:
    """The store at a URL or in a folder. Raises Unavailable for an unsupported URL."""
    import fsspec

    options = {"auto_mkdir": True} if "://" not in url or url.startswith("file:") else {}
    try:
        filesystem, root = fsspec.core.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise Unavailable(f"the artifact store cannot be used: {error}") from error
    return ArtifactStore(filesystem, url, root)


@contextmanager
def open_in_subprocess(url: str, address: str) -> Iterator[OpenedArtifact]:
    """Open a file of the store at a URL in a child process. Raises NotFound and Unavailable.

    fsspec reaches S3 and its like through asyncio in a thread. Where gevent has replaced threads,
    as in the API, that cannot work. A child is not patched, and gevent can wait for its pipe.
    """
    command = [sys.executable, "-m", "orchestrator.outputs.storage", url, address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        stdin, stdout = child.stdin, child.stdout
        assert stdin is not None
        assert stdout is not None

        def pieces(start: int, length: int) -> Iterator[bytes]:
            stdin.write(f"{start} {length}\n".encode())
            stdin.close()
            while piece := stdout.read(_CHUNK):
                yield piece
            if child.wait():
                raise Unavailable("the artifact store stopped answering")

        try:
            status = stdout.readline().decode().strip()
            if status == _GONE:
                raise NotFound(_GONE)
            if status != _THERE:
                raise Unavailable(f"the artifact store does not answer: {status}")
            yield OpenedArtifact(pieces)
        finally:
            child.kill()


def write_in_subprocess(url: str, address: str, content: bytes, limit: int) -> StoredArtifact:
    """Write a file of the store at a URL in a child process. Raises as `ArtifactStore.write`."""
    if len(content) > limit:
        raise ArtifactTooLarge(f"a file of more than {limit:,} bytes is not kept")
    command = [sys.executable, "-m", "orchestrator.outputs.storage", url, address, "write"]
    child = subprocess.run(command, input=content, stdout=subprocess.PIPE, check=False)
    if child.returncode:
        raise Unavailable(f"the artifact store does not answer: {child.stdout.decode().strip()}")
    return StoredArtifact(len(content), hashlib.sha256(content).hexdigest())


@contextmanager
def _opened(file: Any) -> Iterator[OpenedArtifact]:
    def pieces(start: int, length: int) -> Iterator[bytes]:
        file.seek(start)
        while length > 0 and (piece := file.read(min(_CHUNK, length))):
            length -= len(piece)
            yield piece

    with file:
        yield OpenedArtifact(pieces)


@contextmanager
def _unavailable_on_error() -> Iterator[None]:
    """Turn any error of the filesystem into Unavailable."""
    try:
        yield
    except OrchestratorError:
        raise
    except Exception as error:  # each fsspec backend raises its own types
        raise Unavailable(f"the artifact store does not answer: {error}") from error


def _threads_are_greenlets() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def main(url: str, address: str, task: str = "read") -> None:
    """The child process: write a status line, then the bytes that are requested on stdin.

    With the task `write` it writes the bytes on stdin to the store.
    """
    out = sys.stdout.buffer
    try:
        if task == "write":
            open_store(url).write(address, [sys.stdin.buffer.read()], sys.maxsize)
            return
        with open_store(url).open(address) as file:
            out.write(f"{_THERE}\n".encode())
            out.flush()
            start, length = map(int, sys.stdin.readline().split())
            for piece in file.pieces(start, length):
                out.write(piece)
    except NotFound:
        out.write(f"{_GONE}\n".encode())
    except Unavailable as error:
        out.write(f"{error}\n".encode())
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
