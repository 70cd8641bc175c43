"""Captures a handler's `logging` and `print` for the log of its run.

A ContextVar holds the current capture, separately for each thread of a pool. Threads that a handler
starts belong to it, and so do those that they start. Output outside of any handler, and output of a
handler that has ended, goes to the original streams; never to the next handler.
"""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import Thread, current_thread, main_thread
from typing import IO, Any

from orchestrator.sdk.recorder import Recorder

# Records of these loggers are for the operator, not for the run.
_OWN_LOGGERS = ("orchestrator.", "workers.", "celery.", "kombu.", "sqlalchemy.")
_MAX_PARTIAL_LINE = 8_000  # characters without a newline until they are logged as a line


class _Capture:
    """One handler's recorder, and its partial lines by level."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.ended = False
        self._partial: dict[int, str] = {}

    def print(self, level: int, text: str) -> None:
        *lines, rest = (self._partial.get(level, "") + text).split("\n")
        if len(rest) > _MAX_PARTIAL_LINE:
            lines, rest = [*lines, rest], ""
        self._partial[level] = rest
        for line in lines:
            self.recorder.log(level, line.rstrip("\r"))

    def end(self) -> None:
        self.ended = True
        for level, rest in self._partial.items():
            if rest:
                self.recorder.log(level, rest)


_DETACHED = object()
_OWNER = "_orchestrator_capture"  # attribute of a thread: its capture, or _DETACHED
_thread_start = Thread.start
_current: ContextVar[Any] = ContextVar("capture", default=None)


@contextmanager
def capture_output(recorder: Recorder) -> Iterator[None]:
    """Pass what is logged and printed in the block to the recorder."""
    capture, thread, streams = _Capture(recorder), current_thread(), (sys.stdout, sys.stderr)
    token = _current.set(capture)
    setattr(thread, _OWNER, capture)
    try:
        yield
    finally:
        if thread is main_thread():
            _restore_streams(*streams)
        setattr(thread, _OWNER, _DETACHED)
        _current.reset(token)
        capture.end()


def detach_thread() -> None:
    """Never capture the output of this thread."""
    _current.set(_DETACHED)


def install_capture() -> None:
    """Wrap logging, both streams and thread starts of this process. Idempotent."""
    sys.stdout = _Stream(_original(sys.stdout), logging.INFO)
    sys.stderr = _Stream(_original(sys.stderr), logging.WARNING)
    Thread.start = _start_with_owner  # type: ignore[method-assign,assignment]
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(_original(handler.stream))
        if not isinstance(handler, _Handler):
            handler.addFilter(_is_not_captured)
    if not any(isinstance(handler, _Handler) for handler in root.handlers):
        root.addHandler(_Handler())


class _Handler(logging.Handler):
    """Passes a record to the current capture."""

    def emit(self, record: logging.LogRecord) -> None:
        capture = _capture_of(record)
        if capture is None:
            return
        try:
            capture.recorder.log(record.levelno, self.format(record))
        except Exception:  # e.g. arguments that do not fit the format
            self.handleError(record)


class _Stream(io.TextIOBase):
    """A standard stream; what a handler writes goes to its capture."""

    def __init__(self, original: IO[str], level: int) -> None:
        self.original, self._level = original, level

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def buffer(self) -> IO[bytes]:
        capture = _active_capture()
        if capture is None:
            return self.original.buffer  # type: ignore[attr-defined, no-any-return]
        return _Bytes(self, capture)  # type: ignore[return-value]

    def write(self, text: str, /) -> int:
        capture = _active_capture()
        if capture is None:
            return self.original.write(text)
        capture.print(self._level, text)
        return len(text)

    def flush(self) -> None:
        if _active_capture() is None:
            self.original.flush()

    def fileno(self) -> int:
        return self.original.fileno()

    def isatty(self) -> bool:
        return _active_capture() is None and self.original.isatty()

    def writable(self) -> bool:
        return True


class _Bytes(io.RawIOBase):
    """The binary buffer of a `_Stream`; invalid UTF-8 is replaced.

    A wrapper may buffer bytes and flush them while another handler runs: unless the capture is
    still the one that opened it, they go to the original stream.
    """

    def __init__(self, stream: _Stream, capture: _Capture) -> None:
        self._stream, self._capture = stream, capture

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        text = bytes(data).decode("utf-8", "replace")
        if _active_capture() is self._capture:
            self._stream.write(text)
        else:
            self._stream.original.write(text)
        return len(data)


def _active_capture() -> _Capture | None:
    current = _current.get()
    if current is None:
        current = getattr(current_thread(), _OWNER, None)
    return current if isinstance(current, _Capture) and not current.ended else None


def _start_with_owner(thread: Thread) -> None:
    """`Thread.start`, and remember the capture that the thread belongs to."""
    setattr(thread, _OWNER, _active_capture() or _DETACHED)
    _thread_start(thread)


def _restore_streams(stdout: Any, stderr: Any) -> None:
    """Restore the streams that a handler replaced, after flushing its own."""
    for stream in (sys.stdout, sys.stderr):
        if stream not in (stdout, stderr):
            with suppress(Exception):
                stream.flush()
    sys.stdout, sys.stderr = stdout, stderr


def _capture_of(record: logging.LogRecord) -> _Capture | None:
    return None if record.name.startswith(_OWN_LOGGERS) else _active_capture()


def _is_not_captured(record: logging.LogRecord) -> bool:
    return _capture_of(record) is None


def _original(stream: Any) -> Any:
    return stream.original if isinstance(stream, _Stream) else stream


def _detach_fork() -> None:
    """In a fork of a handler: its output goes to the original streams."""
    setattr(current_thread(), _OWNER, _DETACHED)
    with suppress(LookupError):
        _current.set(None)


os.register_at_fork(after_in_child=_detach_fork)
