"""Captures what a handler prints and logs, for the log of its run.

A ContextVar holds the current capture, separately for each thread of a pool. Threads that a handler
starts belong to it, and so do those that they start. Output outside of any handler goes to the
worker's log; that of a handler that has ended, too, with its attempt. It is never the next one's.
"""

import io
import logging
import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import Thread, current_thread
from typing import IO, Any, Protocol

from orchestrator.sdk.masking import Mask
from orchestrator.sdk.recorder import Recorder
from workers.isolation.lines import LineAssembler

_ENCODING, _ERRORS = "utf-8", "replace"
_MAX_LATE_TEXT = 1_000  # characters of a late output in the worker's log

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes the output of one attempt."""

    @property
    def mask(self) -> Mask:
        """What is hidden in the output."""

    def write(self, level: int, data: bytes) -> None:
        """Take a part of a stream."""

    def write_entry(self, level: int, text: str) -> None:
        """Take one entry of the log."""


class MemorySink:
    """Passes the output to the recorder directly."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self._lines = recorder, LineAssembler()

    @property
    def mask(self) -> Mask:
        """What is hidden in the output."""
        return self._recorder.mask

    def hide(self, mask: Mask) -> None:
        """Hide values in what follows."""
        self._lines.mask = mask

    def write(self, level: int, data: bytes) -> None:
        """Record the lines that are complete."""
        for line in self._lines.add(level, data):
            self._recorder.log(level, line)

    def write_entry(self, level: int, text: str) -> None:
        """Record the entry."""
        self._recorder.log(level, text)

    def end(self) -> None:
        """Record the lines without an end."""
        for level, text in self._lines.end():
            self._recorder.log(level, text)


class _Capture:
    """The output of one handler, and the name of its attempt."""

    def __init__(self, sink: Sink, name: str) -> None:
        self.sink, self.name, self.ended = sink, name, False


_DETACHED = object()
_OWNER = "_orchestrator_capture"  # attribute of a thread: its capture, or _DETACHED
_CAPTURED = "_orchestrator_captured"  # attribute of a log record that is in the attempt's log
_thread_start, _emit_to_stream = Thread.start, logging.StreamHandler.emit
_current: ContextVar[Any] = ContextVar("capture", default=None)


@contextmanager
def capture_output(sink: Sink, name: str) -> Iterator[None]:
    """Pass what is logged and printed in the block to the sink; `name` is that of the attempt."""
    capture, thread = _Capture(sink, name), current_thread()
    token = _current.set(capture)
    setattr(thread, _OWNER, capture)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):  # perhaps the handler's own, with a buffer
            with suppress(BaseException):
                stream.flush()
        install_streams()
        setattr(thread, _OWNER, _DETACHED)
        _current.reset(token)
        capture.ended = True


@contextmanager
def detached() -> Iterator[None]:
    """What is logged in the block is for the worker's log: our own code, called by a handler."""
    token = _current.set(_DETACHED)
    try:
        yield
    finally:
        _current.reset(token)


def _end_in_fork() -> None:
    """In a process that a handler forks: what it would keep in memory goes to the worker's log."""
    capture = _active_capture()
    if capture and isinstance(capture.sink, MemorySink):
        capture.ended = True


os.register_at_fork(after_in_child=_end_in_fork)


def detach_thread() -> None:
    """Never capture the output of this thread."""
    _current.set(_DETACHED)


def report_late_output(attempt: str, text: str) -> None:
    """Log what an attempt printed after its end."""
    if text := text.rstrip("\n"):
        extra = {"output_of": attempt, "text": text[:_MAX_LATE_TEXT]}
        with detached():
            _log.warning("output after the end of its attempt", extra=extra)


def install_capture() -> None:
    """Wrap logging, both streams and thread starts of this process. Idempotent."""
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(_original(handler.stream))
        if not isinstance(handler, _Handler):
            handler.addFilter(_is_not_captured)
    if not any(isinstance(handler, _Handler) for handler in root.handlers):
        root.addHandler(_Handler())
    _originals[:] = _original(sys.stdout), _original(sys.stderr)
    install_streams()
    Thread.start = _start_with_owner  # type: ignore[method-assign,assignment]
    logging.StreamHandler.emit = _emit  # type: ignore[method-assign,assignment]


def redirect_originals(stdout: IO[str], stderr: IO[str]) -> None:
    """Send what is printed and logged outside of handlers to these streams."""
    _originals[:] = stdout, stderr
    install_streams()
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(stderr)


def install_streams() -> None:
    """Restore both standard streams, whatever a handler made of them."""
    for at, (name, level) in enumerate((("stdout", logging.INFO), ("stderr", logging.WARNING))):
        known, present = _streams[at], getattr(sys, name)
        if known is None or not known.is_as_new() or known.original is not _originals[at]:
            known = _streams[at] = _Stream(_originals[at], level)
        if present is not known:
            # A thread may be printing to it: `print` holds no reference, and the process crashes.
            _replaced.append(present)
            setattr(sys, name, known)


_originals: list[Any] = [sys.stdout, sys.stderr]  # where output goes outside of handlers
_streams: list["_Stream | None"] = [None, None]
_replaced: deque[Any] = deque(maxlen=100)


class _Handler(logging.Handler):
    """Passes a record to the current capture, unless a stream handler has done it."""

    def emit(self, record: logging.LogRecord) -> None:
        capture = _active_capture()
        if capture is not None and not hasattr(record, _CAPTURED):
            _record(self, record, capture)


def _emit(handler: "logging.StreamHandler[Any]", record: logging.LogRecord) -> None:
    """`StreamHandler.emit`; to a standard stream it writes an entry with the record's level, once.

    So a library that has a handler of its own does not log everything twice.
    """
    capture = _active_capture()
    if capture is None or not _belongs(handler.stream, capture):
        _emit_to_stream(handler, record)
    elif not hasattr(record, _CAPTURED):
        _record(handler, record, capture)


def _belongs(stream: Any, capture: _Capture) -> bool:
    """Whether what is written to a stream, through whatever wrappers, is output of the capture."""
    try:
        if isinstance(stream.buffer, _Router) and stream.buffer.capture not in (None, capture):
            return False  # a wrapper that another handler made
        return stream.fileno() in (1, 2)
    except Exception:  # a stream without a file
        return False


def _record(handler: logging.Handler, record: logging.LogRecord, capture: _Capture) -> None:
    try:
        capture.sink.write_entry(record.levelno, handler.format(record))
        setattr(record, _CAPTURED, True)
    except Exception:  # e.g. arguments that do not fit the format
        handler.handleError(record)


class _Router(io.RawIOBase):
    """Takes the bytes of a stream: those of a handler go to its capture."""

    def __init__(self, original: IO[str], level: int, capture: _Capture | None = None) -> None:
        self.original, self.level, self.capture = original, level, capture

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1 if self.level == logging.INFO else 2

    def isatty(self) -> bool:
        return _active_capture() is None and self.original.isatty()

    def write(self, data: Any, /) -> int:
        data = bytes(data)
        capture = self.capture or _current_capture()
        if capture is None:
            self.original.write(data.decode("utf-8", "replace"))
            self.original.flush()
        elif capture.ended:
            text = data.decode("utf-8", "replace")
            report_late_output(capture.name, capture.sink.mask.text(text))
        else:
            capture.sink.write(self.level, data)
        return len(data)


class _Stream(io.TextIOWrapper):
    """A standard stream without a buffer."""

    def __init__(self, original: IO[str], level: int) -> None:
        self.original = original
        self._level = level
        super().__init__(
            _Router(original, level),  # type: ignore[arg-type]
            encoding=_ENCODING,
            errors=_ERRORS,
            write_through=True,
        )

    @property
    def buffer(self) -> Any:
        """Its bytes. A wrapper may keep them until another handler runs: they stay the first's."""
        return _Router(self.original, self._level, _active_capture())

    def is_as_new(self) -> bool:
        """Whether it was neither closed nor detached nor configured."""
        try:
            return not self.closed and self.encoding == _ENCODING and self.errors == _ERRORS
        except ValueError:  # detached
            return False


def _current_capture() -> _Capture | None:
    """The capture of the handler that this thread belongs to, even if that has ended."""
    current = _current.get()
    if current is None:
        current = getattr(current_thread(), _OWNER, None)
    return current if isinstance(current, _Capture) else None


def _active_capture() -> _Capture | None:
    capture = _current_capture()
    return None if capture is None or capture.ended else capture


def _start_with_owner(thread: Thread) -> None:
    """`Thread.start`, and remember the capture that the thread belongs to."""
    setattr(thread, _OWNER, _current_capture() or _DETACHED)
    _thread_start(thread)


def _is_not_captured(record: logging.LogRecord) -> bool:
    capture = _current_capture()
    if capture is None:
        return True
    if capture.ended and (mask := capture.sink.mask):  # of a thread that outlived its step
        _mask_record(record, mask)
    return capture.ended


def _mask_record(record: logging.LogRecord, mask: Mask) -> None:
    """Hide values in what the worker's log has of a record."""
    try:
        text = record.getMessage()
    except Exception:  # arguments that do not fit; logging would print them
        text = "a record that cannot be formatted"
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    record.msg, record.args = mask.text(text), ()
    record.exc_info = record.exc_text = record.stack_info = None


def _original(stream: Any) -> Any:
    return stream.original if isinstance(stream, _Stream) else stream
