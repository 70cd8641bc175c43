"""Run again what has ended: all of it, what failed, or from one step on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator import json_values
from orchestrator.db import statements, transitions
from orchestrator.engine import admission, concurrency
from orchestrator.errors import Conflict, InvalidTransition, NotFound
from orchestrator.models import Run, Step, Trigger, Version
from orchestrator.runs import idempotency, queries, submission
from orchestrator.runs.submission import NewRun
from orchestrator.spec.graph import downstream
from orchestrator.spec.params import check_params
from orchestrator.states import FINAL_RUNS, RunTransition, SkipCause, StepTransition, satisfies

_REOPENED = """
    params = coalesce(CAST(:params AS jsonb), params),
    priority = coalesce(CAST(:priority AS smallint), priority),
    timeout = coalesce(CAST(:timeout AS interval), timeout),
    reason = coalesce(CAST(:reason AS text), reason),
    error = NULL, timed_out = false, stop_by = NULL, cancel_requested_at = NULL,
    cancel_reason = NULL, deadline_at = NULL, queued_at = NULL, started_at = NULL, due = :due,
    held = false, run_at = now(), passed_sla = false,
    late_at = now() + (late_at - coalesce(run_at, created_at)),
    warnings = (SELECT coalesce(sum(warnings), 0) FROM steps
                WHERE run_id = runs.id AND key <> ALL(:again))
"""
_RESET = """
    forgiven = attempt, losses = 0, priority = coalesce(CAST(:priority AS smallint), priority),
    warnings = 0, result_artifact = NULL, skip_cause = NULL, task_id = NULL, worker = NULL,
    result = NULL, error = NULL,
    published_at = NULL, wake_at = NULL, queued_at = NULL, started_at = NULL
"""
# The new run's steps are still being made; that they begin in a terminal state is no transition.
_KEEP = """
    UPDATE steps SET state = kept.state, skip_cause = kept.skip_cause, result = kept.result,
        result_artifact = kept.result_artifact, warnings = kept.warnings,
        error = kept.error, started_at = kept.started_at, finished_at = kept.finished_at
    FROM steps kept
    WHERE steps.run_id = :new AND kept.run_id = :old AND kept.key = steps.key
      AND kept.key <> ALL(:again)
"""
# A run that was deleted ends the line; so does a number of them that nobody reads.
_NTH = """
    WITH RECURSIVE line AS (
        SELECT retry_of, 1 AS runs FROM runs WHERE id = :id
        UNION ALL
        SELECT runs.retry_of, line.runs + 1 FROM line JOIN runs ON runs.id = line.retry_of
        WHERE line.runs < 10000
    ) SELECT max(runs) AS runs FROM line
"""


class RetryMode(StrEnum):
    """How much of a run is run again."""

    FULL = "full"
    FROM_FAILED = "from_failed"  # what failed, was cancelled, or was skipped for that
    FROM_STEP = "from_step"  # one step and everything that needs it


class RetryTarget(StrEnum):
    """Where it is run again."""

    SAME = "same"  # in the same run; attempt numbers go on
    NEW = "new"  # in a new run that names the old one


@dataclass(frozen=True, kw_only=True)
class RetryRequest:
    """What a caller asks for."""

    mode: RetryMode = RetryMode.FROM_FAILED
    step: str | None = None
    where: RetryTarget = RetryTarget.SAME
    params: Mapping[str, Any] | None = None  # None: as before
    priority: int | None = None  # None: as before
    timeout: timedelta | None = None  # None: as before
    reason: str | None = None
    submitted_by: str | None = None

    def fingerprint(self, run_id: UUID) -> str:
        """What makes two requests the same request, whoever sends them."""
        asked = {name: value for name, value in vars(self).items() if name != "submitted_by"}
        return json_values.fingerprint({**asked, "run_id": run_id})


def retry(
    session: Session,
    tenant_id: UUID,
    run_id: UUID,
    rerun: RetryRequest,
    *,
    window: int,
    idempotency_key: str | None = None,
    good_for: timedelta | None = None,
) -> Run:
    """Run again what the mode says; outputs of all other steps are kept.

    An idempotency key does what it does for `submission.submit`. Raises NotFound,
    InvalidTransition if the run has not ended or nothing of it failed, Conflict if a step would
    start whose needs have no result, InvalidParams and IdempotencyMismatch.
    """
    if idempotency_key is not None:
        asked = rerun.fingerprint(run_id)
        earlier = idempotency.reserve(session, tenant_id, idempotency_key, asked, good_for)
        if earlier is not None:
            return queries.get(session, tenant_id, earlier[0])
    run = _retry(session, tenant_id, run_id, rerun, window)
    if idempotency_key is not None:
        idempotency.remember(session, tenant_id, idempotency_key, [run.id])
    return run


def retry_number(session: Session, run: Run) -> int:
    """The how many-th run it is of those that repeat each other; 1 for one that repeats none."""
    if run.retry_of is None:
        return 1
    found = statements.row(session, _NTH, id=run.id)
    return int(found.runs) if found else 1


def _retry(
    session: Session, tenant_id: UUID, run_id: UUID, rerun: RetryRequest, window: int
) -> Run:
    if transitions.lock_run(session, run_id, tenant_id) is None:
        raise NotFound(f"there is no run {run_id}")
    run = queries.get(session, tenant_id, run_id)
    if run.state not in FINAL_RUNS:
        raise InvalidTransition(
            f"run {run.id} is {run.state}: only a run that has ended is retried"
        )
    again = _again(run, queries.steps(session, run), rerun)
    if rerun.where == RetryTarget.SAME:
        run = _reopen(session, run, again, rerun)
    else:
        run = _repeat(session, run, again, rerun)
    admission.admit_at_once(session, run, window)
    return run


def _again(run: Run, steps: Sequence[Step], rerun: RetryRequest) -> set[str]:
    """The keys of the steps that are run again."""
    enabled = {step.key for step in steps if step.skip_cause != SkipCause.DISABLED}
    good = {s.key for s in steps if satisfies(s.state, s.skip_cause, s.allow_failure)}
    if rerun.mode == RetryMode.FULL:
        return enabled
    if rerun.mode == RetryMode.FROM_FAILED:
        if len(good) == len(steps):
            raise InvalidTransition(f"no step of run {run.id} failed; use mode full or from_step")
        return enabled - good
    by_key = {step.key: step for step in steps}
    if rerun.step not in by_key:
        raise NotFound(f"run {run.id} has no step {rerun.step!r}")
    if rerun.step not in enabled:
        raise Conflict(f"step {rerun.step!r} is disabled in version {run.version}")
    again = downstream(rerun.step, {step.key: step.dependents for step in steps}) & enabled
    for key in again:
        for need in by_key[key].needs:
            if need not in again and need not in good:
                raise Conflict(f"step {key!r} needs {need!r}, which has no result; retry from it")
    return again


def _reopen(session: Session, run: Run, again: set[str], rerun: RetryRequest) -> Run:
    """Reset the steps and let the run wait for admission once more."""
    schema = session.get_one(Version, run.version_id).spec.get("params", {})
    # Also its own: a run that was held may have been cancelled before it had all of them.
    params = statements.to_json(
        check_params(schema, run.params if rerun.params is None else rerun.params)
    )
    due = run.concurrency_key is None or concurrency.try_acquire(
        session, run.id, run.workflow_id, run.concurrency_key
    )
    names = ("priority", "timeout", "reason")
    asked = {"params": params, **{name: getattr(rerun, name) for name in names}}
    then = {"due": due, "again": sorted(again)}
    reopen = transitions.runs(session, RunTransition.REOPEN).where("id = :id", id=run.id)
    reopen.set(_REOPENED, **asked, **then).one()
    reset = transitions.steps(session, StepTransition.RESET).set(_RESET, priority=rerun.priority)
    reset.where("run_id = :run_id AND key = ANY(:keys)", run_id=run.id, keys=sorted(again)).all()
    return queries.get(session, run.tenant_id, run.id)


def _repeat(session: Session, old: Run, again: set[str], rerun: RetryRequest) -> Run:
    """Write a new run that begins with the old one's outputs for the steps it keeps."""
    new = NewRun(
        workflow=old.workflow,
        version=old.version,
        params=old.params if rerun.params is None else rerun.params,
        priority=old.priority if rerun.priority is None else rerun.priority,
        tags=old.tags,
        reason=rerun.reason,
        timeout=old.timeout if rerun.timeout is None else rerun.timeout,
        trigger=Trigger.RETRY,
        source_type="run",
        source_id=str(old.id),
        submitted_by=rerun.submitted_by,
        run_as=old.run_as,
        environment=old.environment,
        name=old.name,
        description=old.description,
        annotations=old.annotations,
        variables=old.variables,
        event_variables=old.event_variables,
        notifications=old.notifications,
        concurrency_key=old.concurrency_key,
        schedule_id=old.schedule_id,
        backfill_id=old.backfill_id,
        logical_date=old.logical_date or old.created_at,  # it stands for the same instant
        depth=old.depth,
        retry_of=old.id,
    )
    run = submission.add_run(session, old.tenant_id, new)
    kept = {"new": run.id, "old": old.id, "again": sorted(again)}
    statements.execute(session, _KEEP, **kept)
    return run
