"""Counts what Redis held that nobody of ours wrote, and logs it without flooding the log."""

import logging
import time

_INTERVAL = 60.0  # seconds between two lines of the same source and reason

_log = logging.getLogger(__name__)


class Drops:
    """What this process dropped since it started."""

    def __init__(self) -> None:
        self.total = 0
        self._lines: dict[tuple[str, str], float] = {}  # when the last one was written

    def add(self, source: str, reason: str, count: int = 1) -> None:
        """Count some; `source` is the name of a queue."""
        self.total += count
        now = time.monotonic()
        if count and now - self._lines.get((source, reason), -_INTERVAL) >= _INTERVAL:
            self._lines[source, reason] = now
            fields = {"source": source, "reason": reason, "total": self.total}
            _log.warning("foreign message dropped", extra=fields)


drops = Drops()
