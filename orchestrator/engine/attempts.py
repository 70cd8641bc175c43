"""How attempts end: recorded by their worker, or ended for it when its process is gone."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from orchestrator.db import Row, statements, transitions
from orchestrator.db.autocommit import AnySession
from orchestrator.engine import claims, leases, outcomes, publishing
from orchestrator.engine.claims import TERMS, Claim, Claimant
from orchestrator.engine.outcomes import Interrupted, Outcome, Succeeded
from orchestrator.errors import LeaseLost
from orchestrator.models import AttemptOutcome
from orchestrator.states import StepState

_CONTINUED = (AttemptOutcome.SUCCEEDED, AttemptOutcome.SKIPPED)

_FINISH = f"""
    SELECT * FROM finish_and_read(:run_id, :step, :number, :fence, :event, :target, :outcome,
        :change, :result, :usage, :warnings, :continues, :carrier, {TERMS})
"""

_RUNNING = """
    SELECT *, (SELECT kill_at <= now() FROM attempts
               WHERE step_id = steps.id AND number = steps.attempt) AS overdue,
        (SELECT continue_on_failure FROM runs JOIN schedules ON schedules.id = schedule_id
         WHERE runs.id = steps.run_id) AS goes_on
    FROM steps WHERE id = :step_id AND attempt = :number AND state = 'running'
"""

_BY_TASK = """
    SELECT step_id, attempts.number AS attempt, attempts.run_id, steps.generation
    FROM attempts JOIN steps ON steps.id = step_id
    WHERE attempts.task_id = :task_id AND outcome IS NULL
      AND (CAST(:worker AS text) IS NULL OR attempts.worker = :worker)
"""

# Only its own worker records the usage of an attempt that ends.
_RECORDED = """
    SELECT steps.state, steps.error, (
        SELECT next.queue FROM steps next WHERE next.run_id = steps.run_id
          AND next.task_id = :continues AND next.state = 'queued' LIMIT 1) AS queue
    FROM attempts JOIN steps ON steps.id = step_id
    WHERE step_id = :step_id AND attempts.number = :number
      AND attempts.started_at = :started_at AND outcome IS NOT NULL
      AND usage IS NOT NULL
"""


class Slot(NamedTuple):
    """The Celery task that a worker executes, for which it can claim another step in place."""

    task_id: str
    claimant: Claimant


class Recorded(NamedTuple):
    """The step after its attempt, and what goes on."""

    state: StepState
    queue: str | None = None  # of the chain's next task, if Celery should publish that
    claim: Claim | None = None  # of the next step, in place
    error: Mapping[str, Any] | None = None


def record_outcome(
    session: Session,
    claim: Claim,
    outcome: Outcome,
    continues: str | None = None,
    *,
    usage: Mapping[str, Any] | None = None,
    warnings: int = 0,
    slot: Slot | None = None,
) -> Recorded:
    """Record an attempt's outcome and resource usage, and advance its run.

    `continues` is the next task of the chain. With a slot, the only step that becomes ready may be
    claimed for it. Raises LeaseLost when the attempt has ended already.
    """
    outcome = outcomes.keep_result(outcome)  # before the lock: a large result takes some time
    if isinstance(outcome, Succeeded):
        return record_success(
            session, claim, outcome, continues, usage=usage, warnings=warnings, slot=slot
        )
    run = transitions.lock_run(session, claim.run_id)
    if run is None:
        raise _lost(claim)
    change = _change(session, run, claim, outcome)
    return _finish(session, claim, change, continues, usage, warnings, slot)


def record_success(
    session: AnySession,
    claim: Claim,
    outcome: Succeeded,
    continues: str | None = None,
    *,
    usage: Mapping[str, Any] | None = None,
    warnings: int = 0,
    slot: Slot | None = None,
) -> Recorded:
    """Record a checked success, the usual end, for which nothing needs to be read."""
    change = outcomes.succeeded(outcome)
    return _finish(session, claim, change, continues, usage, warnings, slot)


def recover_recorded(
    session: Session, claim: Claim, continues: str | None, slot: Slot | None
) -> Recorded | None:
    """What was recorded of the attempt by its worker; None if nothing was."""
    transitions.lock_run(session, claim.run_id)  # waits for the commit in doubt
    fence = {"step_id": claim.step_id, "number": claim.attempt, "started_at": claim.started_at}
    step = statements.row(session, _RECORDED, continues=continues, **fence)
    if step is None:
        return None
    held = slot and claims.held_claim(session, claim.run_id, slot.task_id, slot.claimant)
    return Recorded(step.state, step.queue, held, step.error)


def end_lost_attempt(
    session: Session,
    task_id: str,
    reason: str | None = None,
    *,
    worker: str | None = None,
    handed_back: bool = False,
) -> Recorded | None:
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
        return _finish(session, attempt, change)
    except LeaseLost:
        return None


def _finish(
    session: AnySession,
    claim: Claim | Row,
    change: outcomes.Change,
    continues: str | None = None,
    usage: Mapping[str, Any] | None = None,
    warnings: int = 0,
    slot: Slot | None = None,
) -> Recorded:
    """Change the step under the run's lock and the attempt's fence, and advance the run."""
    more = change.more if change.error is None else {**change.more, "error": change.error}
    # Celery goes on with a chain only after a success.
    goes_on = change.outcome in _CONTINUED
    row = statements.row(
        session,
        _FINISH,
        run_id=claim.run_id,
        step=claim.step_id,
        number=claim.attempt,
        fence=claim.generation,
        event=change.transition.event,
        target=change.transition.target,
        outcome=change.outcome,
        change=statements.to_json(more),
        result=change.result,
        usage=statements.to_json(usage),
        warnings=warnings,
        continues=continues if goes_on else None,
        carrier=slot and slot.task_id,
        **(slot.claimant.params if slot and goes_on else _NOBODY),
    )
    if row is None:
        raise _lost(claim)
    publishing.deliver(session, row.published or ())
    publishing.revoke(session, row.revoked or ())
    following = claims.claim_of(row) if row.next_step else None
    return Recorded(row.step_state, row.next_queue, following, row.step_error)


_NOBODY = dict.fromkeys(("worker", "thread", "queues", "lease", "grace", "timeouts"))


def _change(session: Session, run: Row, claim: Claim | Row, outcome: Outcome) -> outcomes.Change:
    step = statements.row(session, _RUNNING, step_id=claim.step_id, number=claim.attempt)
    if step is None:
        raise _lost(claim)
    return outcomes.change_for(run, step, outcome)


def _lost(claim: Claim | Row) -> LeaseLost:
    attempt = f"attempt {claim.attempt} of step {claim.step_id}"
    return LeaseLost(f"{attempt} has ended already, or its run is gone")
