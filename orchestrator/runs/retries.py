"""Retry runs that have ended: all steps, the failed ones, or from one step on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator import audit
from orchestrator.db import statements, transitions
from orchestrator.engine import admission, concurrency
from orchestrator.errors import Conflict, Invalid, InvalidTransition, Mistake, NotFound
from orchestrator.models import Run, Schedule, Step, Trigger
from orchestrator.runs import idempotency, queries, submission
from orchestrator.spec.graph import downstream
from orchestrator.states import (
    FINAL_RUNS,
    RunState,
    RunTransition,
    SkipCause,
    StepTransition,
    satisfies,
)

_REOPEN = """
    params = coalesce(CAST(:params AS jsonb), params),
    priority = coalesce(CAST(:priority AS smallint), priority),
    timeout = coalesce(CAST(:timeout AS interval), timeout),
    reason = coalesce(CAST(:reason AS text), reason),
    concurrency_key = CAST(:concurrency_key AS text),
    error = NULL, timed_out = false, stop_by = NULL, cancel_requested_at = NULL,
    cancel_reason = NULL, deadline_at = NULL, queued_at = NULL, started_at = NULL, due = :due,
    held = false, run_at = now(), passed_sla = false,
    late_at = now() + (late_at - coalesce(run_at, created_at)),
    warnings = (SELECT coalesce(sum(warnings), 0) FROM steps
                WHERE run_id = runs.id AND key <> ALL(:keys))
"""
_RESET = """
    forgiven = attempt, losses = 0, priority = coalesce(CAST(:priority AS smallint), priority),
    warnings = 0, result_artifact = NULL, skip_cause = NULL, task_id = NULL, worker = NULL,
    result = NULL, error = NULL,
    published_at = NULL, wake_at = NULL, queued_at = NULL, started_at = NULL
"""
# Not a transition: the steps of the new run are still being created.
_KEEP = """
    UPDATE steps SET state = kept.state, skip_cause = kept.skip_cause, result = kept.result,
        result_artifact = kept.result_artifact, warnings = kept.warnings,
        error = kept.error, started_at = kept.started_at, finished_at = kept.finished_at
    FROM steps kept
    WHERE steps.run_id = :new AND kept.run_id = :old AND kept.key = steps.key
      AND kept.key <> ALL(:keys)
"""
# A deleted run ends the chain.
_RETRY_NUMBER = """
    WITH RECURSIVE chain AS (
        SELECT retry_of, 1 AS runs FROM runs WHERE id = :id
        UNION ALL
        SELECT runs.retry_of, chain.runs + 1 FROM chain JOIN runs ON runs.id = chain.retry_of
        WHERE chain.runs < 10000
    ) SELECT max(runs) AS runs FROM chain
"""


class RetryMode(StrEnum):
    """Which steps of a run are retried."""

    FULL = "full"
    FROM_FAILED = "from_failed"  # those that failed, were cancelled, or were skipped for that
    FROM_STEP = "from_step"  # one step and all that need it


class RetryTarget(StrEnum):
    """Which run the retried steps belong to."""

    SAME = "same"  # the same run; attempt numbers go on
    NEW = "new"  # a new run that refers to the old one


@dataclass(frozen=True, kw_only=True)
class RetryRequest:
    """A request for a retry; None keeps the value of the run."""

    mode: RetryMode = RetryMode.FROM_FAILED
    step: str | None = None
    where: RetryTarget = RetryTarget.SAME
    # Whether a new run with all steps is of the version that its schedule, or else its workflow,
    # would run now.
    latest: bool = False
    params: Mapping[str, Any] | None = None
    priority: int | None = None
    timeout: timedelta | None = None
    reason: str | None = None
    submitted_by: str | None = None


def retry(
    session: Session,
    tenant_id: UUID,
    run_id: UUID,
    request: RetryRequest,
    *,
    window: int,
    idempotency_key: str | None = None,
    good_for: timedelta | None = None,
) -> Run:
    """Run the steps of the mode again; the other steps keep their outputs.

    Idempotency keys work as for `submit`. Raises NotFound, InvalidTransition if the run has not
    ended or no step failed, Conflict if a step that is kept has no result for one that is retried,
    Invalid for `latest` with another mode, InvalidParams and IdempotencyMismatch.
    """
    if request.latest and (request.mode, request.where) != (RetryMode.FULL, RetryTarget.NEW):
        mistake = Mistake("/latest", "give `latest` with mode full and as new, and only then")
        raise Invalid("the steps of another version cannot be mixed in", mistake)
    fields = {name: value for name, value in vars(request).items() if name != "submitted_by"}
    fields["run_id"] = run_id
    if not request.latest:
        del fields["latest"]  # requests of earlier releases have no such field
    earlier = idempotency.reserve(session, tenant_id, idempotency_key, fields, good_for)
    if earlier is not None:
        return queries.get(session, tenant_id, earlier[0])
    queries.lock(session, tenant_id, run_id)
    run = queries.get(session, tenant_id, run_id)
    if run.state not in FINAL_RUNS:
        raise InvalidTransition(
            f"run {run.id} is {run.state}: only a run that has ended is retried"
        )
    if request.params is not None:
        params = submission.with_hidden(session, run, request.params)
        request = replace(request, params=params)
    keys = sorted(_retried_keys(run, queries.steps(session, run), request))
    again = _reopen if request.where == RetryTarget.SAME else _copy
    before = {"state": run.state}
    run = again(session, run, keys, request)
    after = {name: value for name, value in fields.items() if value is not None}
    after |= {"state": RunState.PENDING, "run_id": run.id}
    audit.record(session, tenant_id, "run.retry", run_id, before=before, after=after)
    admission.admit_at_once(session, run, window)
    idempotency.remember(session, tenant_id, idempotency_key, [run.id])
    return run


def retry_number(session: Session, run: Run) -> int:
    """The position of a run in its chain of retries: 1 for a run that retries none."""
    if run.retry_of is None:
        return 1
    return int(statements.rows(session, _RETRY_NUMBER, id=run.id)[0].runs)


def _retried_keys(run: Run, steps: Sequence[Step], request: RetryRequest) -> set[str]:
    """The keys of the steps that are retried. Raises as `retry` does."""
    enabled = {step.key for step in steps if step.skip_cause != SkipCause.DISABLED}
    satisfied = {s.key for s in steps if satisfies(s.state, s.skip_cause, s.allow_failure)}
    if request.mode == RetryMode.FULL:
        return enabled
    if request.mode == RetryMode.FROM_FAILED:
        if len(satisfied) == len(steps):
            raise InvalidTransition(f"no step of run {run.id} failed; use mode full or from_step")
        return enabled - satisfied
    by_key = {step.key: step for step in steps}
    if request.step not in by_key:
        raise NotFound(f"run {run.id} has no step {request.step!r}")
    if request.step not in enabled:
        raise Conflict(f"step {request.step!r} is disabled in version {run.version}")
    retried = downstream(request.step, {step.key: step.dependents for step in steps}) & enabled
    for key in retried:
        for need in by_key[key].needs:
            if need not in retried and need not in satisfied:
                raise Conflict(f"step {key!r} needs {need!r}, which has no result; retry from it")
    return retried


def _reopen(session: Session, run: Run, keys: list[str], request: RetryRequest) -> Run:
    """Reset the steps in place and let the run wait for admission."""
    # Its own parameters are checked, too: a run that was held may have ended without all of them.
    run_params = run.params if request.params is None else request.params
    checked = submission.check_run_params(session, run, run_params)
    key = concurrency.present_key(session, run.workflow_id, run.concurrency_key)
    params: dict[str, Any] = {
        "concurrency_key": key,
        "params": statements.to_json(checked),
        "priority": request.priority,
        "timeout": request.timeout,
        "reason": request.reason,
        "due": submission.acquire_key(session, run, key),
        "keys": keys,
    }
    reopen = transitions.runs(session, RunTransition.REOPEN).where("id = :id", id=run.id)
    reopen.set(_REOPEN, **params).one()
    reset = transitions.steps(session, StepTransition.RESET).set(_RESET, priority=request.priority)
    reset.where("run_id = :run_id AND key = ANY(:keys)", run_id=run.id, keys=keys).all()
    return queries.get(session, run.tenant_id, run.id)


def _copy(session: Session, old: Run, keys: list[str], request: RetryRequest) -> Run:
    """Create a run like the old one, with the old outputs of the steps that are not retried."""
    changes = {name: getattr(request, name) for name in ("params", "priority", "timeout")}
    copied = (*submission.ATTRIBUTES, "workflow", "version", "tags", *changes)
    fields = {
        **{name: getattr(old, name) for name in copied},
        **{name: value for name, value in changes.items() if value is not None},
        "trigger": Trigger.RETRY,
        "source_type": "run",
        "source_id": str(old.id),
        "submitted_by": request.submitted_by,
        "reason": request.reason,
        "concurrency_key": concurrency.present_key(session, old.workflow_id, old.concurrency_key),
        "logical_date": old.logical_date or old.created_at,  # it stands for the same instant
        "run_at": None,
        "retry_of": old.id,
    }
    if request.latest:
        fields["version"] = _present_version(session, old)
    run = submission.add_run(session, old.tenant_id, submission.NewRun(**fields))
    if request.mode != RetryMode.FULL:
        statements.execute(session, _KEEP, new=run.id, old=old.id, keys=keys)
    return run


def _present_version(session: Session, old: Run) -> int | None:
    """The version that the run's schedule is fixed to; None: the latest."""
    pinned = select(Schedule.version).where(Schedule.id == old.schedule_id)
    return session.scalar(pinned)
