"""Runs of a schedule at once: somebody pulls its trigger, with a key or with its token."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator import runs
from orchestrator.errors import Conflict, Invalid, Mistake
from orchestrator.models import Overlap, Run, Trigger
from orchestrator.schedules import manage, overlap
from orchestrator.schedules.firing import RunOptions, check_open, new_run


@dataclass(frozen=True, kw_only=True)
class TriggerPayload:
    """What came with a trigger: values for parameters, and everything else."""

    variables: Mapping[str, Any] | None = None
    event_variables: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class TriggerRequest:
    """Who pulls a trigger, and how."""

    trigger: Trigger = Trigger.MANUAL
    submitted_by: str | None = None
    payload: TriggerPayload = TriggerPayload()
    idempotency_key: str | None = None
    activate: bool = False  # let an inactive schedule be active from then on
    keeps_skipped: bool = False  # what its overlap policy skips is a cancelled run, not a refusal
    logical_date: datetime | None = None  # when the run is made
    backfill_id: UUID | None = None  # the run is one more of this backfill


def parse_payload(body: Any) -> TriggerPayload:
    """The payload in a trigger's JSON body. Raises Invalid unless it is an object of the form."""
    if not isinstance(body, dict):
        raise Invalid("the payload cannot be used", Mistake("/", "must be an object"))
    variables = body.get("variables")
    if variables is not None and not isinstance(variables, dict):
        raise Invalid("the payload cannot be used", Mistake("/variables", "must be an object"))
    others = {name: value for name, value in body.items() if name != "variables"}
    return TriggerPayload(variables=variables, event_variables=others or None)


def trigger_now(
    session: Session, tenant_id: UUID, which: UUID | int, asked: TriggerRequest, limits: RunOptions
) -> tuple[Run, bool]:
    """Submit a run of a schedule now; False says that the same key and request had made it before.

    Somebody with a key may do so whenever he likes. With its token, a schedule must be active and
    between its start and its end. The overlap policy holds for both. Raises NotFound, Conflict,
    and what `runs.submit` raises.
    """
    schedule = manage.get_schedule(session, tenant_id, which)
    if schedule.overlap != Overlap.ALLOW or (asked.activate and not schedule.active):
        schedule = manage.get_schedule(session, tenant_id, which, lock=True)
    if asked.activate and not schedule.active:
        schedule = manage.change_schedule(session, tenant_id, which, active=True)
    if asked.trigger == Trigger.API:
        check_open(schedule, manage.database_now(session))
    given = asked.payload
    new = new_run(
        schedule,
        trigger=asked.trigger,
        submitted_by=asked.submitted_by,
        reason=f"trigger({schedule.name})",
        variables=given.variables,
        event_variables=given.event_variables,
        logical_date=asked.logical_date,
        backfill_id=asked.backfill_id,
    )
    skip = overlap.is_full(session, schedule) if asked.keeps_skipped else None
    run, made = runs.submit(
        session,
        tenant_id,
        new if skip is None else replace(new, start=False),
        window=limits.window,
        idempotency_key=asked.idempotency_key,
    )
    if made:
        # Not earlier: the same request must stay the same.
        run.logical_date = run.logical_date or run.created_at
    if made and skip is not None:
        return runs.cancel(session, tenant_id, run.id, grace=limits.grace, reason=skip), True
    if made:
        full = overlap.is_full(session, schedule, but=run.id)
        if full is not None:  # whatever was written is rolled back
            raise Conflict(full)
        overlap.cancel_others(session, schedule, run.id, limits.grace)
    return run, made
