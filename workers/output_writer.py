"""Writes the output of running handlers to Postgres about once a second, in one thread.

Output is collected in memory. The first piece wakes the thread, so a step without output costs
nothing; what is left when the attempt ends is written with its outcome.
"""

import logging
import threading
import time

from sqlalchemy.exc import SQLAlchemyError

from orchestrator.db.database import Database
from orchestrator.outputs import writer
from orchestrator.sdk.recorder import FileSaver, Recorder
from orchestrator.sdk.reports import AttemptRef, OutputBatch
from workers import log_capture

_FIRST, _PAUSE = 0.05, 1.0  # seconds from the first output to its write, and between writes

_log = logging.getLogger(__name__)


class AttemptOutput:
    """The output of one attempt that is not written yet."""

    def __init__(
        self, source: AttemptRef, output_writer: "OutputWriter", lines: int, keep: FileSaver
    ) -> None:
        self.recorder = Recorder(lines, keep=keep, on_news=lambda: output_writer.schedule(self))
        self.due = 0.0  # earliest next write, on the monotonic clock
        self._source, self._database = source, output_writer.database
        self._lock = threading.Lock()  # held during a write
        self._ended = False
        self._recorded: tuple[int | None, str | None] = (None, None)  # the last progress event

    def flush(self) -> bool:
        """Write what is new; True when something is still to be written."""
        with self._lock:
            batch = None if self._ended else self.recorder.drain()
            if batch is None:
                return False
            try:
                with self._database.transaction() as session:
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
            if event_missing:
                self.recorder.repeat()
            else:
                self._recorded = progress
            return event_missing

    def end(self) -> tuple[OutputBatch | None, bool]:
        """The rest, to be written with the outcome, and whether it needs a progress event."""
        with self._lock:
            self._ended = True
            batch = self.recorder.drain(last=True)
        return batch, batch is not None and (batch.percent, batch.stage) != self._recorded


class OutputWriter:
    """Writes the outputs of this process's attempts when they are due."""

    def __init__(self, database: Database, lines: int) -> None:
        self.database, self._lines = database, lines
        self._waiting: set[AttemptOutput] = set()
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None

    def open(self, source: AttemptRef, keep: FileSaver) -> AttemptOutput:
        """The output of an attempt that begins."""
        return AttemptOutput(source, self, self._lines, keep)

    def schedule(self, output: AttemptOutput) -> None:
        """Write this output when it is due; starts the thread if there is none."""
        with self._changed:
            output.due = max(output.due, time.monotonic() + _FIRST)
            self._waiting.add(output)
            if self._thread is None or not self._thread.is_alive():  # threads do not survive a fork
                self._thread = threading.Thread(target=self._run, name="output-writer", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        log_capture.detach_thread()
        while True:
            for output in self._next():
                self._flush(output)

    def _next(self) -> list[AttemptOutput]:
        with self._changed:
            due = min((output.due for output in self._waiting), default=None)
            self._changed.wait(None if due is None else max(0.0, due - time.monotonic()))
            now = time.monotonic()
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
