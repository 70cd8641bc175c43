"""Stream files as a zip archive."""

import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from api.toolkit import downloads
from orchestrator.models import Artifact


def zip_chunks(files: Sequence[Artifact]) -> Iterator[bytes]:
    """The bytes of a zip archive, produced while they are sent."""
    buffer = _Buffer()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, file in zip(_names(files), files, strict=True):
            with archive.open(name, "w", force_zip64=True) as entry:
                for chunk in downloads.artifact_chunks(file):
                    entry.write(chunk)
                    yield buffer.drain()
    yield buffer.drain()


class _Buffer(io.RawIOBase):
    """A file to write to; `drain` removes and returns what was written."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def write(self, chunk: Any) -> int:
        self._bytes += chunk
        return len(chunk)

    def drain(self) -> bytes:
        chunk, self._bytes = bytes(self._bytes), bytearray()
        return chunk


def _names(files: Iterable[Artifact]) -> Iterator[str]:
    """Unique names: a name that is taken goes into a folder named after its step."""
    seen: set[str] = set()
    for file in files:
        yield f"{file.step}/{file.name}" if file.name in seen else file.name
        seen.add(file.name)
