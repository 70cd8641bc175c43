"""What one attempt says while it works: collected in memory, bounded, and handed on in batches.

Nothing here reads or writes. A handler may call any of it in its innermost loop; whoever drains
the recorder decides how often something is written.
"""

import hashlib
import logging
import math
import operator
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from typing import Any

from orchestrator.json_values import truncate_text
from orchestrator.sdk.files import Content, FileSpec, SavedFile, chunks
from orchestrator.sdk.reports import LogLine, OutputBatch, Progress, merge_data, merge_warnings

LAST_LINES_KEPT = 100  # kept of those over the limit
MAX_WARNINGS = 1_000_000  # counted of one attempt
_LONGEST_LINE = 8_000  # characters
_LONGEST_TEXT = 1_000  # of a stage, a message, a warning
_LONGEST_NAME = 200
_MOST_TEXT = 16 * 1024 * 1024  # characters of all lines; more of them count as over the limit
_MOST_METRICS, _MOST_KINDS, _MOST_IDS = 200, 100, 10_000

IdsByDate = Mapping[str | date, Iterable[str]]
FileSaver = Callable[[FileSpec, Content], SavedFile]


class Recorder:
    """Takes what a handler says. Any thread may call it at any time."""

    def __init__(
        self,
        lines: int = 10_000,
        *,
        keep: FileSaver | None = None,
        on_news: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep so many lines of the log; `on_news` is called once for all that waits."""
        self.said = Progress()
        self.saved: dict[str, tuple[FileSpec, bytes]] = {}  # where nothing stores it
        self._keep, self._on_news = keep or self._remember, on_news
        # A finalizer may print while this very thread is inside.
        self._lock = threading.RLock()
        self._room, self._text_room = lines, _MOST_TEXT
        self._lines: list[LogLine] = []
        self._last: deque[LogLine] = deque(maxlen=LAST_LINES_KEPT)
        self._handed = self._over = self._last_ns = self._ids = self._warned = 0
        self._changed: set[str] = set()
        self._again = False  # what waits was handed on before

    @property
    def lines(self) -> list[LogLine]:
        """The lines that wait to be handed on."""
        return self._lines

    @property
    def warned(self) -> int:
        """How many warnings were given."""
        return min(self._warned, MAX_WARNINGS)

    def log(self, level: int, text: str) -> None:
        """Add a line to the log."""
        text = truncate_text(text, _LONGEST_LINE)
        with self._lock:
            self._last_ns = max(time.time_ns(), self._last_ns + 1)
            line = LogLine(self._last_ns, max(0, min(level, 99)), text)
            if self._over or self._room <= 0 or len(text) > self._text_room:
                self._over += 1
                self._last.append(line)
            else:
                self._room -= 1
                self._text_room -= len(text)
                self._lines.append(line)
            news = self._note("lines")
        if news:
            self._on_news()

    def progress(
        self, done: float | None, total: float, stage: str | None, message: str | None
    ) -> None:
        """Say how far it is; what is None stays as it was."""
        share = None if done is None else _share(float(done), float(total))
        stage = None if stage is None else truncate_text(str(stage), _LONGEST_TEXT)
        message = None if message is None else truncate_text(str(message), _LONGEST_TEXT)
        with self._lock:
            said = self.said
            said.progress = said.progress if share is None else share
            said.stage = said.stage if stage is None else stage
            said.message = said.message if message is None else message
            news = self._note("progress")
        if news:
            self._on_news()

    def metric(self, name: str, value: float) -> None:
        """Set a number. Raises TypeError for what is none."""
        number = _number(value)
        if number is None:
            self.warn(
                f"metric {truncate_text(str(name), 100)} is not finite and was left out", "limit"
            )
            return
        name = truncate_text(str(name), _LONGEST_NAME)
        with self._lock:
            known = self.said.metrics
            fits = name in known or len(known) < _MOST_METRICS
            if fits:
                known[name] = number
            news = fits and self._note("metrics")
        if news:
            self._on_news()
        if not fits:
            self.warn(f"only {_MOST_METRICS} metrics of an attempt are kept", "limit")

    def warn(self, text: str, type: str = "warning") -> None:
        """Count a warning; the same type and text are one entry."""
        what = truncate_text(str(type), _LONGEST_NAME), truncate_text(str(text), _LONGEST_TEXT)
        with self._lock:
            known = self.said.warnings
            if what not in known and len(known) >= _MOST_KINDS:
                what = ("limit", f"more than {_MOST_KINDS} different warnings")
            known[what] = known.get(what, 0) + 1
            self._warned += 1
            news = self._note("warnings")
        if news:
            self._on_news()

    def data(self, curves: IdsByDate | None = None, series: IdsByDate | None = None) -> None:
        """Add ids of what was written, by date."""
        with self._lock:
            fits = all([self._add("curves", curves or {}), self._add("series", series or {})])
            news = self._note("data")
        if news:
            self._on_news()
        if not fits:
            self.warn(f"only {_MOST_IDS:,} ids of an attempt are kept", "limit")

    def save(self, draft: FileSpec, content: Content) -> SavedFile:
        """Keep a file."""
        return self._keep(draft, content)

    def drain(self, *, last: bool = False) -> OutputBatch | None:
        """What is new since the last time, None for nothing.

        The last time the end of an over-long log is there too, after a line that says what is
        missing before it.
        """
        with self._lock:
            if last and self._over:
                self._lines += self._ending()
                self._changed.add("lines")
            if not self._changed:
                return None
            batch = self._batch()
            self._handed += len(self._lines)
            self._lines, self._changed, self._again = [], set(), False
            return batch

    def restore(self, batch: OutputBatch) -> None:
        """Take back what could not be written; the next batch has it again."""
        with self._lock:
            self._lines[:0] = batch.lines
            self._handed, self._again = batch.first, True
            self._changed |= {"lines", "progress"}
            self._changed |= {
                name for name in ("metrics", "warnings", "data") if getattr(batch, name) is not None
            }

    def repeat(self) -> None:
        """Give how far it is once more the next time, though it has not changed."""
        with self._lock:
            self._changed.add("progress")

    def _note(self, what: str) -> bool:
        """Remember that something has changed; whether it is the first to wait."""
        first = not self._changed
        self._changed.add(what)
        return first

    def _batch(self) -> OutputBatch:
        said = self.said
        return OutputBatch(
            first=self._handed,
            lines=self._lines,
            again=self._again,
            dropped=max(0, self._over - len(self._last)),
            percent=said.percent,
            progress=said.progress,
            stage=said.stage,
            message=said.message,
            metrics=dict(said.metrics) if "metrics" in self._changed else None,
            warnings=merge_warnings(said) if "warnings" in self._changed else None,
            data=merge_data(said) if "data" in self._changed else None,
        )

    def _ending(self) -> list[LogLine]:
        kept, dropped = list(self._last), self._over - len(self._last)
        self._over = dropped
        self._last.clear()
        if not dropped or not kept:
            return kept
        told = f"… {dropped:,} lines were left out here: the log of one attempt is limited …"
        return [LogLine(kept[0].time_ns - 1, logging.WARNING, told), *kept]

    def _add(self, kind: str, given: IdsByDate) -> bool:
        for day, ids in given.items():
            at = day.isoformat() if isinstance(day, date) else truncate_text(str(day), 40)
            known = self.said.data.setdefault(kind, {}).setdefault(at, {})
            for each in ids:
                name = truncate_text(str(each), _LONGEST_NAME)
                if name in known:
                    continue
                if self._ids >= _MOST_IDS:
                    return False
                self._ids += 1
                known[name] = None
        return True

    def _remember(self, draft: FileSpec, content: Content) -> SavedFile:
        whole = b"".join(chunks(content))
        self.saved[draft.name] = (draft, whole)
        return SavedFile(name=draft.name, size=len(whole), sha256=hashlib.sha256(whole).hexdigest())


def _share(done: float, total: float) -> float | None:
    """How much of it is done, from 0 to 1; nothing to do is all done."""
    if total <= 0:
        return 1.0
    share = done / total
    return max(0.0, min(1.0, share)) if math.isfinite(share) else None


def _number(value: Any) -> float | None:
    """The value as a number that JSON has; None when it is not finite."""
    if isinstance(value, str | bytes):
        raise TypeError(f"a metric is a number, not {value!r:.100}")
    try:
        whole = operator.index(value)
        if whole.bit_length() <= 63:
            return whole
        value = float(whole)
    except TypeError:  # no whole number
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None
