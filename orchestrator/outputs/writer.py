"""Write what an attempt reports while it works."""

from sqlalchemy.orm import Session

from orchestrator.db import journal, statements, transitions
from orchestrator.sdk.reports import AttemptRef, OutputBatch

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

_STILL = """
    SELECT 1 FROM steps WHERE id = :id AND attempt = :attempt AND started_at = :started_at
      AND state = 'running'
"""


def write_output(session: Session, source: AttemptRef, batch: OutputBatch) -> None:
    """Write what an attempt has said. It waits for no lock of the run."""
    who = vars(source)
    if batch.again:
        statements.execute(session, _WAIT, **who)
    statements.execute(
        session,
        _SAY,
        **who,
        first=batch.first,
        count=len(batch.lines),
        lines=statements.to_json(batch.lines),
        dropped=batch.dropped,
        progress=batch.progress,
        stage=batch.stage,
        message=batch.message,
        metrics=statements.to_json(batch.metrics),
        warnings=statements.to_json(batch.warnings),
        data=statements.to_json(batch.data),
    )


def record_progress(session: Session, source: AttemptRef, batch: OutputBatch) -> None:
    """Put into the run's history how far an attempt is; the caller holds the run's lock."""
    journal.record_event(
        session,
        source.run_id,
        "step.progress",
        step=source.step,
        attempt=source.attempt,
        percent=batch.percent,
        stage=batch.stage,
        message=batch.message,
    )


def try_record_progress(session: Session, source: AttemptRef, batch: OutputBatch) -> bool:
    """As `note_progress`, unless somebody works on the run at this moment: then False."""
    if not transitions.lock_unlocked_runs(session, [source.run_id]):
        return False
    mine = {"id": source.step_id, "attempt": source.attempt, "started_at": source.started_at}
    if statements.row(session, _STILL, **mine) is not None:
        record_progress(session, source, batch)
    return True
