"""Files that a handler saves: checked before they are read, and read in chunks."""

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
CHUNK_SIZE = 1024 * 1024  # bytes

Content = bytes | bytearray | memoryview | str | os.PathLike[str] | IO[bytes] | Iterable[bytes]

_MAX_NAME = 200  # bytes; file systems allow 255
_MAX_TITLE = 500  # characters
_MAX_EXTRA = 16 * 1024  # characters
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,60}/[a-z0-9][a-z0-9!#$&^_.+-]{0,90}")
_TYPES = mimetypes.MimeTypes()  # without the machine's tables: the same type everywhere
_COMPRESSED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


@dataclass(frozen=True, kw_only=True)
class FileSpec:
    """A file to save. Raises ValueError for an invalid one."""

    name: str
    kind: str = "data"
    title: str = ""
    primary: bool = False
    records: int | None = None
    media_type: str = ""  # empty: guessed from the name
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
        if len(repr(self.extra)) > _MAX_EXTRA:
            raise ValueError(f"extra of {self.name!r}: at most {_MAX_EXTRA:,} characters")

    @property
    def shown_type(self) -> str:
        """The media type: the one set, else guessed from the name."""
        return self.media_type.lower() or guess_media_type(self.name)

    @property
    def shown_title(self) -> str:
        """The title: the one set, else the name."""
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
    media_type, encoding = _TYPES.guess_type(name)
    if media_type and not encoding:
        return media_type
    return _COMPRESSED.get(encoding or "", "application/octet-stream")


def content_size(content: Content) -> int | None:
    """The size in bytes, if it is known without reading."""
    if isinstance(content, str):
        return len(content.encode(errors="replace"))
    if isinstance(content, bytes | bytearray | memoryview):
        return len(memoryview(content).cast("B"))
    return Path(content).stat().st_size if isinstance(content, os.PathLike) else None


def chunks(content: Content) -> Iterator[bytes]:
    """The bytes in chunks. Raises TypeError for anything but bytes."""
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
        for chunk in content:
            yield from chunks(_bytes(chunk))


def _read(file: Any) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_SIZE):
        yield _bytes(chunk)


def _bytes(chunk: Any) -> bytes:
    if isinstance(chunk, bytes | bytearray | memoryview):
        return bytes(chunk)
    raise TypeError(f"a file is made of bytes, not of {type(chunk).__name__}")


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name.strip():
        raise ValueError("a file needs a name")
    _check_text("name", name)
    if "/" in name or "\\" in name or name in (".", "..") or not name.isprintable():
        raise ValueError(f"{name!r} is no name of a file: no folders, no control characters")
    if len(name.encode()) > _MAX_NAME:
        raise ValueError(f"a file's name has at most {_MAX_NAME} bytes")


def _check_text(field: str, text: Any) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{field}: a text")
    if mistake := find_unstorable(text):
        raise ValueError(f"{field}: {mistake.detail}")
    if len(text) > _MAX_TITLE:
        raise ValueError(f"{field}: at most {_MAX_TITLE} characters")
