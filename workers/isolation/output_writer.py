"""Writes the output of running handlers to Postgres about once a second, in one thread.

Output is collected in memory, or in the file of a child process. The first piece wakes the thread,
so a step without output costs nothing; what C code and programs write is seen at the next pass.
What is left when the attempt ends is written with its outcome.
"""

import logging
import os
import threading
import time

from sqlalchemy.exc import SQLAlchemyError

from orchestrator.db.database import Database
from orchestrator.outputs import writer
from orchestrator.sdk.masking import Mask
from orchestrator.sdk.recorder import FileSaver, Recorder
from orchestrator.sdk.reports import AttemptRef, OutputBatch
from workers.isolation import log_capture
from workers.isolation.log_capture import MemorySink, Sink
from workers.isolation.output_file import OutputFile

_FIRST, _PAUSE = 0.05, 1.0  # seconds from the first output to its write, and between writes

_log = logging.getLogger(__name__)


class AttemptOutput:
    """The output of one attempt that is not written yet."""

    def __init__(
        self,
        source: AttemptRef,
        task_id: str,
        output_writer: "OutputWriter",
        lines: int,
        keep: FileSaver,
    ) -> None:
        self.recorder = Recorder(lines, keep=keep, on_news=self._schedule)
        self.name = source.name
        self.due = 0.0  # earliest next write, on the monotonic clock
        self._source, self._writer = source, output_writer
        self._file, self._memory = output_writer.file, MemorySink(self.recorder)
        self._lock = threading.Lock()  # held during a write
        self._is_scheduled = self._ended = False
        self._recorded: tuple[int | None, str | None] = (None, None)  # the last progress event
        if self._file:
            self._file.begin(task_id, source)

    @property
    def sink(self) -> Sink:
        """Takes what the handler prints and logs."""
        return self if self._file else self._memory

    @property
    def mask(self) -> Mask:
        """What is hidden in the output."""
        return self.recorder.mask

    def hide(self, mask: Mask) -> None:
        """Hide values in all that the attempt reports from now on."""
        with self._lock:
            self.recorder.mask = mask
            self._memory.hide(mask)
            if self._file:
                self._file.hide(mask)

    def write(self, level: int, data: bytes) -> None:
        """Take a part of a stream."""
        assert self._file
        self._file.write(level, data)
        self._schedule()

    def write_entry(self, level: int, text: str) -> None:
        """Take one entry of the log."""
        assert self._file
        self._file.write_entry(level, self.mask.text(text))
        self._schedule()

    @property
    def has_news(self) -> bool:
        """Whether its file has output that nobody reported."""
        return self._file is not None and not self._ended and self._file.has_news

    def flush(self) -> bool:
        """Write what is new; True when something is still to be written."""
        self._is_scheduled = False
        with self._lock:
            batch = None if self._ended else self._drain()
            if batch is None:
                return False
            try:
                with self._writer.database.transaction() as session:
                    writer.write_output(session, self._source, batch)
                    progress = (batch.percent, batch.stage)
                    event_missing = progress != self._recorded and not writer.try_record_progress(
                        session, self._source, batch
                    )
            except SQLAlchemyError as error:
                self.recorder.restore(batch)
                _log.warning("step output not written, will retry", extra={"error": str(error)})
                return True
            except BaseException:
                self.recorder.restore(batch)
                raise
            if self._file:
                self._file.save_position(self.recorder)
            if event_missing:
                self.recorder.repeat()
            else:
                self._recorded = progress
            return event_missing

    def end(self) -> tuple[OutputBatch | None, bool]:
        """The rest, to be written with the outcome, and whether it needs a progress event."""
        with self._lock:
            self._ended = True
            batch = self._drain(last=True)
        return batch, batch is not None and (batch.percent, batch.stage) != self._recorded

    def close(self) -> None:
        """The rest is written, and the attempt has ended."""
        if self._file:
            self._file.end()

    def _drain(self, *, last: bool = False) -> OutputBatch | None:
        if self._file:
            self._file.read_into(self.recorder, last=last)
        elif last:
            self._memory.end()
        return self.recorder.drain(last=last)

    def _schedule(self) -> None:
        if not self._is_scheduled and os.getpid() == self._writer.pid:  # no process of the step's
            self._is_scheduled = True
            self._writer.schedule(self)


class OutputWriter:
    """Writes the outputs of this process's attempts when they are due."""

    def __init__(self, database: Database, lines: int) -> None:
        self.database, self._lines = database, lines
        self.file: OutputFile | None = None  # of a child process
        self.pid = os.getpid()
        self._latest: AttemptOutput | None = None
        self._waiting: set[AttemptOutput] = set()
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        os.register_at_fork(after_in_child=self._unlock)

    def use_file(self, file: OutputFile) -> None:
        """In a child process: take the output of attempts from this file, and watch it."""
        self.file, self.pid = file, os.getpid()
        with self._changed:
            self._start()

    def open(self, source: AttemptRef, task_id: str, keep: FileSaver) -> AttemptOutput:
        """The output of an attempt that begins."""
        if self.file and self._latest:
            for piece in self.file.late_lines():
                text = self._latest.mask.text(piece.text)
                log_capture.report_late_output(self._latest.name, text)
        self._latest = AttemptOutput(source, task_id, self, self._lines, keep)
        return self._latest

    def schedule(self, output: AttemptOutput) -> None:
        """Write this output when it is due; starts the thread if there is none."""
        with self._changed:
            output.due = max(output.due, time.monotonic() + _FIRST)
            self._waiting.add(output)
            self._start()
            self._changed.notify()

    def _unlock(self) -> None:
        """In a forked process: a thread that was not copied may have held the locks."""
        self._changed = threading.Condition(threading.RLock())
        if self._latest:
            self._latest.recorder.unlock()

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():  # threads do not survive a fork
            self._thread = threading.Thread(target=self._run, name="output-writer", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        log_capture.detach_thread()
        while True:
            for output in self._next():
                self._flush(output)

    def _next(self) -> list[AttemptOutput]:
        with self._changed:
            due = min((output.due for output in self._waiting), default=None)
            pause = None if due is None else max(0.0, due - time.monotonic())
            if self.file:
                pause = _PAUSE if pause is None else min(pause, _PAUSE)
            self._changed.wait(pause)
            now = time.monotonic()
            if self._latest and self._latest.has_news:
                self._waiting.add(self._latest)
            ready = [output for output in self._waiting if output.due <= now]
            self._waiting.difference_update(ready)
        return ready

    def _flush(self, output: AttemptOutput) -> None:
        left = True
        try:
            left = output.flush()
        except Exception:  # the thread serves the other outputs, too
            _log.exception("step output not written")
        output.due = time.monotonic() + _PAUSE
        if left:
            with self._changed:
                self._waiting.add(output)
