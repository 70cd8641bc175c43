"""Submit a run of a schedule now, for a caller with a key or with the schedule's token."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator import runs, workflows
from orchestrator.access.references import SCHEME
from orchestrator.db.lookups import database_now
from orchestrator.errors import Conflict, Invalid, Mistake
from orchestrator.models import Overlap, Run, Schedule, Trigger
from orchestrator.schedules import manage, overlap
from orchestrator.schedules.firing import RunOptions, check_open, new_run
from orchestrator.spec.params import without_value


@dataclass(frozen=True, kw_only=True)
class TriggerPayload:
    """The payload of a trigger: values for parameters, and the rest.

    With `merges_events` the rest, too, gives parameters that have no value otherwise.
    """

    variables: Mapping[str, Any] | None = None
    event_variables: Mapping[str, Any] | None = None
    merges_events: bool = False


@dataclass(frozen=True, kw_only=True)
class TriggerRequest:
    """A request to trigger a schedule."""

    trigger: Trigger = Trigger.MANUAL
    submitted_by: str | None = None
    payload: TriggerPayload = TriggerPayload()
    idempotency_key: str | None = None
    activate: bool = False  # makes an inactive schedule active
    keeps_skipped: bool = False  # a run that the overlap policy skips is created as cancelled
    logical_date: datetime | None = None  # None: the creation of the run
    backfill_id: UUID | None = None  # adds the run to this backfill


def parse_payload(body: Any) -> TriggerPayload:
    """The payload in a trigger's JSON body. Raises Invalid."""
    if not isinstance(body, dict):
        raise Invalid("the payload cannot be used", Mistake("/", "must be an object"))
    variables = body.get("variables")
    if variables is not None and not isinstance(variables, dict):
        raise Invalid("the payload cannot be used", Mistake("/variables", "must be an object"))
    others = {name: value for name, value in body.items() if name != "variables"}
    return TriggerPayload(variables=variables, event_variables=others or None)


def trigger_now(
    session: Session,
    tenant_id: UUID,
    which: UUID | int,
    request: TriggerRequest,
    limits: RunOptions,
) -> tuple[Run, bool]:
    """Submit a run of a schedule now, within its overlap policy.

    The second value is False if the same request and key created the run before. By its token, a
    schedule must be active and between its start and its end. Raises NotFound, Conflict, and what
    `runs.submit` raises.
    """
    schedule = manage.get_schedule(session, tenant_id, which)
    if schedule.overlap != Overlap.ALLOW or (request.activate and not schedule.active):
        schedule = manage.get_schedule(session, tenant_id, which, lock=True)
    if request.activate and not schedule.active:
        schedule = manage.change_schedule(session, tenant_id, which, active=True)
    if request.trigger == Trigger.API:
        check_open(schedule, database_now(session))
        if SCHEME in repr(_values(request.payload)):  # whoever has only an address may name none
            mistake = Mistake("/variables", f"only a key may name secrets ({SCHEME}…)")
            raise Invalid("the payload cannot be used", mistake)
    new = new_run(
        session,
        schedule,
        trigger=request.trigger,
        submitted_by=request.submitted_by,
        reason=f"trigger({schedule.name})",
        params=_params(session, schedule, request.payload),
        variables=request.payload.variables,
        event_variables=request.payload.event_variables,
        logical_date=request.logical_date,
        backfill_id=request.backfill_id,
    )
    skip = overlap.is_full(session, schedule) if request.keeps_skipped else None
    run, created = runs.submit(
        session,
        tenant_id,
        new if skip is None else replace(new, start=False),
        window=limits.window,
        idempotency_key=request.idempotency_key,
    )
    if not created:
        return run, False
    # Not earlier: it would change the fingerprint of the request.
    run.logical_date = run.logical_date or run.created_at
    if skip is not None:
        return runs.cancel(session, tenant_id, run.id, grace=limits.grace, reason=skip), True
    full = overlap.is_full(session, schedule, except_for=run.id)
    if full is not None:  # rolls back what was written
        raise Conflict(full)
    overlap.cancel_others(session, schedule, run.id, limits.grace)
    return run, True


def _values(payload: TriggerPayload) -> list[Mapping[str, Any] | None]:
    """What of a payload may become parameters."""
    return [payload.variables, payload.event_variables if payload.merges_events else None]


def _params(session: Session, schedule: Schedule, payload: TriggerPayload) -> dict[str, Any]:
    """The parameters of the run: the payload's over the schedule's, then those of its rest."""
    params = {**schedule.params, **(payload.variables or {})}
    if not payload.merges_events or not payload.event_variables:
        return params
    which = (schedule.workflow, schedule.version)
    schema = workflows.read_source(session, schedule.tenant_id, which).spec.get("params", {})
    return {**without_value(schema, payload.event_variables), **params}
