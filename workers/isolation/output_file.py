"""The file that takes what a child process prints and logs.

File descriptors 1 and 2 of the child are this file, so the output of Python, of C code and of the
programs that a step starts is in it in order. It outlives its writers: when a child has died, the
worker's parent process reads the rest from it.

Python's streams and `logging` write frames, which have a level and a time. Bytes outside of frames
were written to a descriptor directly; their lines have level INFO and the time of their reading.

    frame = magic, kind and level, time, length, payload
"""

import ctypes
import fcntl
import json
import logging
import os
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from orchestrator.sdk.masking import NO_MASK, Mask
from orchestrator.sdk.recorder import Recorder
from orchestrator.sdk.reports import AttemptRef
from workers.isolation import sealing
from workers.isolation.lines import LineAssembler

_MAGIC = b"\x00\x1e\x02\x1f"
_HEADER = struct.Struct("<4sBQI")
_ENTRY = 0x80  # flag of the level: the payload is one entry, not a part of a stream
_MAX_PAYLOAD = 64 * 1024  # bytes of a frame
_CHUNK = 1024 * 1024  # bytes read at once
_FREE_FROM = 8 * 1024 * 1024  # bytes that were read and may be freed
_MIN_DESCRIPTOR = 100  # of our own descriptors: user code closes the low ones
_PUNCH_HOLE = 0x01 | 0x02  # fallocate(2): FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE

_libc = ctypes.CDLL(None, use_errno=True)


class Piece(NamedTuple):
    """A line of a stream, or one entry of the log."""

    level: int
    text: str
    time_ns: int | None = None  # None: not known


class OutputReader:
    """Reads the pieces of a file from an offset on."""

    def __init__(
        self,
        descriptor: int,
        offset: int = 0,
        incomplete: Mapping[str, str] | None = None,
        mask: Mask = NO_MASK,
    ) -> None:
        """Read from an offset on, with the `incomplete` lines before it.

        No line is cut within a value of the mask; what hides the values is the recorder.
        """
        self.offset = offset  # of the first byte that was not read
        self.descriptor = descriptor
        lines = {int(level): line.encode("latin-1") for level, line in (incomplete or {}).items()}
        self._lines = LineAssembler(lines)
        self._lines.mask = mask

    def hide(self, mask: Mask) -> None:
        """Cut no line within a value of the mask from now on."""
        self._lines.mask = mask

    @property
    def incomplete(self) -> dict[str, str]:
        """The lines whose ends were not read, by level; their bytes as Latin-1, for JSON."""
        lines = self._lines.incomplete
        return {str(level): line.decode("latin-1") for level, line in lines.items()}

    def read(self, until: int) -> Iterator[Piece]:
        """The pieces that are complete up to this offset."""
        while self.offset < until:
            data = os.pread(self.descriptor, min(_CHUNK, until - self.offset), self.offset)
            pieces, length = self._parse(data, is_last=self.offset + len(data) >= until)
            if not length:
                return
            self.offset += length
            yield from pieces

    def rest(self) -> Iterator[Piece]:
        """The lines without an end, when nothing more is written."""
        for level, text in self._lines.end():
            yield Piece(level, text)

    def read_into(self, recorder: Recorder, *, last: bool) -> None:
        """Pass what is there to the recorder; with `last` also the lines without an end."""
        pieces = self.read(os.fstat(self.descriptor).st_size)
        for piece in chain(pieces, self.rest() if last else ()):
            recorder.log(piece.level, piece.text, piece.time_ns)

    def _parse(self, data: bytes, *, is_last: bool) -> tuple[list[Piece], int]:
        """The pieces of the data, and the number of bytes that they take."""
        pieces: list[Piece] = []
        position = 0
        while position < len(data):
            start = data.find(_MAGIC, position)
            if start == position:
                end = self._frame(data, position, pieces)
            elif start > 0:
                end = self._add(pieces, data[position:start], start)
            elif is_last:
                end = self._add(pieces, data[position:], len(data))
            else:  # a frame may begin in the last bytes
                end = max(position, len(data) - len(_MAGIC) + 1)
                self._add(pieces, data[position:end], end)
            if end == position:
                break
            position = end
        return pieces, position

    def _frame(self, data: bytes, position: int, pieces: list[Piece]) -> int:
        """Add the frame at the position; returns its end, or the position if it is incomplete."""
        payload = position + _HEADER.size
        if payload > len(data):
            return position
        kind: int
        length: int
        _, kind, time_ns, length = _HEADER.unpack_from(data, position)
        if length > _MAX_PAYLOAD:  # no frame of ours
            end = position + len(_MAGIC)
            return self._add(pieces, data[position:end], end)
        if payload + length > len(data):
            return position
        text = data[payload : payload + length]
        if kind & _ENTRY:
            pieces.append(Piece(kind & ~_ENTRY, text.decode("utf-8", "replace"), time_ns))
        else:
            lines = self._lines.add(kind, text)
            pieces += [Piece(kind, line, time_ns) for line in lines]
        return payload + length

    def _add(self, pieces: list[Piece], data: bytes, end: int) -> int:
        pieces += [Piece(logging.INFO, line) for line in self._lines.add(logging.INFO, data)]
        return end


@dataclass(frozen=True)
class Position:
    """How far the output of an attempt is in Postgres: there a parent goes on reading."""

    task_id: str  # empty when the attempt has ended
    source: str  # the attempt, as `ref_from_text` reads it
    offset: int  # in the file
    counts: tuple[int, int] = (0, 0)  # `line_counts` of its recorder
    incomplete: Mapping[str, str] = field(default_factory=dict)  # of its reader
    hidden: str = ""  # the sealed values of its mask


class OutputFile:
    """The file of this process, in the folder of its worker."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{os.getpid()}.out"
        self.descriptor, self._state = self._open()
        self._stats = os.fstat(self.descriptor), os.fstat(self._state)
        os.ftruncate(self.descriptor, 0)  # of a child that had this process id
        self._reader = OutputReader(self.descriptor)
        self._task_id = ""
        self._source = ""
        self._hidden = ""
        self._freed = 0  # up to this offset

    @property
    def has_news(self) -> bool:
        """Whether something was written that is not read."""
        return os.fstat(self.descriptor).st_size > self._reader.offset

    def redirect(self) -> None:
        """Make it the target of the descriptors 1 and 2; a step may have closed any descriptor."""
        if not all(map(is_file, (self.descriptor, self._state), self._stats)):
            self.descriptor, self._state = self._open()
            self._reader.descriptor = self.descriptor
        for number in (1, 2):
            if not is_file(number, self._stats[0]):
                os.dup2(self.descriptor, number)

    def write(self, level: int, data: bytes) -> None:
        """Append a part of a stream."""
        for at in range(0, len(data), _MAX_PAYLOAD):
            self._append(level, data[at : at + _MAX_PAYLOAD])

    def write_entry(self, level: int, text: str) -> None:
        """Append one entry of the log."""
        self._append(level | _ENTRY, text.encode("utf-8", "replace")[:_MAX_PAYLOAD])

    def begin(self, task_id: str, source: AttemptRef) -> None:
        """What is written from now on is the output of this attempt."""
        self._task_id, self._source, self._hidden = task_id, _to_text(source), ""
        self._reader = OutputReader(self.descriptor, os.fstat(self.descriptor).st_size)
        self._save(Position(task_id, self._source, self._reader.offset))

    def hide(self, mask: Mask) -> None:
        """The output of the present attempt is masked, also by the parent."""
        self._reader.hide(mask)
        self._hidden = sealing.seal(mask.values)
        self._save(Position(self._task_id, self._source, self._reader.offset, hidden=self._hidden))

    def read_into(self, recorder: Recorder, *, last: bool = False) -> None:
        """Pass what was written since the last call to the recorder."""
        self._reader.read_into(recorder, last=last)

    def save_position(self, recorder: Recorder) -> None:
        """All lines of the recorder are in Postgres: the parent need not read them again."""
        offset, incomplete = self._reader.offset, self._reader.incomplete
        counts, hidden = recorder.line_counts, self._hidden
        self._save(Position(self._task_id, self._source, offset, counts, incomplete, hidden))
        self._free(offset)

    def end(self) -> None:
        """The attempt has ended: what is written from now on belongs to no attempt."""
        self._task_id = ""
        self._save(Position("", self._source, self._reader.offset, hidden=self._hidden))
        self._free(self._reader.offset, at_least=0 if self._hidden else _FREE_FROM)

    def late_lines(self) -> Iterator[Piece]:
        """What was written since the last attempt ended."""
        yield from self._reader.read(os.fstat(self.descriptor).st_size)
        yield from self._reader.rest()

    def _open(self) -> tuple[int, int]:
        return _open(self._path, os.O_APPEND), _open(self._path.with_suffix(".state"))

    def _append(self, kind: int, payload: bytes) -> None:
        header = _HEADER.pack(_MAGIC, kind, time.time_ns(), len(payload))
        os.write(self.descriptor, header + payload)

    def _save(self, position: Position) -> None:
        os.pwrite(self._state, json.dumps(vars(position)).encode() + b"\n", 0)

    def _free(self, offset: int, at_least: int = _FREE_FROM) -> None:
        """Give the blocks of what was read back to the file system, if it can do that.

        Their bytes are gone then, also those of a value that is hidden elsewhere.
        """
        length = offset - self._freed
        if length > at_least:
            first, size = ctypes.c_int64(self._freed), ctypes.c_int64(length)
            _libc.fallocate(self.descriptor, _PUNCH_HOLE, first, size)
            self._freed = offset


def _to_text(ref: AttemptRef) -> str:
    ids = f"{ref.tenant_id} {ref.run_id} {ref.step_id}"
    return f"{ids} {ref.attempt} {ref.started_at.isoformat()} {ref.step}"


def ref_from_text(text: str) -> AttemptRef:
    """The attempt of a position."""
    tenant_id, run_id, step_id, attempt, started_at, step = text.split(" ", 5)
    return AttemptRef(
        tenant_id=UUID(tenant_id),
        run_id=UUID(run_id),
        step_id=UUID(step_id),
        attempt=int(attempt),
        started_at=datetime.fromisoformat(started_at),
        step=step,
    )


def duplicate_high(number: int) -> int:
    """A second descriptor of a file, with a high number, that programs do not inherit."""
    return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _MIN_DESCRIPTOR)


def is_file(number: int, stat: os.stat_result) -> bool:
    """Whether a descriptor is open, and of this file."""
    try:
        return os.path.samestat(os.fstat(number), stat)
    except OSError:
        return False


def _open(path: Path, flags: int = 0) -> int:
    low = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o600)
    try:
        return duplicate_high(low)
    finally:
        os.close(low)
