"""Read the log lines of runs: filtered pages, tails, and whether lines were dropped."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from orchestrator.db import Row, statements
from orchestrator.models import LogLine, Output

# LATERAL with LIMIT reads only the last entries of the index, for each run.
_LAST_LINES = """
    SELECT line.run_id, line.step, line.time_ns, line.level, line.text
    FROM unnest(CAST(:run_ids AS uuid[])) AS run(id), LATERAL (
        SELECT * FROM logs WHERE logs.run_id = run.id ORDER BY time_ns DESC, id DESC LIMIT :lines
    ) line
    ORDER BY line.run_id, line.time_ns, line.id
"""

_LAST_LINES_OF_STEPS = """
    SELECT run_id, step, time_ns, level, text FROM (
        SELECT *, row_number() OVER (PARTITION BY step ORDER BY time_ns DESC, id DESC) AS place
        FROM logs WHERE run_id = :run_id
    ) line
    WHERE place <= :lines ORDER BY time_ns, id
"""


@dataclass(frozen=True, kw_only=True)
class LogFilter:
    """Selects lines of a run's log; None means any."""

    level: int = 0  # minimum
    step: str | None = None
    attempt: int | None = None
    since: datetime | None = None
    until: datetime | None = None  # exclusive


def log_lines(
    session: Session,
    tenant_id: UUID,
    run_id: UUID,
    log_filter: LogFilter,
    *,
    after: tuple[Any, ...] = (0, 0),
    limit: int = 200,
) -> Sequence[LogLine]:
    """The lines of a run after a position (time_ns, id), by time."""
    statement = _select_lines(tenant_id, run_id, log_filter)
    if after != (0, 0):
        statement = statement.where(tuple_(LogLine.time_ns, LogLine.id) > tuple_(*after))
    return session.scalars(statement.order_by(LogLine.time_ns, LogLine.id).limit(limit)).all()


def log_tail(
    session: Session, tenant_id: UUID, run_id: UUID, log_filter: LogFilter, lines: int
) -> Sequence[LogLine]:
    """The last lines of a run, by time."""
    statement = _select_lines(tenant_id, run_id, log_filter)
    latest = statement.order_by(LogLine.time_ns.desc(), LogLine.id.desc()).limit(lines)
    return session.scalars(latest).all()[::-1]


def log_ends(session: Session, run_ids: Sequence[UUID], lines: int) -> Sequence[Row]:
    """The last lines of each of several runs: run_id, step, time_ns, level and text."""
    return statements.rows(session, _LAST_LINES, run_ids=list(run_ids), lines=lines)


def log_ends_of_steps(session: Session, run_id: UUID, lines: int) -> Sequence[Row]:
    """The last lines of each step of a run: run_id, step, time_ns, level and text."""
    return statements.rows(session, _LAST_LINES_OF_STEPS, run_id=run_id, lines=lines)


def is_truncated(session: Session, tenant_id: UUID, run_id: UUID, log_filter: LogFilter) -> bool:
    """Whether lines of any of the selected attempts were dropped."""
    statement = select(Output.step_id).where(
        Output.run_id == run_id, Output.tenant_id == tenant_id, Output.log_dropped > 0
    )
    if log_filter.attempt is not None:
        statement = statement.where(Output.attempt == log_filter.attempt)
    if log_filter.step is not None:
        by_key = "SELECT id FROM steps WHERE run_id = :run_id AND key = :key"
        step = statements.row(session, by_key, run_id=run_id, key=log_filter.step)
        statement = statement.where(Output.step_id == (step.id if step else None))
    return session.scalar(statement.limit(1)) is not None


def _select_lines(tenant_id: UUID, run_id: UUID, log_filter: LogFilter) -> Any:
    statement = select(LogLine).where(LogLine.run_id == run_id, LogLine.tenant_id == tenant_id)
    if log_filter.level:
        statement = statement.where(LogLine.level >= log_filter.level)
    if log_filter.step is not None:
        statement = statement.where(LogLine.step == log_filter.step)
    if log_filter.attempt is not None:
        statement = statement.where(LogLine.attempt == log_filter.attempt)
    if log_filter.since is not None:
        statement = statement.where(LogLine.time_ns >= _nanoseconds(log_filter.since))
    if log_filter.until is not None:
        statement = statement.where(LogLine.time_ns < _nanoseconds(log_filter.until))
    return statement


def _nanoseconds(moment: datetime) -> int:
    """Nanoseconds since 1970, clipped to 64 bits."""
    seconds, microseconds = int(moment.timestamp() // 1), moment.microsecond
    return max(-(2**63), min((seconds * 1_000_000 + microseconds) * 1000, 2**63 - 1))
