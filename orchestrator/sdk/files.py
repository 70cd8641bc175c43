"""What a handler wants to save: checked before a byte of it is read, and read in pieces."""

import mimetypes
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from orchestrator.json_values import find_unstorable

KINDS = ("report", "data", "model", "visualization")
RESULT = "result"  # the kind of a step's result that is too large for its row
RESULT_NAME = "result.json"  # and the name of its file
CHUNK_SIZE = 1024 * 1024  # bytes read at once

Content = bytes | bytearray | memoryview | str | os.PathLike[str] | IO[bytes] | Iterable[bytes]

_LONGEST_NAME = 200  # bytes, which every file system takes
_LONGEST_TITLE = 500
_LARGEST_EXTRA = 16 * 1024  # characters
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,60}/[a-z0-9][a-z0-9!#$&^_.+-]{0,90}")
_TYPES = mimetypes.MimeTypes()  # without the tables of the machine: the same type everywhere
_PACKED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


@dataclass(frozen=True, kw_only=True)
class FileSpec:
    """A file that is to be saved. Raises ValueError for what cannot be kept."""

    name: str
    kind: str = "data"
    title: str = ""
    primary: bool = False
    records: int | None = None
    media_type: str = ""  # empty: guessed by the name
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_text("title", self.title)
        if self.kind not in (*KINDS, RESULT):
            raise ValueError(f"kind {self.kind!r}: one of {', '.join(KINDS)}")
        if self.name == RESULT_NAME and self.kind != RESULT:
            raise ValueError(f"the name {RESULT_NAME!r} is kept for a step's own result")
        if self.records is not None and not 0 <= self.records < 2**63:
            raise ValueError("records: a number from 0 on")
        if self.media_type and not _MEDIA_TYPE.fullmatch(self.media_type.lower()):
            raise ValueError(f"media_type {self.media_type!r}: must look like text/csv")
        if mistake := find_unstorable(dict(self.extra)):
            raise ValueError(f"{mistake.pointer}: {mistake.detail}")
        if len(repr(self.extra)) > _LARGEST_EXTRA:
            raise ValueError(f"more is said of {self.name!r} than {_LARGEST_EXTRA:,} characters")

    @property
    def shown_type(self) -> str:
        """The media type that a reader is told."""
        return self.media_type.lower() or guess_media_type(self.name)

    @property
    def shown_title(self) -> str:
        """The title, which is the name unless another one was given."""
        return self.title or self.name


@dataclass(frozen=True, kw_only=True)
class SavedFile:
    """A file that was saved."""

    name: str
    size: int  # bytes
    sha256: str
    id: str = ""  # of the artifact; empty where nothing stores it


def guess_media_type(name: str) -> str:
    """The media type that a file's name suggests."""
    guessed, packed = _TYPES.guess_type(name)
    return (
        _PACKED.get(packed or "", "application/octet-stream") if packed or not guessed else guessed
    )


def content_size(content: Content) -> int | None:
    """How many bytes it is, if that can be known before it is read."""
    if isinstance(content, str):
        return len(content.encode(errors="replace"))
    if isinstance(content, bytes | bytearray | memoryview):
        return len(memoryview(content).cast("B"))
    return Path(content).stat().st_size if isinstance(content, os.PathLike) else None


def chunks(content: Content) -> Iterator[bytes]:
    """The bytes, never many at once. Raises TypeError for what holds no bytes."""
    if isinstance(content, str):
        content = content.encode(errors="replace")
    if isinstance(content, bytes | bytearray | memoryview):
        view = memoryview(content).cast("B")
        yield from (bytes(view[at : at + CHUNK_SIZE]) for at in range(0, len(view), CHUNK_SIZE))
    elif isinstance(content, os.PathLike):
        with Path(content).open("rb") as file:
            yield from _read(file)
    elif hasattr(content, "read"):
        yield from _read(content)
    else:
        for piece in content:
            yield from chunks(_bytes(piece))


def _read(file: Any) -> Iterator[bytes]:
    while piece := file.read(CHUNK_SIZE):
        yield _bytes(piece)


def _bytes(piece: Any) -> bytes:
    if isinstance(piece, bytes | bytearray | memoryview):
        return bytes(piece)
    raise TypeError(f"a file is made of bytes, not of {type(piece).__name__}")


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name.strip():
        raise ValueError("a file needs a name")
    _check_text("name", name)
    if "/" in name or "\\" in name or name in (".", "..") or not name.isprintable():
        raise ValueError(f"{name!r} is no name of a file: no folders, no control characters")
    if len(name.encode()) > _LONGEST_NAME:
        raise ValueError(f"a file's name has at most {_LONGEST_NAME} bytes")


def _check_text(what: str, text: Any) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{what}: a text")
    if mistake := find_unstorable(text):
        raise ValueError(f"{what}: {mistake.detail}")
    if len(text) > _LONGEST_TITLE:
        raise ValueError(f"{what}: at most {_LONGEST_TITLE} characters")
