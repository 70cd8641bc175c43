"""What a caller may do with runs: submit, look, cancel, change."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value
from uuid_utils.compat import uuid7

from config.durations import parse_duration
from orchestrator import catalog, events, flow, limits, store
from orchestrator.errors import IdempotencyMismatch, InvalidTransition, Mistake, NotFound
from orchestrator.models import Attempt, IdempotencyKey, Run, Step, Trigger
from orchestrator.specs import check_params
from orchestrator.states import (
    FINAL_RUNS,
    RunState,
    RunTransition,
    StepTransition,
)
from orchestrator.store import Found
from orchestrator.workflows import DEFAULT_QUEUE, NORMAL

# The id of a step begins with its run's: version-7 ids stay in the order of time, made here.
_COPY_PLAN = text("""
    INSERT INTO steps (id, tenant_id, run_id, position, key, name, uses, needs, dependents,
        followers, state, skip_cause, attempt, losses, forgiven, max_attempts, generation, queue,
        priority, allow_failure, spec, finished_at)
    SELECT CAST(left(CAST(:run_id AS text), 18) || right(gen_random_uuid()::text, 18) AS uuid),
        :tenant_id, :run_id, step.position, step.key, step.name, step.uses, step.needs,
        step.dependents, step.followers,
        CASE WHEN step.enabled THEN 'pending' ELSE 'skipped' END,
        CASE WHEN step.enabled THEN NULL ELSE 'disabled' END,
        0, 0, 0, step.max_attempts, 0, coalesce(step.queue, :queue),
        coalesce(step.priority, :priority), step.allow_failure, step.spec,
        CASE WHEN step.enabled THEN NULL ELSE now() END
    FROM versions, jsonb_to_recordset(versions.plan) AS step(position int, key text, name text,
        uses text, needs text[], dependents text[], followers text[], queue text, priority int,
        max_attempts int, allow_failure bool, enabled bool, spec jsonb)
    WHERE versions.id = :version_id
    ORDER BY step.position
""")


# What a run takes over as the caller gave it.
_AS_GIVEN = (
    "trigger", "source_type", "source_id", "reason", "submitted_by", "run_as", "environment",
    "name", "description", "annotations", "variables", "event_variables", "notifications",
    "concurrency_key", "schedule_id", "backfill_id", "logical_date", "depth", "run_at", "retry_of",
)  # fmt: skip

_ASKED = """
    cancel_requested_at = coalesce(cancel_requested_at, now()),
    cancel_reason = coalesce(cancel_reason, CAST(:reason AS text))
"""
_STOPPING = (
    f"{_ASKED}, timed_out = :timed_out, stop_by = now() + CAST(:grace AS interval), error = :error"
)
_REPRIORITISE = """
    WITH run AS (UPDATE runs SET priority = :priority WHERE id = :id)
    UPDATE steps SET priority = :priority
    WHERE run_id = :id AND state IN ('pending', 'queued', 'running', 'waiting')
"""
_SOONER = """
    UPDATE runs SET stop_by = least(stop_by, now() + CAST(:grace AS interval)) WHERE id = :id
"""


@dataclass(frozen=True, kw_only=True)
class NewRun:
    """What a caller asks for."""

    workflow: str
    version: int | None = None  # the latest
    params: Mapping[str, Any] = field(default_factory=dict)
    priority: int | None = None  # the workflow's own
    run_at: datetime | None = None
    tags: Sequence[str] = ()
    reason: str | None = None
    timeout: timedelta | None = None  # the workflow's own
    sla: timedelta | None = None  # the workflow's own
    start: bool = True  # False: held until somebody starts it
    trigger: Trigger = Trigger.MANUAL
    source_type: str | None = None
    source_id: str | None = None
    submitted_by: str | None = None
    run_as: str | None = None
    environment: str = "production"
    name: str | None = None
    description: str | None = None
    annotations: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Any] | None = None
    event_variables: Mapping[str, Any] | None = None
    notifications: Mapping[str, Any] | None = None
    concurrency_key: str | None = None
    schedule_id: UUID | None = None
    backfill_id: UUID | None = None
    logical_date: datetime | None = None
    depth: int = 0
    retry_of: UUID | None = None

    def fingerprint(self) -> str:
        """What makes two requests the same request: all that differs from the defaults."""
        plain = vars(NewRun(workflow=self.workflow))
        who = ("submitted_by", "source_type", "source_id")
        asked = {
            name: value
            for name, value in vars(self).items()
            if name not in who and (name == "workflow" or value != plain[name])
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()


def submit(
    session: Session,
    tenant_id: UUID,
    new: NewRun,
    *,
    window: int,
    idempotency_key: str | None = None,
) -> tuple[Run, bool]:
    """Accept a run; False says that the same key and request had made it before.

    Raises NotFound for an unknown workflow or version, InvalidParams, and IdempotencyMismatch
    for a key that came before with another request.
    """
    if idempotency_key is not None:
        earlier = _claim_key(session, tenant_id, idempotency_key, new.fingerprint())
        if earlier is not None:
            return earlier, False
    run = add(session, tenant_id, new)
    if idempotency_key is not None:
        session.execute(
            update(IdempotencyKey)
            .where(IdempotencyKey.tenant_id == tenant_id, IdempotencyKey.key == idempotency_key)
            .values(run_id=run.id)
        )
    flow.admit_at_once(session, run, window)
    return run, True


def add(session: Session, tenant_id: UUID, new: NewRun) -> Run:
    """Write a pending run and its steps, and start nothing. Raises NotFound and InvalidParams."""
    workflow = catalog.get(session, tenant_id, new.workflow)
    version = catalog.get_version(session, workflow, new.version)
    spec = version.spec
    run = Run(
        id=uuid7(),
        tenant_id=tenant_id,
        workflow_id=workflow.id,
        version_id=version.id,
        project_id=workflow.project_id,
        workflow=workflow.name,
        version=version.number,
        priority=int(spec.get("priority", NORMAL)) if new.priority is None else new.priority,
        queue=spec.get("queue", DEFAULT_QUEUE),
        params=check_params(spec.get("params", {}), new.params),
        tags=sorted({*spec.get("tags", ()), *new.tags}),
        timeout=_spec_duration(spec, "timeout", new.timeout),
        held=not new.start,
        **{name: getattr(new, name) for name in _AS_GIVEN},
    )
    run.due, run.late_at = _times(session, run, _spec_duration(spec, "sla", new.sla))
    session.add(run)
    session.flush()
    _copy_plan(session, run)
    events.note(session, run.id, "run.created")
    return run


def start(session: Session, tenant_id: UUID, run_id: UUID, *, window: int) -> Run:
    """Let a run that is held go on. Raises NotFound, and InvalidTransition if it is not held."""
    locked = _locked(session, tenant_id, run_id)
    if not locked.held or locked.state != RunState.PENDING:
        raise InvalidTransition(f"run {run_id} is {locked.state} and does not wait to be started")
    run = get(session, tenant_id, run_id)
    run.held = False
    run.due, _ = _times(session, run, None)
    session.flush()
    events.note(session, run.id, "run.released")
    flow.admit_at_once(session, run, window)
    return get(session, tenant_id, run_id)


def get(session: Session, tenant_id: UUID, run_id: UUID) -> Run:
    """A run by id. Raises NotFound."""
    asked = select(Run).where(Run.id == run_id, Run.tenant_id == tenant_id)
    run = session.scalar(asked.execution_options(populate_existing=True))
    if run is None:
        raise NotFound(f"there is no run {run_id}")
    return run


def get_whole(session: Session, tenant_id: UUID, run_id: UUID) -> Run:
    """A run by id with its `steps`. Raises NotFound."""
    run = get(session, tenant_id, run_id)
    set_committed_value(run, "steps", steps(session, run))
    return run


def steps(session: Session, run: Run) -> list[Step]:
    """The steps of a run, in the order of its workflow."""
    asked = select(Step).where(Step.run_id == run.id).order_by(Step.position)
    return list(session.scalars(asked.execution_options(populate_existing=True)))


def step(session: Session, run: Run, key: str) -> Step:
    """One step of a run by key. Raises NotFound."""
    found = session.scalar(select(Step).where(Step.run_id == run.id, Step.key == key))
    if found is None:
        raise NotFound(f"run {run.id} has no step {key!r}")
    return found


def attempts(session: Session, step: Step) -> list[Attempt]:
    """Every try of a step, the first one first."""
    asked = select(Attempt).where(Attempt.step_id == step.id).order_by(Attempt.number)
    return list(session.scalars(asked))


def cancel(
    session: Session,
    tenant_id: UUID,
    run_id: UUID,
    *,
    grace: timedelta,
    reason: str | None = None,
) -> Run:
    """Stop a run: at once if no step is running, else when its steps let go or are killed.

    A second cancel may shorten the grace. Raises NotFound, and InvalidTransition if the run has
    ended.
    """
    run = _locked(session, tenant_id, run_id)
    if run.state in FINAL_RUNS:
        raise InvalidTransition(f"run {run.id} is {run.state}: too late to cancel")
    return stop(session, run, grace=grace, reason=reason)


def stop(
    session: Session, run: Found, *, grace: timedelta, reason: str | None, timed_out: bool = False
) -> Run:
    """End a locked run as cancelled or timed out: open steps now, running ones in their grace."""
    running = store.rows(
        session, "SELECT * FROM steps WHERE run_id = :id AND state = 'running'", id=run.id
    )
    unclaimed = store.move_steps(session, StepTransition.CANCEL, "run_id = :id", id=run.id)
    flow.revoke(session, [*unclaimed, *running])
    # In the order in which the states follow each other; the run is locked, so one of them fits.
    if store.move_run(session, run.id, RunTransition.CANCEL, _ASKED, reason=reason):
        limits.pass_on(session, run)
    else:
        error = store.json({"message": reason, "kind": "Timeout"} if timed_out else None)
        stopping = {"reason": reason, "timed_out": timed_out, "grace": grace, "error": error}
        if not store.move_run(session, run.id, RunTransition.STOP, _STOPPING, **stopping):
            store.change(session, _SOONER, id=run.id, grace=grace)
        flow.close_if_ended(session, get(session, run.tenant_id, run.id))
    return get(session, run.tenant_id, run.id)


def change(
    session: Session,
    tenant_id: UUID,
    run_id: UUID,
    *,
    priority: int | None = None,
    tags: Sequence[str] | None = None,
) -> Run:
    """Change what may be changed of a run at any time.

    Raises NotFound, and InvalidTransition for the priority of a run that has ended.
    """
    run = _locked(session, tenant_id, run_id)
    if priority is not None:
        if run.state in FINAL_RUNS:
            raise InvalidTransition(f"run {run.id} is {run.state}: its priority is of no use now")
        store.change(session, _REPRIORITISE, id=run.id, priority=priority)
        before = {"before": run.priority, "after": priority}
        events.note(session, run.id, "run.reprioritised", **before)
    if tags is not None:
        tags = sorted(set(tags))
        store.change(session, "UPDATE runs SET tags = :tags WHERE id = :id", id=run.id, tags=tags)
    return get(session, tenant_id, run_id)


def _locked(session: Session, tenant_id: UUID, run_id: UUID) -> Found:
    run = store.lock_run(session, run_id, tenant_id)
    if run is None:
        raise NotFound(f"there is no run {run_id}")
    return run


def _claim_key(session: Session, tenant_id: UUID, key: str, fingerprint: str) -> Run | None:
    """Take an idempotency key, or give the run that it made before."""
    taken = session.execute(
        insert(IdempotencyKey)
        .values(tenant_id=tenant_id, key=key, fingerprint=fingerprint)
        .on_conflict_do_nothing()
        .returning(IdempotencyKey.key)
    ).first()
    if taken:
        return None
    first = session.get_one(IdempotencyKey, (tenant_id, key))
    if first.fingerprint != fingerprint or first.run_id is None:
        mistake = Mistake("/headers/Idempotency-Key", "use a new key for a new request")
        raise IdempotencyMismatch(f"key {key!r} came before with another request", mistake)
    return get(session, tenant_id, first.run_id)


def _copy_plan(session: Session, run: Run) -> None:
    session.execute(
        _COPY_PLAN,
        {
            "run_id": run.id,
            "tenant_id": run.tenant_id,
            "version_id": run.version_id,
            "queue": run.queue,
            "priority": run.priority,
        },
    )


def _times(session: Session, run: Run, sla: timedelta | None) -> tuple[bool, datetime | None]:
    """Whether nothing but the window holds the run, and when it is late."""
    now = session.scalars(select(func.now())).one()
    from_then = run.run_at or now
    due = not run.held and from_then <= now
    if due and run.concurrency_key is not None:
        due = limits.is_free(session, run.id, run.workflow_id, run.concurrency_key)
    return due, None if sla is None else from_then + sla


def _spec_duration(
    spec: Mapping[str, Any], name: str, given: timedelta | None = None
) -> timedelta | None:
    if given is not None or name not in spec:
        return given
    return parse_duration(spec[name])
