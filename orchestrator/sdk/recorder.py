"""Collects what an attempt reports: in memory, bounded, and drained in batches.

No I/O: a handler may call it in its innermost loop; how often something is written depends on how
often the recorder is drained.
"""

import hashlib
import logging
import math
import operator
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import date
from typing import Any

from orchestrator.json_values import truncate_text
from orchestrator.sdk.files import Content, FileSpec, SavedFile, chunks
from orchestrator.sdk.masking import NO_MASK, Mask, masked_chunks
from orchestrator.sdk.reports import LogLine, OutputBatch, Progress, merge_data, merge_warnings

LAST_LINES_KEPT = 100  # of those over the limit
MAX_WARNINGS = 1_000_000  # counted of one attempt
_MAX_LINE = 8_000  # characters
_MAX_TEXT = 1_000  # characters of a stage, a message, a warning
_MAX_NAME = 200  # characters
_MAX_CHARS = 16 * 1024 * 1024  # of all lines; further lines count as over the limit
_MAX_METRICS, _MAX_KINDS, _MAX_IDS = 200, 100, 10_000

IdsByDate = Mapping[str | date, Iterable[str]]
FileSaver = Callable[[FileSpec, Content], SavedFile]


class Recorder:
    """Takes what a handler reports. Thread-safe."""

    def __init__(
        self,
        lines: int = 10_000,
        *,
        keep: FileSaver | None = None,
        on_news: Callable[[], None] = lambda: None,
        counts: tuple[int, int] = (0, 0),
    ) -> None:
        """Keep so many lines of the log; `on_news` is called at the first change after a drain.

        `counts` are the `line_counts` of a recorder that this one continues.
        """
        self.latest = Progress()
        self.mask: Mask = NO_MASK  # applied to all that is reported
        self.saved: dict[str, tuple[FileSpec, bytes]] = {}  # without a `keep`
        self._keep, self._on_news = keep or self._save_in_memory, on_news
        # Reentrant: a finalizer may print while this thread holds it.
        self._lock = threading.RLock()
        self._chars_left = _MAX_CHARS
        self._lines: list[LogLine] = []
        self._tail: deque[LogLine] = deque(maxlen=LAST_LINES_KEPT)
        self._drained, self._over_limit = counts
        self._lines_left = lines - self._drained
        self._last_ns = self._ids = self._warnings = 0
        self._changed: set[str] = set()
        self._again = False  # some of what waits was in an earlier batch

    @property
    def lines(self) -> list[LogLine]:
        """The lines that wait to be drained."""
        return self._lines

    @property
    def line_counts(self) -> tuple[int, int]:
        """The number of lines that are drained or will be, and of those over the limit."""
        return self._drained + len(self._lines), self._over_limit

    @property
    def warned(self) -> int:
        """The number of warnings, at most MAX_WARNINGS."""
        return min(self._warnings, MAX_WARNINGS)

    def log(self, level: int, text: str, time_ns: int | None = None) -> None:
        """Add a line to the log; its time is now, or the one given if that is after all others."""
        if self.mask is not NO_MASK:  # the innermost loop of some steps
            text = self.mask.text(text)
        text = truncate_text(text, _MAX_LINE)
        with self._lock:
            self._last_ns = max(time_ns or time.time_ns(), self._last_ns + 1)
            line = LogLine(self._last_ns, max(0, min(level, 99)), text)
            if self._over_limit or self._lines_left <= 0 or len(text) > self._chars_left:
                self._over_limit += 1
                self._tail.append(line)
            else:
                self._lines_left -= 1
                self._chars_left -= len(text)
                self._lines.append(line)
            is_first = self._mark_changed("lines")
        if is_first:
            self._on_news()

    def progress(
        self, done: float | None, total: float, stage: str | None, message: str | None
    ) -> None:
        """Set the progress; None keeps the last value."""
        share = None if done is None else _share(float(done), float(total))
        stage = None if stage is None else self._text(stage, _MAX_TEXT)
        message = None if message is None else self._text(message, _MAX_TEXT)
        with self._lock:
            latest = self.latest
            latest.progress = latest.progress if share is None else share
            latest.stage = latest.stage if stage is None else stage
            latest.message = latest.message if message is None else message
            is_first = self._mark_changed("progress")
        if is_first:
            self._on_news()

    def metric(self, name: str, value: float) -> None:
        """Set a metric. Raises TypeError for anything but a number."""
        number = _number(value)
        if number is None:
            self.warn(f"metric {self._text(name, 100)} is not finite and was left out", "limit")
            return
        name = self._text(name, _MAX_NAME)
        with self._lock:
            known = self.latest.metrics
            fits = name in known or len(known) < _MAX_METRICS
            if fits:
                known[name] = number
            is_first = fits and self._mark_changed("metrics")
        if is_first:
            self._on_news()
        if not fits:
            self.warn(f"only {_MAX_METRICS} metrics of an attempt are kept", "limit")

    def warn(self, text: str, type: str = "warning") -> None:
        """Count a warning; the same type and text are one entry."""
        entry = self._text(type, _MAX_NAME), self._text(text, _MAX_TEXT)
        with self._lock:
            known = self.latest.warnings
            if entry not in known and len(known) >= _MAX_KINDS:
                entry = ("limit", f"more than {_MAX_KINDS} different warnings")
            known[entry] = known.get(entry, 0) + 1
            self._warnings += 1
            is_first = self._mark_changed("warnings")
        if is_first:
            self._on_news()

    def data(self, curves: IdsByDate | None = None, series: IdsByDate | None = None) -> None:
        """Add ids of what was written, by date."""
        with self._lock:
            fits = all([self._add("curves", curves or {}), self._add("series", series or {})])
            is_first = self._mark_changed("data")
        if is_first:
            self._on_news()
        if not fits:
            self.warn(f"only {_MAX_IDS:,} ids of an attempt are kept", "limit")

    def save(self, spec: FileSpec, content: Content) -> SavedFile:
        """Save a file."""
        if not self.mask:
            return self._keep(spec, content)
        return self._keep(_masked_spec(spec, self.mask), masked_chunks(self.mask, chunks(content)))

    def drain(self, *, last: bool = False) -> OutputBatch | None:
        """What is new since the last call, or None.

        With `last` also the end of a log over the limit, after a line with the number of lines that
        were dropped.
        """
        with self._lock:
            if last and self._over_limit:
                self._lines += self._end_of_log()
                self._changed.add("lines")
            if not self._changed:
                return None
            batch = self._batch()
            self._drained += len(self._lines)
            self._lines, self._changed, self._again = [], set(), False
            return batch

    def restore(self, batch: OutputBatch) -> None:
        """Take back a batch that may not have been written; the next one includes it."""
        with self._lock:
            self._lines[:0] = batch.lines
            self._drained, self._again = batch.first, True
            self._changed |= {"lines", "progress"}
            self._changed |= {
                name for name in ("metrics", "warnings", "data") if getattr(batch, name) is not None
            }

    def repeat(self) -> None:
        """Include the progress in the next batch, even if unchanged."""
        with self._lock:
            self._changed.add("progress")

    def unlock(self) -> None:
        """In a forked process: forget that a thread that was not copied held the lock."""
        self._lock = threading.RLock()

    def _text(self, value: Any, limit: int) -> str:
        """The value as text, masked and then cut: a cut secret could not be recognised."""
        return truncate_text(self.mask.text(str(value)), limit)

    def _mark_changed(self, name: str) -> bool:
        """Whether it is the first change since the last drain."""
        is_first = not self._changed
        self._changed.add(name)
        return is_first

    def _batch(self) -> OutputBatch:
        latest = self.latest
        return OutputBatch(
            first=self._drained,
            lines=self._lines,
            again=self._again,
            dropped=max(0, self._over_limit - len(self._tail)),
            percent=latest.percent,
            progress=latest.progress,
            stage=latest.stage,
            message=latest.message,
            metrics=dict(latest.metrics) if "metrics" in self._changed else None,
            warnings=merge_warnings(latest) if "warnings" in self._changed else None,
            data=merge_data(latest) if "data" in self._changed else None,
        )

    def _end_of_log(self) -> list[LogLine]:
        tail, dropped = list(self._tail), self._over_limit - len(self._tail)
        self._over_limit = dropped
        self._tail.clear()
        if not dropped or not tail:
            return tail
        text = f"… {dropped:,} lines were left out here: the log of one attempt is limited …"
        return [LogLine(tail[0].time_ns - 1, logging.WARNING, text), *tail]

    def _add(self, kind: str, ids_by_date: IdsByDate) -> bool:
        """Whether all of them are within the limit."""
        for day, ids in ids_by_date.items():
            at = day.isoformat() if isinstance(day, date) else self._text(day, 40)
            known = self.latest.data.setdefault(kind, {}).setdefault(at, {})
            for each in ids:
                name = self._text(each, _MAX_NAME)
                if name in known:
                    continue
                if self._ids >= _MAX_IDS:
                    return False
                self._ids += 1
                known[name] = None
        return True

    def _save_in_memory(self, spec: FileSpec, content: Content) -> SavedFile:
        data = b"".join(chunks(content))
        self.saved[spec.name] = (spec, data)
        return SavedFile(name=spec.name, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def _masked_spec(spec: FileSpec, mask: Mask) -> FileSpec:
    extra = mask.document(dict(spec.extra))
    return replace(spec, name=mask.text(spec.name), title=mask.text(spec.title), extra=extra)


def _share(done: float, total: float) -> float | None:
    """The part that is done, from 0 to 1; of nothing, all is done."""
    if total <= 0:
        return 1.0
    share = done / total
    return max(0.0, min(1.0, share)) if math.isfinite(share) else None


def _number(value: Any) -> float | None:
    """The value as a JSON number; None when it is not finite."""
    if isinstance(value, str | bytes):
        raise TypeError(f"a metric is a number, not {value!r:.100}")
    try:
        whole = operator.index(value)
        if whole.bit_length() <= 63:
            return whole
        value = float(whole)
    except TypeError:  # not an integer
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None
