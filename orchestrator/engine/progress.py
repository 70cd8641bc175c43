"""What follows when a step has ended: the next steps, or the end of the run."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from orchestrator.db import Row, statements, transitions
from orchestrator.engine import concurrency
from orchestrator.engine.publishing import FAN_OUT, publish, revoke
from orchestrator.models import Run
from orchestrator.states import (
    RunState,
    RunTransition,
    SkipCause,
    StepState,
    StepTransition,
    satisfies,
)

# A run that was reopened for one step may fail because of another one that it kept.
_SET_ERROR = """
    UPDATE runs SET error = (
        SELECT jsonb_build_object('step', key) || coalesce(steps.error, '{}') FROM steps
        WHERE run_id = :id AND state = 'failed' AND NOT allow_failure ORDER BY position LIMIT 1
    ) WHERE id = :id AND error IS NULL
"""


def advance(session: Session, run: Row | None, step: Row, ready: Sequence[Row]) -> Row | None:
    """Do what follows from a step that has ended, under the run's lock.

    `ready`: the steps that may begin now; they are published after the commit, except the one that
    Celery publishes itself as the chain's next task: that is returned. `run` is read if None.
    """
    if ready:
        publish(session, [each for each in ready if each.published_at is None][:FAN_OUT])
        return next((each for each in ready if each.published_at is not None), None)
    run = run or transitions.lock_run(session, step.run_id)
    assert run is not None
    ended = step.state in (StepState.SUCCEEDED, StepState.SKIPPED, StepState.FAILED)
    if ended and not satisfies(step.state, step.skip_cause, step.allow_failure):
        fail_run(session, run, step)
    else:
        close_if_ended(session, run)
    return None


def close_if_ended(session: Session, run: Row | Run) -> None:
    """End the run, under its lock, if it has no open step."""
    if transitions.has_open_steps(session, run.id):
        return
    if run.state == RunState.CANCELLING:
        transition = RunTransition.TIME_OUT if run.timed_out else RunTransition.STOPPED
    else:
        transition = transitions.outcome_of(session, run.id)
    if transition == RunTransition.FAIL:
        statements.execute(session, _SET_ERROR, id=run.id)
    transitions.runs(session, transition).where("id = :id", id=run.id).one()
    concurrency.release(session, run)


def fail_run(session: Session, run: Row, failed: Row) -> None:
    """Fail the run because of a step: no further step starts; running steps may still end."""
    statements.execute(
        session,
        "UPDATE runs SET error = :error WHERE id = :id AND error IS NULL",
        id=run.id,
        error=statements.to_json({"step": failed.key, **(failed.error or {})}),
    )
    omitted = (
        transitions.steps(session, StepTransition.OMIT)
        .where("run_id = :run_id", run_id=run.id)
        .set(f"skip_cause = '{SkipCause.UPSTREAM}'")
        .all()
    )
    revoke(session, omitted)
    close_if_ended(session, run)
