"""Write the output of running attempts: log lines, progress, metrics, warnings and data."""

from sqlalchemy.orm import Session

from orchestrator.db import journal, statements, transitions
from orchestrator.sdk.reports import AttemptRef, OutputBatch

# A batch is idempotent: `outputs.log_lines` tells which lines are new. Nothing is written for a
# deleted run, nor for a claim that a crash of Postgres has lost: its lines would be taken for the
# first ones of the attempt that has the same number now.
_ATTEMPT_EXISTS = """
    SELECT FROM attempts WHERE step_id = CAST(:step_id AS uuid) AND number = CAST(:attempt AS int)
        AND started_at = CAST(:started_at AS timestamptz)
"""

_WRITE = f"""
    WITH line AS (
        INSERT INTO logs (run_id, time_ns, tenant_id, step, attempt, level, text)
        SELECT CAST(:run_id AS uuid), CAST(value ->> 0 AS bigint), CAST(:tenant_id AS uuid),
            CAST(:step AS text), CAST(:attempt AS int), CAST(value ->> 1 AS smallint), value ->> 2
        FROM json_array_elements(CAST(:lines AS json)) WITH ORDINALITY AS line(value, at)
        WHERE CAST(:first AS int) + at > coalesce((
                SELECT log_lines FROM outputs
                WHERE step_id = CAST(:step_id AS uuid) AND attempt = CAST(:attempt AS int)), 0)
          AND EXISTS ({_ATTEMPT_EXISTS})
    )
    INSERT INTO outputs AS known (step_id, attempt, tenant_id, run_id, progress, stage, message,
        metrics, warnings, data, log_lines, log_dropped)
    SELECT CAST(:step_id AS uuid), CAST(:attempt AS int), CAST(:tenant_id AS uuid),
        CAST(:run_id AS uuid), CAST(:progress AS float), CAST(:stage AS text),
        CAST(:message AS text), coalesce(CAST(:metrics AS jsonb), '{{}}'),
        coalesce(CAST(:warnings AS jsonb), '[]'), coalesce(CAST(:data AS jsonb), '{{}}'),
        CAST(:first AS int) + CAST(:count AS int), CAST(:dropped AS int)
    WHERE EXISTS ({_ATTEMPT_EXISTS})
    ON CONFLICT (step_id, attempt) DO UPDATE SET
        progress = greatest(excluded.progress, known.progress),
        stage = coalesce(excluded.stage, known.stage),
        message = coalesce(excluded.message, known.message),
        metrics = coalesce(CAST(:metrics AS jsonb), known.metrics),
        warnings = coalesce(CAST(:warnings AS jsonb), known.warnings),
        data = coalesce(CAST(:data AS jsonb), known.data),
        log_lines = excluded.log_lines, log_dropped = excluded.log_dropped, updated_at = now()
"""

# A commit in doubt may still be running. This waits for its row lock, so that the next statement
# sees the lines that it wrote.
_WAIT_FOR_COMMIT = f"""
    INSERT INTO outputs AS known (step_id, attempt, tenant_id, run_id)
    SELECT CAST(:step_id AS uuid), CAST(:attempt AS int), CAST(:tenant_id AS uuid),
        CAST(:run_id AS uuid)
    WHERE EXISTS ({_ATTEMPT_EXISTS})
    ON CONFLICT (step_id, attempt) DO UPDATE SET log_lines = known.log_lines
"""

_IS_RUNNING = """
    SELECT 1 FROM steps WHERE id = :step_id AND attempt = :attempt AND started_at = :started_at
      AND state = 'running'
"""


def write_output(session: Session, source: AttemptRef, batch: OutputBatch) -> None:
    """Upsert the output of an attempt. It waits for no lock of the run."""
    attempt = vars(source)
    if batch.again:
        statements.execute(session, _WAIT_FOR_COMMIT, **attempt)
    statements.execute(
        session,
        _WRITE,
        **attempt,
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
    """Record a `step.progress` event; the caller holds the run's lock."""
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
    """Like `record_progress` if the run's lock is free and the attempt runs; False if locked."""
    if not transitions.lock_unlocked_runs(session, [source.run_id]):
        return False
    if is_running(session, source):
        record_progress(session, source, batch)
    return True


def is_running(session: Session, source: AttemptRef) -> bool:
    """Whether an attempt still has its step."""
    return statements.row(session, _IS_RUNNING, **vars(source)) is not None
