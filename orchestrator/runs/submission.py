"""Submit runs: a run, its steps and its first event are written in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from orchestrator import audit, workflows
from orchestrator.db import journal, lookups, statements
from orchestrator.engine import admission, concurrency
from orchestrator.errors import InvalidTransition
from orchestrator.models import Run, Trigger, Version, Workflow
from orchestrator.runs import idempotency, queries
from orchestrator.spec.durations import parse_duration
from orchestrator.spec.hidden_params import keep_hidden
from orchestrator.spec.model import DEFAULT_QUEUE, NORMAL_PRIORITY
from orchestrator.spec.params import ParamsCheck, check_params, compile_params
from orchestrator.states import RunState

# Writes the steps of new runs. A step's id has the first 18 characters of its run's, so that ids of
# steps are in order of time.
COPY_PLANS = """
    INSERT INTO steps (id, tenant_id, run_id, position, key, name, uses, needs, dependents,
        followers, state, skip_cause, attempt, losses, forgiven, max_attempts, generation, queue,
        priority, allow_failure, spec, finished_at)
    SELECT CAST(left(CAST(runs.id AS text), 18) || right(gen_random_uuid()::text, 18) AS uuid),
        runs.tenant_id, runs.id, step.position, step.key, step.name, step.uses, step.needs,
        step.dependents, step.followers,
        CASE WHEN step.enabled THEN 'pending' ELSE 'skipped' END,
        CASE WHEN step.enabled THEN NULL ELSE 'disabled' END,
        0, 0, 0, step.max_attempts, 0, coalesce(step.queue, runs.queue),
        coalesce(step.priority, runs.priority), step.allow_failure, step.spec,
        CASE WHEN step.enabled THEN NULL ELSE now() END
    FROM unnest(CAST(:run_ids AS uuid[])) AS new(id) JOIN runs ON runs.id = new.id
        JOIN versions ON versions.id = runs.version_id,
        jsonb_to_recordset(versions.plan) AS step(position int, key text, name text,
        uses text, needs text[], dependents text[], followers text[], queue text, priority int,
        max_attempts int, allow_failure bool, enabled bool, spec jsonb)
    ORDER BY runs.id, step.position
"""


@dataclass(frozen=True, kw_only=True)
class RunAttributes:
    """The fields of a request that become columns of the run, unchanged and under the same name."""

    trigger: Trigger = Trigger.MANUAL
    source_type: str | None = None
    source_id: str | None = None
    reason: str | None = None
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
    run_at: datetime | None = None
    retry_of: UUID | None = None


_RECORDED = ("workflow", "version", "schedule_id", "backfill_id")  # the rest is in the run
ATTRIBUTES = tuple(each.name for each in fields(RunAttributes))


@dataclass(frozen=True, kw_only=True)
class NewRun(RunAttributes):
    """A request for a run."""

    workflow: str
    version: int | None = None  # None: the latest
    params: Mapping[str, Any] = field(default_factory=dict)
    priority: int | None = None  # None: the workflow's
    tags: Sequence[str] = ()
    timeout: timedelta | None = None  # None: the workflow's
    sla: timedelta | None = None  # None: the workflow's
    start: bool = True  # False: held until it is started
    complete: bool = True  # False: required parameters may be added until it is started

    def fingerprint_fields(self) -> dict[str, Any]:
        """What two equal requests have in common: the fields that differ from their defaults."""
        defaults = vars(NewRun(workflow=self.workflow))
        caller = ("submitted_by", "source_type", "source_id")
        return {
            name: value
            for name, value in vars(self).items()
            if name not in caller and (name == "workflow" or value != defaults[name])
        }


def submit(
    session: Session,
    tenant_id: UUID,
    new: NewRun,
    *,
    window: int,
    idempotency_key: str | None = None,
    good_for: timedelta | None = None,
) -> tuple[Run, bool]:
    """Accept a run; the second value is False if the same request and key created it before.

    With `good_for` an older key may be used again. Raises NotFound for an unknown workflow or
    version, InvalidParams, and IdempotencyMismatch for a key of another request.
    """
    request = new.fingerprint_fields()
    earlier = idempotency.reserve(session, tenant_id, idempotency_key, request, good_for)
    if earlier is not None:
        return queries.get(session, tenant_id, earlier[0]), False
    run = add_run(session, tenant_id, new)
    after = {name: getattr(run, name) for name in _RECORDED}
    audit.record(session, tenant_id, "run.submit", run.id, after=after)
    idempotency.remember(session, tenant_id, idempotency_key, [run.id])
    admission.admit_at_once(session, run, window)
    return run, True


def find_source(
    session: Session, tenant_id: UUID, name: str, number: int | None, complete: bool
) -> tuple[Workflow, Version, ParamsCheck]:
    """What runs of one version of a workflow, the latest by default, share. Raises NotFound."""
    workflow, version = workflows.for_run(session, tenant_id, name, number)
    return workflow, version, compile_params(version.spec.get("params", {}), complete=complete)


def add_run(session: Session, tenant_id: UUID, new: NewRun) -> Run:
    """Write a pending run and its steps. Raises NotFound and InvalidParams."""
    workflow, version, check = find_source(
        session, tenant_id, new.workflow, new.version, new.complete
    )
    run = Run(tenant_id=tenant_id, **run_columns(new, workflow, version, check))
    sla = spec_duration(version.spec, "sla", new.sla)
    if sla is not None:
        run.late_at = late_at(run.run_at or lookups.database_now(session), sla)
    run.due = _is_due(session, run)
    session.add(run)
    session.flush()
    statements.execute(session, COPY_PLANS, run_ids=[run.id])
    journal.record_event(session, run.id, "run.created")
    return run


def run_columns(
    new: NewRun, workflow: Workflow, version: Version, check: ParamsCheck
) -> dict[str, Any]:
    """The columns of a new run that do not depend on the time. Raises InvalidParams."""
    spec = version.spec
    return {
        "id": uuid7(),
        "workflow_id": workflow.id,
        "version_id": version.id,
        "project_id": workflow.project_id,
        "workflow": workflow.name,
        "version": version.number,
        "priority": int(spec.get("priority", NORMAL_PRIORITY))
        if new.priority is None
        else new.priority,
        "queue": spec.get("queue", DEFAULT_QUEUE),
        "params": check(new.params),
        "tags": sorted({*spec.get("tags", ()), *new.tags}),
        "timeout": spec_duration(spec, "timeout", new.timeout),
        "held": not new.start,
        **{name: getattr(new, name) for name in ATTRIBUTES},
    }


def spec_duration(spec: Mapping[str, Any], name: str, value: timedelta | None) -> timedelta | None:
    """The value, or else the workflow's own."""
    return parse_duration(spec[name]) if value is None and name in spec else value


def late_at(begins: datetime, sla: timedelta | None) -> datetime | None:
    """When a run is late; None without an SLA or after the year 9999."""
    try:
        return None if sla is None else begins + sla
    except OverflowError:
        return None


def start_held_run(session: Session, tenant_id: UUID, run_id: UUID, *, window: int) -> Run:
    """Release a held run for admission.

    Raises NotFound, InvalidTransition if it is not held, InvalidParams if parameters are missing.
    """
    run = _held(session, tenant_id, run_id, "does not wait to be started")
    check_run_params(session, run, run.params)
    run.held = False
    run.due = _is_due(session, run)
    session.flush()
    journal.record_event(session, run.id, "run.released")
    was, now = {"held": True}, {"held": False}
    audit.record(session, tenant_id, "run.start", run_id, before=was, after=now)
    admission.admit_at_once(session, run, window)
    return queries.get(session, tenant_id, run_id)


def amend_run(session: Session, tenant_id: UUID, run_id: UUID, params: Mapping[str, Any]) -> Run:
    """Merge parameters into a held run's. Raises NotFound, InvalidTransition, and InvalidParams."""
    run = _held(session, tenant_id, run_id, "was started already")
    before = {"params": run.params}
    params = with_hidden(session, run, params)
    run.params = check_run_params(session, run, {**run.params, **params}, complete=False)
    after = {"params": run.params}
    audit.record(session, tenant_id, "run.amend", run_id, before=before, after=after)
    session.flush()
    journal.record_event(session, run.id, "run.amended", params=sorted(params))
    return run


def check_run_params(
    session: Session, run: Run, params: Mapping[str, Any], *, complete: bool = True
) -> dict[str, Any]:
    """The parameters with the defaults of the run's version. Raises InvalidParams."""
    spec = session.get_one(Version, run.version_id).spec
    return check_params(spec.get("params", {}), params, complete=complete)


def with_hidden(session: Session, run: Run, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with the run's own values where they repeat what answers show as hidden."""
    parts = workflows.hidden_parts_of_version(session, run.version_id)
    own: dict[str, Any] = keep_hidden(parts, dict(params), run.params)
    return own


def _held(session: Session, tenant_id: UUID, run_id: UUID, otherwise: str) -> Run:
    """A held run, with its row lock. Raises NotFound and InvalidTransition."""
    locked = queries.lock(session, tenant_id, run_id)
    if not locked.held or locked.state != RunState.PENDING:
        raise InvalidTransition(f"run {run_id} is {locked.state} and {otherwise}")
    return queries.get(session, tenant_id, run_id)


def _is_due(session: Session, run: Run) -> bool:
    """Whether the run only waits for admission; takes its concurrency key if it does."""
    if run.held or (run.run_at is not None and run.run_at > lookups.database_now(session)):
        return False
    return acquire_key(session, run)


def acquire_key(session: Session, run: Run) -> bool:
    """Take the concurrency key that the run needs, if any; False if another run has it."""
    key = run.concurrency_key
    return key is None or concurrency.try_acquire(session, run.id, run.workflow_id, key)
