"""How attempts end: recorded by their worker, or ended for it when its process is gone."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from orchestrator.db import Row, statements, transitions
from orchestrator.engine import leases, outcomes, progress
from orchestrator.engine.claims import Claim
from orchestrator.engine.outcomes import Interrupted, Outcome, Succeeded
from orchestrator.errors import LeaseLost
from orchestrator.models import AttemptOutcome

_CONTINUED = (AttemptOutcome.SUCCEEDED, AttemptOutcome.SKIPPED)

_END_ATTEMPT = """
    UPDATE attempts SET outcome = :outcome, error = :error, usage = :usage,
        finished_at = clock_timestamp()
    FROM moved WHERE step_id = moved.id AND attempts.number = moved.attempt
"""

_ADD_WARNINGS = """
    WITH step AS (UPDATE steps SET warnings = warnings + :count WHERE id = :step_id)
    UPDATE runs SET warnings = warnings + :count WHERE id = :run_id
"""

_RUNNING = """
    SELECT *, (SELECT kill_at <= now() FROM attempts
               WHERE step_id = steps.id AND number = steps.attempt) AS overdue
    FROM steps WHERE id = :step_id AND attempt = :number AND state = 'running'
"""

_BY_TASK = """
    SELECT step_id, attempts.number AS attempt, attempts.run_id, steps.generation
    FROM attempts JOIN steps ON steps.id = step_id
    WHERE attempts.task_id = :task_id AND outcome IS NULL
      AND (CAST(:worker AS text) IS NULL OR attempts.worker = :worker)
"""


def record_outcome(
    session: Session,
    claim: Claim,
    outcome: Outcome,
    continues: str | None = None,
    *,
    usage: Mapping[str, Any] | None = None,
    warnings: int = 0,
) -> tuple[Row, Row | None]:
    """Record an attempt's outcome and resource usage, and advance its run.

    Returns the step as it is now, and the step of `continues`, the next task of the chain, if
    Celery should publish that. Raises LeaseLost when the attempt has ended already.
    """
    outcome = outcomes.keep_result(outcome)  # before the lock: a large result takes some time
    run = None
    if isinstance(outcome, Succeeded):  # the usual end, for which nothing needs to be read
        statements.lock_ahead(session, "id = :run_id", run_id=claim.run_id)
        change = outcomes.succeeded(outcome)
    else:
        run = transitions.lock_run(session, claim.run_id)
        if run is None:
            raise _lost(claim)
        change = _change(session, run, claim, outcome)
    ended = _end(session, claim, change, run, continues, usage)
    if warnings:
        statements.execute_at_commit(
            session, _ADD_WARNINGS, count=warnings, step_id=claim.step_id, run_id=claim.run_id
        )
    return ended


def end_lost_attempt(
    session: Session,
    task_id: str,
    reason: str | None = None,
    *,
    worker: str | None = None,
    handed_back: bool = False,
) -> Row | None:
    """End the attempt of a task whose process is gone; None if it had ended already.

    With `worker` only an attempt of that worker: its child may have died with an unclaimed copy of
    the message while another worker executes the step. Without `reason` the attempt must still be
    expired once the run is locked. A step that was `handed_back` by a draining worker does not
    count as lost.
    """
    attempt = statements.row(session, _BY_TASK, task_id=task_id, worker=worker)
    run = transitions.lock_run(session, attempt.run_id) if attempt else None
    if attempt is None or run is None:
        return None
    if reason is None:
        expired = leases.expired_attempts(session, task_id=task_id)
        if not expired:
            return None
        reason = expired[0].reason
    try:
        change = _change(session, run, attempt, Interrupted(reason, handed_back))
        return _end(session, attempt, change, run)[0]
    except LeaseLost:
        return None


def _end(
    session: Session,
    claim: Claim | Row,
    change: outcomes.Change,
    run: Row | None,
    continues: str | None = None,
    usage: Mapping[str, Any] | None = None,
) -> tuple[Row, Row | None]:
    """Change the step under the run's lock and the attempt's fence, and advance the run."""
    fenced = "id = :step_id AND attempt = :number AND generation = :generation"
    values = f"error = :error, {change.values}".rstrip(", ")
    step, ready = (
        transitions.steps(session, change.transition)
        .where(fenced, step_id=claim.step_id, number=claim.attempt, generation=claim.generation)
        .set(values, error=statements.to_json(change.error), **change.params)
        .then(
            _END_ATTEMPT,
            outcome=change.outcome,
            usage=statements.to_json(usage),
            # Celery goes on with a chain only after a success.
            continues=continues if change.outcome in _CONTINUED else None,
        )
        .one_and_ready()
    )
    if step is None:
        raise _lost(claim)
    return step, progress.advance(session, run, step, ready)


def _change(session: Session, run: Row, claim: Claim | Row, outcome: Outcome) -> outcomes.Change:
    step = statements.row(session, _RUNNING, step_id=claim.step_id, number=claim.attempt)
    if step is None:
        raise _lost(claim)
    return outcomes.change_for(run, step, outcome)


def _lost(claim: Claim | Row) -> LeaseLost:
    attempt = f"attempt {claim.attempt} of step {claim.step_id}"
    return LeaseLost(f"{attempt} has ended already, or its run is gone")
