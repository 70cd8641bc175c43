"""The process that executes steps: a child of a prefork pool, or one with a pool of threads.

A child executes one step after the other. What a step started is ended with it, and what it changed
is restored; a child with something that cannot be restored is replaced. In a pool of threads the
steps share the process: only its logging is restored, whenever no step runs.
"""

import ctypes
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from workers.isolation import log_capture, processes
from workers.isolation.output_file import OutputFile, duplicate_high, is_file
from workers.isolation.output_writer import AttemptOutput
from workers.isolation.process_state import LoggingState, ProcessState, close_standard_input

_LINE_BUFFERED = 1  # setvbuf(3): _IOLBF

_libc = ctypes.CDLL(None)
_log = logging.getLogger(__name__)


class Child:
    """A child of a prefork pool."""

    def __init__(self, folder: Path) -> None:
        self._log_files = [_LogFile(number) for number in (1, 2)]
        log_capture.redirect_originals(*(each.stream for each in self._log_files))
        self.file = OutputFile(folder)
        self.file.redirect()
        close_standard_input()
        _flush_c_streams(_LINE_BUFFERED)
        processes.adopt_orphans()
        processes.allow_multiprocessing()
        self._state: ProcessState | None = None
        self._output: AttemptOutput | None = None  # of a step whose state is partly restored
        self._lasting: list[str] = []  # what it left behind
        self._is_restored = True

    @contextmanager
    def isolate(self, output: AttemptOutput) -> Iterator[None]:
        """A step is executed in the block; its outcome can be recorded after it."""
        if self._state is None:  # until the first step the pool changes signals
            self._state = ProcessState()
        self._output, self._lasting, self._is_restored = output, [], False
        try:
            with processes.one_process():
                yield
        finally:
            with self._noting_errors():
                self._end(output, self._state)

    def restore(self) -> bool:
        """Restore what the step has changed; whether nothing is left behind."""
        if self._state and not self._is_restored:
            self._is_restored = True
            with self._noting_errors():
                self._lasting += self._state.restore_rest()
        return not self._lasting

    def is_as_new(self) -> bool:
        """Whether it may execute another step, now that the outcome is recorded."""
        if self._output:
            with self._noting_errors():
                self._output.close()
            if not self.restore():
                extra = {"attempt": self._output.name, "left_behind": self._lasting}
                _log.warning("child will be replaced", extra=extra)
            self._output = None
        return not self._lasting

    def _end(self, output: AttemptOutput, state: ProcessState) -> None:
        """End what the step started, and restore what it changed."""
        _flush_c_streams()
        for each in self._log_files:  # first: their numbers may be free
            each.restore()
        self.file.redirect()
        if names := processes.end_descendants():
            output.write_entry(logging.WARNING, f"processes left behind were ended: {names}")
        self._lasting += state.restore_disturbing()

    @contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the outcome must still be recorded
            self._lasting.append(f"{type(error).__name__}: {error}")


class SharedProcess:
    """A process whose threads execute steps."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._logging: LoggingState | None = None

    @contextmanager
    def isolate(self, _: AttemptOutput) -> Iterator[None]:
        """A step is executed in the block."""
        with self._lock:
            self._running += 1
            if self._logging is None:
                self._logging = LoggingState()
        try:
            with processes.one_process():
                yield
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self._logging.restore()

    def restore(self) -> bool:
        """It is never replaced."""
        return True

    is_as_new = restore


class _LogFile:
    """A second descriptor of the worker's standard output or error, for what is no step's."""

    def __init__(self, number: int) -> None:
        self._number, self._descriptor = number, duplicate_high(number)
        self._stat = os.fstat(number)
        self.stream: IO[str] = os.fdopen(
            self._descriptor,
            "w",
            buffering=1,
            encoding="utf-8",
            errors="backslashreplace",
            closefd=False,
        )

    def restore(self) -> None:
        """Open it again if a step has closed it: another file could have its number."""
        if not is_file(self._descriptor, self._stat):
            file = self._open()
            self._stat = os.fstat(file)
            os.dup2(file, self._descriptor, inheritable=False)
            os.close(file)

    def _open(self) -> int:
        try:  # what the parent has there (Linux; not a socket)
            return os.open(f"/proc/{os.getppid()}/fd/{self._number}", os.O_WRONLY | os.O_APPEND)
        except OSError:
            return os.open(os.devnull, os.O_WRONLY)


def _flush_c_streams(mode: int | None = None) -> None:
    """Write what C code has printed; with a mode, how its standard output is buffered from now."""
    with suppress(AttributeError, ValueError):  # not with every C library
        if mode is not None:
            stdout = ctypes.c_void_p.in_dll(_libc, "stdout")
            _libc.setvbuf(stdout, None, mode, ctypes.c_size_t(0))
        _libc.fflush(None)


current: Child | SharedProcess = SharedProcess()


def become_child(folder: Path) -> Child:
    """Make this process a child with an output file in the folder."""
    global current  # noqa: PLW0603 - a process is one child
    current = Child(folder)
    return current
