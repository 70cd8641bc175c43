"""What a worker may do with a step: claim it, record how it ended, lose it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator import flow, leases, outcomes, store
from orchestrator.errors import LeaseLost
from orchestrator.models import AttemptOutcome
from orchestrator.outcomes import Interrupted, Outcome, Succeeded
from orchestrator.said import Source
from orchestrator.states import RunState, RunTransition, StepTransition
from orchestrator.store import Found


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to one attempt of one step, and all that is needed to execute it."""

    step_id: UUID
    attempt: int  # the fence
    generation: int  # of the message; a claim that a crash of Postgres forgot has an older one
    started_at: datetime  # to the microsecond: no two claims of an attempt have the same
    run_id: UUID
    tenant_id: UUID
    workflow: str
    run: Mapping[str, Any]  # what a handler may know of it
    key: str
    uses: str
    spec: Mapping[str, Any]
    params: Mapping[str, Any]
    results: Mapping[str, Any]  # by key, of the steps that this one reads
    spilled: Mapping[str, UUID]  # the artifacts of those whose result is too large for a row

    @property
    def source(self) -> Source:
        """Who speaks when its handler does."""
        return Source(
            tenant_id=self.tenant_id,
            run_id=self.run_id,
            step_id=self.step_id,
            step=self.key,
            attempt=self.attempt,
            started_at=self.started_at,
        )


STARTED = "started_at = clock_timestamp(), deadline_at = clock_timestamp() + timeout"  # of a run
_KNOWN = (
    "number", "trigger", "logical_date", "variables", "event_variables", "run_as",
    "environment",
)  # fmt: skip


_CONTINUED = (AttemptOutcome.SUCCEEDED, AttemptOutcome.SKIPPED)


class _Fence(NamedTuple):
    """What must still be so for an attempt to change its step."""

    step_id: UUID
    number: int
    generation: int


_RUN_OF = "id = (SELECT run_id FROM steps WHERE id = :step_id)"
_CLAIMABLE = f"""
    id = :step_id AND generation = :generation AND EXISTS (
        SELECT FROM runs WHERE id = steps.run_id
        AND state IN ('{RunState.QUEUED}', '{RunState.RUNNING}'))
"""
_BEGIN_ATTEMPT = """
    INSERT INTO attempts (step_id, number, run_id, task_id, worker, started_at, lease_until,
        kill_at)
    SELECT id, attempt, run_id, task_id, :worker, started_at,
        clock_timestamp() + CAST(:lease AS interval),
        clock_timestamp() + CAST(:grace AS interval)
            + CAST(spec ->> 'timeout' AS float) * interval '1 second'
    FROM moved
"""
_CLAIMED = f"""
    moved.id, run_id, key, uses, attempt, generation, spec, moved.started_at,
    runs.state AS run_state, tenant_id, workflow, params, {", ".join(_KNOWN)},
    (SELECT jsonb_agg(jsonb_build_array(key, result, result_artifact)) FROM steps
     WHERE run_id = moved.run_id
       AND key = ANY(ARRAY(SELECT jsonb_array_elements_text(moved.spec -> 'reads')))) AS read
    FROM moved JOIN runs ON runs.id = moved.run_id
"""
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
    SELECT step_id, attempts.number, attempts.run_id, steps.generation
    FROM attempts JOIN steps ON steps.id = step_id
    WHERE attempts.task_id = :task_id AND outcome IS NULL
      AND (CAST(:worker AS text) IS NULL OR attempts.worker = :worker)
"""


def claim(
    session: Session,
    step_id: UUID,
    generation: int,
    *,
    worker: str,
    lease: timedelta,
    grace: timedelta,
) -> Claim | None:
    """Take the right to one attempt, or None: the message is stale or the run does not go on.

    The attempt is killed when its step's timeout and then the grace have passed.
    """
    store.lock_ahead(session, _RUN_OF, step_id=step_id)
    step = store.move_step(
        session,
        StepTransition.CLAIM,
        _CLAIMABLE,
        "attempt = attempt + 1, worker = :worker, started_at = clock_timestamp(), error = NULL",
        _BEGIN_ATTEMPT,
        _CLAIMED,
        step_id=step_id,
        generation=generation,
        worker=worker,
        lease=lease,
        grace=grace,
    )
    if step is None:
        return None
    if step.run_state == RunState.QUEUED:
        store.move_run(session, step.run_id, RunTransition.START, STARTED)
    read = step.read or ()
    return Claim(
        step_id=step.id,
        attempt=step.attempt,
        generation=step.generation,
        started_at=step.started_at,
        run_id=step.run_id,
        tenant_id=step.tenant_id,
        workflow=step.workflow,
        run={name: getattr(step, name) for name in ("workflow", *_KNOWN)},
        key=step.key,
        uses=step.uses,
        spec=step.spec,
        params=step.params,
        results={key: result for key, result, _ in read},
        spilled={key: UUID(artifact) for key, _, artifact in read if artifact},
    )


def record(
    session: Session,
    claim: Claim,
    outcome: Outcome,
    continues: str | None = None,
    *,
    usage: Mapping[str, Any] | None = None,
    warnings: int = 0,
) -> tuple[Found, bool]:
    """Write down how an attempt ended, what it took, and do what follows from it.

    Gives the step as it is now, and whether Celery should publish `continues`, the next task of
    the chain. Raises LeaseLost when another attempt answers for the step now.
    """
    outcome = outcomes.kept(outcome)  # before the lock: a large result takes a while
    fence = _Fence(claim.step_id, claim.attempt, claim.generation)
    run = None
    if isinstance(outcome, Succeeded):  # the usual end, for which nothing has to be looked up
        store.lock_ahead(session, "id = :run_id", run_id=claim.run_id)
        change = outcomes.succeeded(outcome)
    else:
        run = store.lock_run(session, claim.run_id)
        if run is None:
            raise _lost(fence)
        change = _change(session, run, fence, outcome)
    ended = _end(session, fence, change, run, continues, usage)
    if warnings:
        store.change_later(
            session, _ADD_WARNINGS, count=warnings, step_id=claim.step_id, run_id=claim.run_id
        )
    return ended


def lose(
    session: Session,
    task_id: str,
    reason: str | None = None,
    *,
    worker: str | None = None,
    handed_back: bool = False,
) -> Found | None:
    """End the attempt behind a task whose process is gone; None if it had ended already.

    With a `worker`, only one of its own: a copy of the message may have died with it, unclaimed,
    while another worker executes the step. Without a reason the attempt must have `expired` still,
    once the run is locked. What a worker has `handed_back` because it was told to end is not
    counted as a loss.
    """
    found = store.row(session, _BY_TASK, task_id=task_id, worker=worker)
    run = store.lock_run(session, found.run_id) if found else None
    if found is None or run is None:
        return None
    if reason is None:
        still = leases.expired(session, task_id=task_id).get(task_id)
        if still is None:
            return None
        reason = still.reason
    fence = _Fence(found.step_id, found.number, found.generation)
    try:
        change = _change(session, run, fence, Interrupted(reason, handed_back))
        return _end(session, fence, change, run)[0]
    except LeaseLost:
        return None


def take_back(session: Session, run: Found, step: Found, reason: str) -> None:
    """End the attempt of a running step, whoever may answer for it, under the run's lock."""
    fence = _Fence(step.id, step.attempt, step.generation)
    _end(session, fence, _change(session, run, fence, Interrupted(reason)), run)


def _end(
    session: Session,
    fence: _Fence,
    change: outcomes.Change,
    run: Found | None,
    continues: str | None = None,
    usage: Mapping[str, Any] | None = None,
) -> tuple[Found, bool]:
    """Change the step under the run's lock and the attempt's fence; see what follows from it."""
    step, ready = store.move_step_on(
        session,
        change.transition,
        "id = :step_id AND attempt = :number AND generation = :generation",
        f"error = :error, {change.values}".rstrip(", "),
        _END_ATTEMPT,
        **fence._asdict(),
        error=store.json(change.error),
        # Celery goes on with a chain only after a success.
        continues=continues if change.outcome in _CONTINUED else None,
        outcome=change.outcome,
        usage=store.json(usage),
        **change.given,
    )
    if step is None:
        raise _lost(fence)
    return step, flow.go_on(session, run, step, ready)


def _change(session: Session, run: Found, fence: _Fence, outcome: Outcome) -> outcomes.Change:
    step = store.row(session, _RUNNING, step_id=fence.step_id, number=fence.number)
    if step is None:
        raise _lost(fence)
    return outcomes.change_of(run, step, outcome)


def _lost(fence: _Fence) -> LeaseLost:
    told = "has ended already, or its run is gone"
    return LeaseLost(f"attempt {fence.number} of step {fence.step_id} {told}")
