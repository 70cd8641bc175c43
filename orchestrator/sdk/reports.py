"""What an attempt has said, and the batch in which that is handed on."""

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
    """Which attempt speaks."""

    tenant_id: UUID
    run_id: UUID
    step_id: UUID
    step: str  # its key
    attempt: int
    started_at: datetime  # a claim that a crash of Postgres forgot has the same number as the next


@dataclass
class Progress:
    """The latest of everything but the log."""

    progress: float | None = None  # 0 to 1
    stage: str | None = None
    message: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    warnings: dict[tuple[str, str], int] = field(default_factory=dict)  # by type and message
    data: dict[str, dict[str, dict[str, None]]] = field(default_factory=dict)  # kind, date, ids

    @property
    def percent(self) -> int | None:
        """The progress as a whole number; 100 only when all is done."""
        return None if self.progress is None else int(self.progress * 100)


@dataclass(frozen=True, kw_only=True)
class OutputBatch:
    """What is new, in a form to write: lines, and the whole of whatever else has changed."""

    first: int  # lines that were handed on before
    lines: list[LogLine]
    again: bool  # some of it was written before, and perhaps has come
    dropped: int  # lines that nobody will see
    percent: int | None
    progress: float | None
    stage: str | None
    message: str | None
    metrics: dict[str, float] | None  # None: not changed
    warnings: list[dict[str, Any]] | None
    data: dict[str, dict[str, list[str]]] | None


def merge_warnings(said: Progress) -> list[dict[str, Any]]:
    """The warnings as they are shown."""
    return [
        {"type": type, "message": message, "count": count}
        for (type, message), count in said.warnings.items()
    ]


def merge_data(said: Progress) -> dict[str, dict[str, list[str]]]:
    """The ids that were written, as they are shown."""
    return {kind: {day: list(ids) for day, ids in days.items()} for kind, days in said.data.items()}
