"""Writes what handlers say while they work: about once a second, by one thread of the process.

What a handler says is collected in memory. Its first word wakes the thread, so a step that says
nothing costs nothing; what is left when it ends is written with its outcome.
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

_FIRST, _PAUSE = 0.05, 1.0  # seconds from the first word to its writing, and between two writings

_log = logging.getLogger(__name__)


class AttemptOutput:
    """What one attempt says, on its way to Postgres."""

    def __init__(
        self, source: AttemptRef, reporter: "OutputWriter", lines: int, keep: FileSaver
    ) -> None:
        self.recorder = Recorder(lines, keep=keep, on_news=lambda: reporter.expect(self))
        self.due = 0.0  # when it may be written next
        self._source, self._database = source, reporter.database
        self._lock = threading.Lock()  # held while it is written
        self._ended = False
        self._noted: tuple[int | None, str | None] = (None, None)  # progress in the history

    def flush(self) -> bool:
        """Write what is new; True when something is left to be written."""
        with self._lock:
            batch = None if self._ended else self.recorder.drain()
            if batch is None:
                return False
            try:
                with self._database.transaction() as session:
                    writer.write_output(session, self._source, batch)
                    news = (batch.percent, batch.stage)
                    owed = news != self._noted and not writer.try_record_progress(
                        session, self._source, batch
                    )
            except SQLAlchemyError as error:
                self.recorder.restore(batch)
                _log.warning("what a step says waits", extra={"error": str(error)})
                return True
            except BaseException:
                self.recorder.restore(batch)
                raise
            if owed:
                self.recorder.repeat()
            else:
                self._noted = news
            return owed

    def end(self) -> tuple[OutputBatch | None, bool]:
        """What is left to write with the outcome, and whether its progress is news."""
        with self._lock:
            self._ended = True
            batch = self.recorder.drain(last=True)
        return batch, batch is not None and (batch.percent, batch.stage) != self._noted


class OutputWriter:
    """Knows which attempts of this process have said something, and writes it in time."""

    def __init__(self, database: Database, lines: int) -> None:
        self.database, self._lines = database, lines
        self._waiting: set[AttemptOutput] = set()
        self._news = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None

    def open(self, source: AttemptRef, keep: FileSaver) -> AttemptOutput:
        """A report for an attempt that begins."""
        return AttemptOutput(source, self, self._lines, keep)

    def expect(self, report: AttemptOutput) -> None:
        """Write this report when its time has come."""
        with self._news:
            report.due = max(report.due, time.monotonic() + _FIRST)
            self._waiting.add(report)
            if self._thread is None or not self._thread.is_alive():  # none survives a fork
                self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
                self._thread.start()
            self._news.notify()

    def _run(self) -> None:
        log_capture.detach_thread()
        while True:
            for report in self._next():
                self._flush(report)

    def _next(self) -> list[AttemptOutput]:
        with self._news:
            due = min((report.due for report in self._waiting), default=None)
            self._news.wait(None if due is None else max(0.0, due - time.monotonic()))
            now = time.monotonic()
            ready = [report for report in self._waiting if report.due <= now]
            self._waiting.difference_update(ready)
        return ready

    def _flush(self, report: AttemptOutput) -> None:
        left = True
        try:
            left = report.flush()
        except Exception:  # the thread must live for the other reports
            _log.exception("what a step says cannot be written")
        report.due = time.monotonic() + _PAUSE
        if left:
            with self._news:
                self._waiting.add(report)
