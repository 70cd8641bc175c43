"""Accepting runs: what a caller asks for becomes a run with its steps, in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from config.durations import parse_duration
from orchestrator import catalog, documents, events, flow, limits, runs
from orchestrator.definitions import Version
from orchestrator.errors import IdempotencyMismatch, InvalidTransition, Mistake
from orchestrator.models import IdempotencyKey, Run, Trigger
from orchestrator.parameters import check_params
from orchestrator.states import RunState
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
    complete: bool = True  # False: parameters that are required may come later, before it starts
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
        return documents.fingerprint(asked)


def submit(
    session: Session,
    tenant_id: UUID,
    new: NewRun,
    *,
    window: int,
    idempotency_key: str | None = None,
    good_for: timedelta | None = None,
) -> tuple[Run, bool]:
    """Accept a run; False says that the same key and request had made it before.

    With `good_for` a key older than that is as good as new. Raises NotFound for an unknown
    workflow or version, InvalidParams, and IdempotencyMismatch for a key that came before with
    another request.
    """
    if idempotency_key is not None:
        earlier = claim_key(session, tenant_id, idempotency_key, new.fingerprint(), good_for)
        if earlier is not None:
            return earlier, False
    run = add(session, tenant_id, new)
    if idempotency_key is not None:
        keep_key(session, tenant_id, idempotency_key, run)
    flow.admit_at_once(session, run, window)
    return run, True


def add(session: Session, tenant_id: UUID, new: NewRun) -> Run:
    """Write a pending run and its steps, and start nothing. Raises NotFound and InvalidParams."""
    workflow, version = catalog.to_run(session, tenant_id, new.workflow, new.version)
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
        params=check_params(spec.get("params", {}), new.params, complete=new.complete),
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
    """Let a run that is held go on.

    Raises NotFound, InvalidTransition if it is not held, and InvalidParams if it lacks parameters.
    """
    locked = runs.locked(session, tenant_id, run_id)
    if not locked.held or locked.state != RunState.PENDING:
        raise InvalidTransition(f"run {run_id} is {locked.state} and does not wait to be started")
    run = runs.get(session, tenant_id, run_id)
    check_params(_schema(session, run), run.params)
    run.held = False
    run.due, _ = _times(session, run, None)
    session.flush()
    events.note(session, run.id, "run.released")
    flow.admit_at_once(session, run, window)
    return runs.get(session, tenant_id, run_id)


def amend(session: Session, tenant_id: UUID, run_id: UUID, params: Mapping[str, Any]) -> Run:
    """Change some parameters of a run that is held; the others stay.

    Raises NotFound, InvalidTransition if the run does not wait to be started, and InvalidParams.
    """
    locked = runs.locked(session, tenant_id, run_id)
    if not locked.held or locked.state != RunState.PENDING:
        raise InvalidTransition(f"run {run_id} is {locked.state} and was started already")
    run = runs.get(session, tenant_id, run_id)
    run.params = check_params(_schema(session, run), {**run.params, **params}, complete=False)
    session.flush()
    events.note(session, run.id, "run.amended", params=sorted(params))
    return run


def claim_key(
    session: Session, tenant_id: UUID, key: str, fingerprint: str, good_for: timedelta | None
) -> Run | None:
    """Take an idempotency key, or give the run that it made before.

    Raises IdempotencyMismatch for a key that came before with another request.
    """
    claim = insert(IdempotencyKey).values(tenant_id=tenant_id, key=key, fingerprint=fingerprint)
    if good_for is None:
        claim = claim.on_conflict_do_nothing()
    else:
        claim = claim.on_conflict_do_update(
            index_elements=["tenant_id", "key"],
            set_={"fingerprint": fingerprint, "run_id": None, "created_at": func.now()},
            where=IdempotencyKey.created_at < func.now() - good_for,
        )
    if session.execute(claim.returning(IdempotencyKey.key)).first():
        return None
    first = session.get_one(IdempotencyKey, (tenant_id, key), populate_existing=True)
    if first.fingerprint != fingerprint or first.run_id is None:
        mistake = Mistake("/headers/Idempotency-Key", "use a new key for a new request")
        raise IdempotencyMismatch(f"key {key!r} came before with another request", mistake)
    return runs.get(session, tenant_id, first.run_id)


def keep_key(session: Session, tenant_id: UUID, key: str, run: Run) -> None:
    """Remember the run that an idempotency key made."""
    mine = (IdempotencyKey.tenant_id == tenant_id, IdempotencyKey.key == key)
    session.execute(update(IdempotencyKey).where(*mine).values(run_id=run.id))


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


def _schema(session: Session, run: Run) -> Mapping[str, Any]:
    """What the parameters of a run must look like."""
    schema: Mapping[str, Any] = session.get_one(Version, run.version_id).spec.get("params", {})
    return schema


def _times(session: Session, run: Run, sla: timedelta | None) -> tuple[bool, datetime | None]:
    """Whether nothing but the window holds the run, and when it is late."""
    due, from_then = not run.held, run.run_at
    if sla is not None or from_then is not None:
        now = session.scalars(select(func.now())).one()
        from_then = from_then or now
        due = due and from_then <= now
    if due and run.concurrency_key is not None:
        due = limits.is_free(session, run.id, run.workflow_id, run.concurrency_key)
    try:
        return due, None if sla is None or from_then is None else from_then + sla
    except OverflowError:  # after the year 9999
        return due, None


def _spec_duration(
    spec: Mapping[str, Any], name: str, given: timedelta | None = None
) -> timedelta | None:
    if given is not None or name not in spec:
        return given
    return parse_duration(spec[name])
