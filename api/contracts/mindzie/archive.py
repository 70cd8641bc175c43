"""Stream files as a zip archive."""

import io
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

from api.toolkit import downloads
from orchestrator.models import Artifact


def zip_chunks(files: Sequence[Artifact]) -> Iterator[bytes]:
    """The bytes of a zip archive, produced while they are sent."""
    buffer, names = _Buffer(), set[str]()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in files:
            # A file whose name is taken goes into a folder named after its step.
            name = f"{file.step}/{file.name}" if file.name in names else file.name
            names.add(file.name)
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
