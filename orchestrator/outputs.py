"""What attempts say: written in batches, read as logs and as what a run and its steps show."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from orchestrator import events, store
from orchestrator.output_models import LogLine, Output
from orchestrator.said import Batch, Source
from orchestrator.store import Found

# Twice the same batch is once: how many lines are there already says which of them are new. A run
# that is gone meanwhile keeps nothing, nor does an attempt that a crash of Postgres has forgotten:
# its lines would pass for the first ones of that which has its number now.
_KNOWN = """
    SELECT FROM attempts WHERE step_id = CAST(:step_id AS uuid) AND number = CAST(:attempt AS int)
        AND started_at = CAST(:started_at AS timestamptz)
"""
_SAY = f"""
    WITH line AS (
        INSERT INTO logs (run_id, time_ns, tenant_id, step, attempt, level, text)
        SELECT CAST(:run_id AS uuid), CAST(value ->> 0 AS bigint), CAST(:tenant_id AS uuid),
            CAST(:step AS text), CAST(:attempt AS int), CAST(value ->> 1 AS smallint), value ->> 2
        FROM json_array_elements(CAST(:lines AS json)) WITH ORDINALITY AS line(value, at)
        WHERE CAST(:first AS int) + at > coalesce((
                SELECT log_lines FROM outputs
                WHERE step_id = CAST(:step_id AS uuid) AND attempt = CAST(:attempt AS int)), 0)
          AND EXISTS ({_KNOWN})
    )
    INSERT INTO outputs AS known (step_id, attempt, tenant_id, run_id, progress, stage, message,
        metrics, warnings, data, log_lines, log_dropped)
    SELECT CAST(:step_id AS uuid), CAST(:attempt AS int), CAST(:tenant_id AS uuid),
        CAST(:run_id AS uuid), CAST(:progress AS float), CAST(:stage AS text),
        CAST(:message AS text), coalesce(CAST(:metrics AS jsonb), '{{}}'),
        coalesce(CAST(:warnings AS jsonb), '[]'), coalesce(CAST(:data AS jsonb), '{{}}'),
        CAST(:first AS int) + CAST(:count AS int), CAST(:dropped AS int)
    WHERE EXISTS ({_KNOWN})
    ON CONFLICT (step_id, attempt) DO UPDATE SET
        progress = excluded.progress, stage = excluded.stage, message = excluded.message,
        metrics = coalesce(CAST(:metrics AS jsonb), known.metrics),
        warnings = coalesce(CAST(:warnings AS jsonb), known.warnings),
        data = coalesce(CAST(:data AS jsonb), known.data),
        log_lines = excluded.log_lines, log_dropped = excluded.log_dropped, updated_at = now()
"""
# A commit whose answer was lost may be on its way still. This waits for it, so that the next
# statement sees the lines that it has brought.
_WAIT = f"""
    INSERT INTO outputs AS known (step_id, attempt, tenant_id, run_id)
    SELECT CAST(:step_id AS uuid), CAST(:attempt AS int), CAST(:tenant_id AS uuid),
        CAST(:run_id AS uuid)
    WHERE EXISTS ({_KNOWN})
    ON CONFLICT (step_id, attempt) DO UPDATE SET log_lines = known.log_lines
"""
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
_STILL = """
    SELECT 1 FROM steps WHERE id = :id AND attempt = :attempt AND started_at = :started_at
      AND state = 'running'
"""


@dataclass(frozen=True, kw_only=True)
class LogFilter:
    """Which lines of a run's log."""

    level: int = 0  # at least
    step: str | None = None
    attempt: int | None = None
    since: datetime | None = None
    until: datetime | None = None  # not included


def write(session: Session, source: Source, batch: Batch) -> None:
    """Write what an attempt has said. It waits for no lock of the run."""
    who = vars(source)
    if batch.again:
        store.change(session, _WAIT, **who)
    store.change(
        session,
        _SAY,
        **who,
        first=batch.first,
        count=len(batch.lines),
        lines=store.json(batch.lines),
        dropped=batch.dropped,
        progress=batch.progress,
        stage=batch.stage,
        message=batch.message,
        metrics=store.json(batch.metrics),
        warnings=store.json(batch.warnings),
        data=store.json(batch.data),
    )


def note_progress(session: Session, source: Source, batch: Batch) -> None:
    """Put into the run's history how far an attempt is; the caller holds the run's lock."""
    events.note(
        session,
        source.run_id,
        "step.progress",
        step=source.step,
        attempt=source.attempt,
        percent=batch.percent,
        stage=batch.stage,
        message=batch.message,
    )


def note_progress_if_free(session: Session, source: Source, batch: Batch) -> bool:
    """As `note_progress`, unless somebody works on the run at this moment: then False."""
    if not store.lock_free(session, [source.run_id]):
        return False
    mine = {"id": source.step_id, "attempt": source.attempt, "started_at": source.started_at}
    if store.row(session, _STILL, **mine) is not None:
        note_progress(session, source, batch)
    return True


def log(
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


def tail(
    session: Session, tenant_id: UUID, run_id: UUID, which: LogFilter, lines: int
) -> Sequence[LogLine]:
    """The last lines of a run, in the order of their time."""
    asked = _lines(tenant_id, run_id, which)
    latest = asked.order_by(LogLine.time_ns.desc(), LogLine.id.desc()).limit(lines)
    return session.scalars(latest).all()[::-1]


def ends(session: Session, run_ids: Sequence[UUID], lines: int) -> Sequence[Found]:
    """The last lines of each of several runs: run_id, step, time_ns, level and text."""
    return store.rows(session, _ENDS, run_ids=list(run_ids), lines=lines)


def ends_of_steps(session: Session, run_id: UUID, lines: int) -> Sequence[Found]:
    """The last lines of each step of a run: run_id, step, time_ns, level and text."""
    return store.rows(session, _ENDS_OF_STEPS, run_id=run_id, lines=lines)


def is_truncated(session: Session, tenant_id: UUID, run_id: UUID, which: LogFilter) -> bool:
    """Whether any attempt that is asked about said more than is kept."""
    asked = select(Output.step_id).where(
        Output.run_id == run_id, Output.tenant_id == tenant_id, Output.log_dropped > 0
    )
    if which.attempt is not None:
        asked = asked.where(Output.attempt == which.attempt)
    if which.step is not None:
        of_step = "SELECT id FROM steps WHERE run_id = :run_id AND key = :key"
        step = store.row(session, of_step, run_id=run_id, key=which.step)
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
