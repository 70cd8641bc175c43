"""A folder in which files appear atomically."""

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A delivered file, with its size and checksum."""

    path: Path
    size: int
    sha256: str


def deliver(folder: Path, name: str, content: bytes) -> Delivery:
    """Put a file into the folder atomically; replaces one of the same name."""
    folder.mkdir(parents=True, exist_ok=True)
    # Not matched by *.csv, and unique: a stale attempt may still be writing.
    part = folder / f".{name}.{uuid4().hex}.part"
    try:
        _write_durably(part, content)
        path = part.replace(folder.resolve() / name)
    finally:
        part.unlink(missing_ok=True)
    return Delivery(path=path, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def as_csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    """Return rows as CSV; the same rows give the same bytes on any machine."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
