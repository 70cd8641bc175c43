"""Where a handler's `logging` and `print` go while it runs: to the log of its run.

Whose words they are is known by a ContextVar, which each thread of a pool has for itself. A thread
that a handler starts is the handler's, and so are those that this one starts. What is said outside
of any handler goes where it went before, and so does what is said for a handler that has ended: it
never goes to the next one.
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

# What we and Celery say of our own work is the operator's business, not the run's.
_OURS = ("orchestrator.", "workers.", "celery.", "kombu.", "sqlalchemy.")
_LONGEST = 8_000  # characters of a line that is still being printed


class _Voice:
    """One handler's recorder, and the lines that it has begun to print."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.ended = False
        self._begun: dict[int, str] = {}

    def print(self, level: int, text: str) -> None:
        *lines, rest = (self._begun.get(level, "") + text).split("\n")
        if len(rest) > _LONGEST:
            lines, rest = [*lines, rest], ""
        self._begun[level] = rest
        for line in lines:
            self.recorder.log(level, line.rstrip("\r"))

    def end(self) -> None:
        self.ended = True
        for level, rest in self._begun.items():
            if rest:
                self.recorder.log(level, rest)


_NOBODY = object()
_OWNER = "_orchestrator_voice"  # of a thread: the handler that started it, or nobody
_start = Thread.start
_speaking: ContextVar[Any] = ContextVar("speaking", default=None)


@contextmanager
def capture_output(recorder: Recorder) -> Iterator[None]:
    """Give the recorder what is logged and printed in the block."""
    voice, thread, streams = _Voice(recorder), current_thread(), (sys.stdout, sys.stderr)
    token = _speaking.set(voice)
    setattr(thread, _OWNER, voice)
    try:
        yield
    finally:
        if thread is main_thread():
            _put_back(*streams)
        setattr(thread, _OWNER, _NOBODY)
        _speaking.reset(token)
        voice.end()


def detach_thread() -> None:
    """Never take the words of this thread for a handler's."""
    _speaking.set(_NOBODY)


def install_capture() -> None:
    """Listen to logging and to both streams of this process. Twice is once."""
    sys.stdout = _Stream(_behind(sys.stdout), logging.INFO)
    sys.stderr = _Stream(_behind(sys.stderr), logging.WARNING)
    Thread.start = _start_owned  # type: ignore[method-assign,assignment]
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(_behind(handler.stream))
        if not isinstance(handler, _Handler):
            handler.addFilter(_is_not_taken)
    if not any(isinstance(handler, _Handler) for handler in root.handlers):
        root.addHandler(_Handler())


class _Handler(logging.Handler):
    """Gives a record to the handler in whose run it was logged."""

    def emit(self, record: logging.LogRecord) -> None:
        voice = _voice_of(record)
        if voice is None:
            return
        try:
            voice.recorder.log(record.levelno, self.format(record))
        except Exception:  # its arguments do not fit its text
            self.handleError(record)


class _Stream(io.TextIOBase):
    """A standard stream, unless a handler writes to it."""

    def __init__(self, behind: IO[str], level: int) -> None:
        self.behind, self._level = behind, level

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def buffer(self) -> IO[bytes]:
        voice = _voice()
        if voice is None:
            return self.behind.buffer  # type: ignore[attr-defined, no-any-return]
        return _Bytes(self, voice)  # type: ignore[return-value]

    def write(self, text: str, /) -> int:
        voice = _voice()
        if voice is None:
            return self.behind.write(text)
        voice.print(self._level, text)
        return len(text)

    def flush(self) -> None:
        if _voice() is None:
            self.behind.flush()

    def fileno(self) -> int:
        return self.behind.fileno()

    def isatty(self) -> bool:
        return _voice() is None and self.behind.isatty()

    def writable(self) -> bool:
        return True


class _Bytes(io.RawIOBase):
    """Bytes that are written to a stream of text; those that are no UTF-8 are marked.

    Whoever wraps this keeps bytes back, and may hand them on when another handler runs: they belong
    to the handler that asked for it.
    """

    def __init__(self, stream: _Stream, voice: _Voice) -> None:
        self._stream, self._voice = stream, voice

    def writable(self) -> bool:
        return True

    def write(self, given: Any, /) -> int:
        text = bytes(given).decode("utf-8", "replace")
        if _voice() is self._voice:
            self._stream.write(text)
        else:
            self._stream.behind.write(text)
        return len(given)


def _voice() -> _Voice | None:
    speaking = _speaking.get()
    if speaking is None:
        speaking = getattr(current_thread(), _OWNER, None)
    return speaking if isinstance(speaking, _Voice) and not speaking.ended else None


def _start_owned(thread: Thread) -> None:
    """Start a thread as `Thread.start` does, for the handler that starts it, or for nobody."""
    setattr(thread, _OWNER, _voice() or _NOBODY)
    _start(thread)


def _put_back(stdout: Any, stderr: Any) -> None:
    """Take back the streams that a handler has replaced, with what its own ones keep back."""
    for stream in (sys.stdout, sys.stderr):
        if stream not in (stdout, stderr):
            with suppress(Exception):
                stream.flush()
    sys.stdout, sys.stderr = stdout, stderr


def _voice_of(record: logging.LogRecord) -> _Voice | None:
    return None if record.name.startswith(_OURS) else _voice()


def _is_not_taken(record: logging.LogRecord) -> bool:
    return _voice_of(record) is None


def _behind(stream: Any) -> Any:
    return stream.behind if isinstance(stream, _Stream) else stream


def _forget() -> None:
    """A process that a handler forks has no way to us: what it says goes to the plain streams."""
    setattr(current_thread(), _OWNER, _NOBODY)
    with suppress(LookupError):
        _speaking.set(None)


os.register_at_fork(after_in_child=_forget)
