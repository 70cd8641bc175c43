"""What an attempt reports, and the batches in which it is written."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID


class LogLine(NamedTuple):
    """One line of the log."""

    time_ns: int  # since 1970; no two of an attempt have the same
    level: int  # as `logging` numbers them
    text: str


@dataclass(frozen=True, kw_only=True)
class AttemptRef:
    """The attempt that produced an output."""

    tenant_id: UUID
    run_id: UUID
    step_id: UUID
    step: str  # its key
    attempt: int
    started_at: datetime  # tells it from an attempt of the same number whose claim a crash undid

    @property
    def name(self) -> str:
        """How the worker's log names it."""
        return f"{self.run_id}/{self.step}#{self.attempt}"


@dataclass
class Progress:
    """The latest values of everything but the log."""

    progress: float | None = None  # 0 to 1
    stage: str | None = None
    message: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    warnings: dict[tuple[str, str], int] = field(default_factory=dict)  # by type and message
    data: dict[str, dict[str, dict[str, None]]] = field(default_factory=dict)  # kind, date, ids

    @property
    def percent(self) -> int | None:
        """The progress in percent, rounded down."""
        return None if self.progress is None else int(self.progress * 100)


@dataclass(frozen=True, kw_only=True)
class OutputBatch:
    """New lines, and the whole value of whatever else has changed."""

    first: int  # number of lines in earlier batches
    lines: list[LogLine]
    again: bool  # some of it was in a batch whose write may have succeeded
    dropped: int  # lines over the limit
    percent: int | None
    progress: float | None
    stage: str | None
    message: str | None
    metrics: dict[str, float] | None  # None: not changed
    warnings: list[dict[str, Any]] | None
    data: dict[str, dict[str, list[str]]] | None


def merge_warnings(progress: Progress) -> list[dict[str, Any]]:
    """The warnings in the form that is stored."""
    return [
        {"type": type, "message": message, "count": count}
        for (type, message), count in progress.warnings.items()
    ]


def merge_data(progress: Progress) -> dict[str, dict[str, list[str]]]:
    """The ids that were written, in the form that is stored."""
    return {
        kind: {day: list(ids) for day, ids in days.items()} for kind, days in progress.data.items()
    }
