"""Submit runs: a run, its steps and its first event are written in one transaction."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session, make_transient_to_detached
from uuid_utils.compat import uuid7

from orchestrator import audit, workflows
from orchestrator.db import Row, journal, lookups, outbox, statements
from orchestrator.engine import admission, concurrency, publishing
from orchestrator.errors import InvalidParams, InvalidTransition
from orchestrator.json_values import dump_json
from orchestrator.models import Run, Trigger, Version
from orchestrator.runs import idempotency, queries, views
from orchestrator.spec.durations import parse_duration
from orchestrator.spec.hidden_params import keep_hidden
from orchestrator.spec.model import DEFAULT_QUEUE, NORMAL_PRIORITY
from orchestrator.spec.params import check_params
from orchestrator.states import RunState

_SUBMIT = """
    SELECT (run).*, steps, usage, wait, published, is_awaited
    FROM submit_run(CAST(:new_run AS jsonb) -> 0, CAST(:version AS int), :window)
"""
_INSERT = "SELECT * FROM insert_runs(CAST(:new_runs AS jsonb))"


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
_STEP = 50  # runs; to write each by itself takes half as long again
_COLUMNS = tuple(Run.__table__.c.keys())


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
        others = {"submitted_by", "source_type", "source_id"}  # of the caller
        if self.schedule_id is not None:
            others.add("concurrency_key")  # may be another slot
        return {
            name: value
            for name, value in vars(self).items()
            if name not in others and (name == "workflow" or value != defaults[name])
        }


def submit(session: Session, tenant_id: UUID, new: NewRun, **options: Any) -> tuple[Run, bool]:
    """Accept a run, as `submit_and_view` does; gives the object of the session."""
    view, is_new = submit_and_view(session, tenant_id, new, **options)
    if is_new:
        return to_run(session, view.run), True
    return queries.get(session, tenant_id, view.run["id"]), False


def submit_and_view(
    session: Session,
    tenant_id: UUID,
    new: NewRun,
    *,
    window: int,
    idempotency_key: str | None = None,
    good_for: timedelta | None = None,
) -> tuple[views.RunView, bool]:
    """Accept a run; the second value is False if the same request and key created it before.

    With `good_for` an older key may be used again. Raises NotFound for an unknown workflow or
    version, InvalidParams, and IdempotencyMismatch for a key of another request.
    """
    request = None if idempotency_key is None else new.fingerprint_fields()
    earlier = idempotency.reserve(session, tenant_id, idempotency_key, request, good_for)
    if earlier is not None:
        return views.view(session, tenant_id, earlier[0]), False
    row = submit_row(session, tenant_id, new, window)
    if row.is_awaited:
        outbox.enqueue(session, [row.id], {"run.created"})
    publishing.deliver(session, row.published or ())
    after = {name: getattr(row, name) for name in _RECORDED}
    audit.record(session, tenant_id, "run.submit", row.id, after=after)
    idempotency.remember(session, tenant_id, idempotency_key, [row.id])
    return views.to_view(row), True


def add_run(session: Session, tenant_id: UUID, new: NewRun) -> Run:
    """Write a pending run and its steps. Raises NotFound and InvalidParams."""
    source = workflows.read_source(session, tenant_id, (new.workflow, new.version))
    columns = run_columns(session, tenant_id, new, source)
    row = statements.rows(session, _INSERT, new_runs=dump_rows([columns]))[0]
    run = to_run(session, row._asdict())
    outbox.enqueue(session, [run.id], {"run.created"})
    return run


def submit_row(session: Session, tenant_id: UUID, new: NewRun, window: int) -> Row:
    """Write a run, and admit it if it may start. Raises NotFound and InvalidParams."""
    which = (new.workflow, new.version)

    def write(source: workflows.Source) -> Row | None:
        """None if the source is not the workflow's any more."""
        new_run = dump_rows([run_columns(session, tenant_id, new, source)])
        params = {"version": new.version, "window": window}
        return statements.row(session, _SUBMIT, new_run=new_run, **params)

    source = workflows.source_in_cache(tenant_id, which)
    with suppress(InvalidParams):  # those of another version
        if source is not None and (row := write(source)) is not None:
            return row
    while (row := write(workflows.read_source(session, tenant_id, which))) is None:
        pass  # another version was registered in between
    return row


def run_columns(
    session: Session, tenant_id: UUID, new: NewRun, source: workflows.Source
) -> dict[str, Any]:
    """What the function `insert_runs` makes a run of. Raises InvalidParams."""
    columns = plain_columns(tenant_id, new, source)
    columns["due"] = new.start and (new.concurrency_key is None or _takes_key(session, columns))
    return columns


def plain_columns(tenant_id: UUID, new: NewRun, source: workflows.Source) -> dict[str, Any]:
    """The same without what other runs decide. Raises InvalidParams."""
    spec = source.spec
    check = source.check if new.complete else source.check_incomplete
    return {
        "id": str(uuid7()),
        "tenant_id": str(tenant_id),
        "workflow_id": source.workflow_id,
        "version_id": source.version_id,
        "project_id": source.project_id,
        "workflow": source.workflow,
        "version": source.version,
        "priority": int(spec.get("priority", NORMAL_PRIORITY))
        if new.priority is None
        else new.priority,
        "queue": spec.get("queue", DEFAULT_QUEUE),
        "params": check(new.params),
        "tags": sorted({*spec.get("tags", ()), *new.tags}),
        "timeout": _spec_duration(spec, "timeout", new.timeout),
        "sla": _spec_duration(spec, "sla", new.sla),
        "held": not new.start,
        **{name: getattr(new, name) for name in ATTRIBUTES},
    }


def dump_rows(rows: Sequence[dict[str, Any]]) -> str:
    """The columns of runs as a JSON array."""
    parts = (rows[first : first + _STEP] for first in range(0, len(rows), _STEP))
    return f"[{','.join(dump_json(part, default=_for_postgres)[1:-1] for part in parts)}]"


def _for_postgres(value: Any) -> Any:
    """A value that JSON has no type for, as text that Postgres casts."""
    if isinstance(value, timedelta):
        return f"{value.days} days {value.seconds}.{value.microseconds:06d} s"
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)


def to_run(session: Session, columns: Mapping[str, Any]) -> Run:
    """A run that was inserted, as an object of the session."""
    run: Run = Run.__mapper__.class_manager.new_instance()
    vars(run).update({name: columns[name] for name in _COLUMNS}, state=RunState(columns["state"]))
    make_transient_to_detached(run)
    session.add(run)
    return run


def _spec_duration(spec: Mapping[str, Any], name: str, value: timedelta | None) -> timedelta | None:
    """The value, or else the workflow's own."""
    return parse_duration(spec[name]) if value is None and name in spec else value


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


def must_be_held(session: Session, tenant_id: UUID, run_id: UUID) -> None:
    """Raises InvalidTransition unless a run is held; it stays so to the end of the transaction."""
    _held(session, tenant_id, run_id, "was started already")


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
    return acquire_key(session, run, run.concurrency_key)


def _takes_key(session: Session, columns: Mapping[str, Any]) -> bool:
    """Whether a new run takes its concurrency key, if it may start now."""
    run_at = columns["run_at"]
    if run_at is not None and run_at > lookups.database_now(session):
        return False
    key = columns["concurrency_key"]
    run_id, workflow_id = UUID(columns["id"]), UUID(columns["workflow_id"])
    return concurrency.try_acquire(session, run_id, workflow_id, key)


def acquire_key(session: Session, run: Run, key: str | None) -> bool:
    """Take the concurrency key that the run needs, if any; False if another run has it."""
    return key is None or concurrency.try_acquire(session, run.id, run.workflow_id, key)
