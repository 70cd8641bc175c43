"""What attempts say: written in batches, read as logs and as what a run and its steps show."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from orchestrator.db import Row, statements
from orchestrator.models import LogLine, Output

# The last lines of each run, found by the index alone.
_ENDS = """
    SELECT line.run_id, line.step, line.time_ns, line.level, line.text
    FROM unnest(CAST(:run_ids AS uuid[])) AS wanted(id), LATERAL (
        SELECT * FROM logs WHERE logs.run_id = wanted.id ORDER BY time_ns DESC, id DESC LIMIT :lines
    ) line
    ORDER BY line.run_id, line.time_ns, line.id
"""

_ENDS_OF_STEPS = """
    SELECT run_id, step, time_ns, level, text FROM (
        SELECT *, row_number() OVER (PARTITION BY step ORDER BY time_ns DESC, id DESC) AS place
        FROM logs WHERE run_id = :run_id
    ) line
    WHERE place <= :lines ORDER BY time_ns, id
"""


@dataclass(frozen=True, kw_only=True)
class LogFilter:
    """Which lines of a run's log."""

    level: int = 0  # at least
    step: str | None = None
    attempt: int | None = None
    since: datetime | None = None
    until: datetime | None = None  # not included


def log_lines(
    session: Session,
    tenant_id: UUID,
    run_id: UUID,
    which: LogFilter,
    *,
    after: tuple[Any, ...] = (0, 0),
    limit: int = 200,
) -> Sequence[LogLine]:
    """The lines of a run after a position (time, id), in the order of their time."""
    asked = _lines(tenant_id, run_id, which)
    if after != (0, 0):
        asked = asked.where(tuple_(LogLine.time_ns, LogLine.id) > tuple_(*after))
    return session.scalars(asked.order_by(LogLine.time_ns, LogLine.id).limit(limit)).all()


def log_tail(
    session: Session, tenant_id: UUID, run_id: UUID, which: LogFilter, lines: int
) -> Sequence[LogLine]:
    """The last lines of a run, in the order of their time."""
    asked = _lines(tenant_id, run_id, which)
    latest = asked.order_by(LogLine.time_ns.desc(), LogLine.id.desc()).limit(lines)
    return session.scalars(latest).all()[::-1]


def log_ends(session: Session, run_ids: Sequence[UUID], lines: int) -> Sequence[Row]:
    """The last lines of each of several runs: run_id, step, time_ns, level and text."""
    return statements.rows(session, _ENDS, run_ids=list(run_ids), lines=lines)


def log_ends_of_steps(session: Session, run_id: UUID, lines: int) -> Sequence[Row]:
    """The last lines of each step of a run: run_id, step, time_ns, level and text."""
    return statements.rows(session, _ENDS_OF_STEPS, run_id=run_id, lines=lines)


def is_truncated(session: Session, tenant_id: UUID, run_id: UUID, which: LogFilter) -> bool:
    """Whether any attempt that is asked about said more than is kept."""
    asked = select(Output.step_id).where(
        Output.run_id == run_id, Output.tenant_id == tenant_id, Output.log_dropped > 0
    )
    if which.attempt is not None:
        asked = asked.where(Output.attempt == which.attempt)
    if which.step is not None:
        of_step = "SELECT id FROM steps WHERE run_id = :run_id AND key = :key"
        step = statements.row(session, of_step, run_id=run_id, key=which.step)
        asked = asked.where(Output.step_id == (step.id if step else None))
    return session.scalar(asked.limit(1)) is not None


def _lines(tenant_id: UUID, run_id: UUID, which: LogFilter) -> Any:
    asked = select(LogLine).where(LogLine.run_id == run_id, LogLine.tenant_id == tenant_id)
    if which.level:
        asked = asked.where(LogLine.level >= which.level)
    if which.step is not None:
        asked = asked.where(LogLine.step == which.step)
    if which.attempt is not None:
        asked = asked.where(LogLine.attempt == which.attempt)
    if which.since is not None:
        asked = asked.where(LogLine.time_ns >= _nanoseconds(which.since))
    if which.until is not None:
        asked = asked.where(LogLine.time_ns < _nanoseconds(which.until))
    return asked


def _nanoseconds(moment: datetime) -> int:
    """Since 1970, as far as a column of 64 bits reaches."""
    seconds, microseconds = int(moment.timestamp() // 1), moment.microsecond
    return max(-(2**63), min((seconds * 1_000_000 + microseconds) * 1000, 2**63 - 1))
