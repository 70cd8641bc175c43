"""Fire schedules: submit the runs of their instants, and of the events that they wait for.

A firing, its run and the schedule's next instant are written in one transaction under the
schedule's row lock. So any number of schedulers may work at it, and crash at any moment: an
instant fires once, and none is lost.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from orchestrator import runs
from orchestrator.db import Row, lookups, statements
from orchestrator.errors import Conflict, Invalid, OrchestratorError
from orchestrator.json_values import clean_text
from orchestrator.models import Firing, FiringOutcome, Schedule, Trigger
from orchestrator.runs import NewRun
from orchestrator.schedules import manage, overlap, timing
from orchestrator.spec import cron
from orchestrator.spec.cron import CatchUp, DueInstants

MAX_DEPTH = 32  # length of a chain of runs that start each other; more is a loop
MAX_SECONDS = 0.5  # after which one transaction submits no further run
_MAX_RUNS = 5  # of one schedule, submitted in one transaction
_MAX_SKIPS = 200  # of one schedule, recorded in one transaction
_RESOLVE = """
    UPDATE firings SET outcome = done.outcome, run_id = done.run_id, detail = done.detail
    FROM unnest(CAST(:ids AS bigint[]), CAST(:outcomes AS text[]), CAST(:run_ids AS uuid[]),
        CAST(:details AS text[])) AS done(id, outcome, run_id, detail)
    WHERE firings.id = done.id AND firings.outcome = 'waiting'
"""
_ADVANCE = """
    UPDATE schedules SET next_at = done.next_at, fires_at = done.fires_at, last_at = done.last_at
    FROM unnest(CAST(:ids AS uuid[]), CAST(:next_at AS timestamptz[]),
        CAST(:fires_at AS timestamptz[]), CAST(:last_at AS timestamptz[]))
        AS done(id, next_at, fires_at, last_at)
    WHERE schedules.id = done.id
"""
_POSTPONE = "DELETE FROM firings WHERE id = ANY(CAST(:ids AS bigint[]))"
_SOURCE_RUN = """
    SELECT runs.id, runs.number, runs.workflow, runs.depth, runs.logical_date,
        split_part(events.type, '.', 2) AS state
    FROM runs JOIN events ON events.run_id = runs.id
    WHERE runs.id = :run_id AND events.seq = :seq
"""


class RunOptions(NamedTuple):
    """Settings of the deployment for runs that are submitted and cancelled."""

    window: int
    grace: timedelta


class _Result(NamedTuple):
    outcome: FiringOutcome
    run_id: UUID | None = None
    detail: str | None = None


def fire(session: Session, schedule_ids: Sequence[UUID], limits: RunOptions) -> int:
    """Fire or skip the due instants of schedules, in this order; gives how many.

    What takes too long is left for the next call, and so are schedules that another scheduler has
    locked. Raises OrchestratorError for a rule that cannot be computed any more.
    """
    moment = lookups.database_now(session)
    due = {
        schedule.id: (schedule, _decide(schedule, schedule.next_at, moment))
        for schedule in _due(session, schedule_ids)
        if schedule.next_at is not None
    }
    missed = _Result(FiringOutcome.SKIPPED, detail="missed: no scheduler ran, or it was behind")
    _record(session, [(each, at) for each, decided in due.values() for at in decided.skip], missed)
    instants = [(each, at) for each, decided in due.values() for at in decided.fire]
    firings = sorted(
        _record(session, instants, _Result(FiringOutcome.WAITING)),
        key=lambda firing: (schedule_ids.index(firing.schedule_id), firing.due_at),
    )
    results, until = dict[int, _Result](), time.monotonic() + MAX_SECONDS
    for firing in firings:
        schedule, _ = due[firing.schedule_id]
        reason = str(timing.timing_rule(schedule))
        new = new_run(session, schedule, reason=reason, logical_date=firing.due_at)
        results[firing.id] = _submit(session, schedule, new, limits)
        if time.monotonic() > until:
            break
    _resolve(session, results)
    _postpone(session, due, firings[len(results) :])
    _advance(session, due.values())
    return sum(len(decided.fire) + len(decided.skip) for _, decided in due.values())


def refuse_firing(session: Session, schedule_id: UUID, detail: str) -> None:
    """Record the due instant as refused, after an error, so that the schedule goes on."""
    for schedule in _due(session, [schedule_id]):
        if schedule.next_at is not None:
            result = _Result(FiringOutcome.REFUSED, detail=clean_text(detail))
            _record(session, [(schedule, schedule.next_at)], result)
            next_at = None
            with suppress(OrchestratorError):
                next_at = cron.next_after(timing.timing_rule(schedule), schedule.next_at)
            _advance(session, [(schedule, DueInstants([], [schedule.next_at], next_at))])


def fire_event(session: Session, firing_id: int, limits: RunOptions) -> int:
    """Submit the run of an event; 0 if the firing is resolved, or another scheduler locked it."""
    statement = select(Firing).filter_by(id=firing_id, outcome=FiringOutcome.WAITING)
    firing = session.scalar(statement)
    if firing is None:
        return 0
    # The schedule is locked first, as its deletion does, which cascades to firings.
    schedule = manage.get_schedule(session, firing.tenant_id, firing.schedule_id, lock=True)
    if session.scalar(statement.with_for_update(skip_locked=True)) is None:
        return 0
    params = {"run_id": firing.source_run_id, "seq": firing.source_seq}
    source = statements.row(session, _SOURCE_RUN, **params)
    _resolve(session, {firing.id: _submit_of_event(session, schedule, firing, source, limits)})
    return 1


def refuse_event(session: Session, firing_id: int, detail: str) -> None:
    """Record an event as refused, after an error."""
    _resolve(session, {firing_id: _Result(FiringOutcome.REFUSED, detail=clean_text(detail))})


def new_run(session: Session, schedule: Schedule, **more: Any) -> NewRun:
    """A request for a run of a schedule; `more` are fields that differ from the schedule's own."""
    copied = ("workflow", "version", "priority", "tags", "sla", "timeout", "run_as")
    fields = {
        **{name: getattr(schedule, name) for name in copied},
        "params": {**schedule.params, **(more.get("variables") or {})},
        "schedule_id": schedule.id,
        "concurrency_key": overlap.overlap_key(session, schedule),
        "trigger": Trigger.SCHEDULE,
        "source_type": "schedule",
        "source_id": str(schedule.id),
        "submitted_by": "schedule",
    }
    return NewRun(**fields | more)


def check_open(schedule: Schedule, moment: datetime) -> None:
    """Raises Conflict unless the schedule is active and between its start and its end."""
    if not schedule.active:
        raise Conflict(f"schedule {schedule.number} is not active")
    if schedule.start_at is not None and moment < schedule.start_at:
        raise Conflict(f"schedule {schedule.number} starts later, at {schedule.start_at}")
    if schedule.end_at is not None and moment >= schedule.end_at:
        raise Conflict(f"schedule {schedule.number} has ended, at {schedule.end_at}")


def error_text(error: Exception) -> str:
    """The message of an error with its mistakes."""
    if not isinstance(error, OrchestratorError):
        return "this is a mistake of ours; the scheduler's log has more"
    mistakes = error.mistakes if isinstance(error, Invalid) else ()
    details = [f"{each.pointer} {each.detail}" for each in mistakes]
    return clean_text("; ".join([str(error), *details]))


def _due(session: Session, schedule_ids: Collection[UUID]) -> list[Schedule]:
    """Those of the schedules that are due, with a row lock, without those that are locked."""
    statement = select(Schedule).where(
        Schedule.id.in_(schedule_ids), Schedule.active, Schedule.fires_at <= func.now()
    )
    return list(session.scalars(statement.with_for_update(skip_locked=True, key_share=True)))


def _decide(schedule: Schedule, next_at: datetime, moment: datetime) -> DueInstants:
    return cron.due_instants(
        timing.timing_rule(schedule),
        next_at,
        moment,
        schedule.catch_up,
        timing.timing_jitter(schedule),
        limit=_MAX_RUNS if schedule.catch_up == CatchUp.ALL else _MAX_SKIPS,
    )


def _record(
    session: Session, instants: list[tuple[Schedule, datetime]], result: _Result
) -> Sequence[sa.Row[int, UUID, datetime]]:
    """Insert firings; gives those that did not exist."""
    if not instants:
        return []
    common = {"outcome": result.outcome, "detail": result.detail}
    values = [
        {"tenant_id": each.tenant_id, "schedule_id": each.id, "due_at": instant, **common}
        for each, instant in instants
    ]
    columns = (Firing.id, Firing.schedule_id, Firing.due_at)
    statement = insert(Firing).on_conflict_do_nothing().returning(*columns)
    return session.execute(statement, values).all()


def _resolve(session: Session, results: Mapping[int, _Result]) -> None:
    """Write the results of waiting firings, by id."""
    if results:
        params = {
            "ids": list(results),
            "outcomes": [result.outcome.value for result in results.values()],
            "run_ids": [result.run_id for result in results.values()],
            "details": [result.detail for result in results.values()],
        }
        statements.execute(session, _RESOLVE, **params)


def _postpone(
    session: Session,
    due: dict[UUID, tuple[Schedule, DueInstants]],
    firings: Sequence[sa.Row[int, UUID, datetime]],
) -> None:
    """Take back firings, the oldest of a schedule first, so that their instants remain due."""
    if not firings:
        return
    statements.execute(session, _POSTPONE, ids=[firing.id for firing in firings])
    for firing in reversed(firings):
        schedule, decided = due[firing.schedule_id]
        fired = [instant for instant in decided.fire if instant < firing.due_at]
        due[firing.schedule_id] = schedule, decided._replace(fire=fired, next_at=firing.due_at)


def _advance(session: Session, done: Collection[tuple[Schedule, DueInstants]]) -> None:
    """Set the next instants of schedules."""
    if done:
        params = {
            "ids": [schedule.id for schedule, _ in done],
            "next_at": [decided.next_at for _, decided in done],
            "fires_at": [timing.fires_at(schedule, decided.next_at) for schedule, decided in done],
            "last_at": [
                max([*decided.fire, *decided.skip], default=schedule.last_at)
                for schedule, decided in done
            ],
        }
        statements.execute(session, _ADVANCE, **params)


def _submit(session: Session, schedule: Schedule, new: NewRun, limits: RunOptions) -> _Result:
    """Submit a run if the overlap policy allows it."""
    full = overlap.is_full(session, schedule)
    if full is not None:
        return _Result(FiringOutcome.SKIPPED, detail=full)
    try:  # nothing is written before an OrchestratorError
        run, _ = runs.submit(session, schedule.tenant_id, new, window=limits.window)
    except OrchestratorError as error:
        return _Result(FiringOutcome.REFUSED, detail=error_text(error))
    overlap.cancel_others(session, schedule, run.id, limits.grace)
    return _Result(FiringOutcome.SUBMITTED, run_id=run.id)


def _submit_of_event(
    session: Session, schedule: Schedule, firing: Firing, source: Row | None, limits: RunOptions
) -> _Result:
    """Submit the run of an event, unless the schedule is closed or the event is of a loop."""
    if source is None:
        return _Result(FiringOutcome.SKIPPED, detail="the run that ended is gone")
    try:
        check_open(schedule, firing.due_at)
    except Conflict as closed:
        return _Result(FiringOutcome.SKIPPED, detail=str(closed))
    if source.depth >= MAX_DEPTH:
        detail = f"run {source.id} stands at the end of {MAX_DEPTH} runs that started each other"
        return _Result(FiringOutcome.REFUSED, detail=f"{detail}: this is a loop")
    new = new_run(
        session,
        schedule,
        trigger=Trigger.EVENT,
        source_type="run",
        source_id=str(source.id),
        reason=f"after({source.workflow}, {source.state})",
        event_variables={
            "run_id": str(source.id),
            "workflow": source.workflow,
            "state": source.state,
            "number": source.number,
        },
        logical_date=source.logical_date or firing.due_at,  # it stands for the same instant
        depth=source.depth + 1,
    )
    return _submit(session, schedule, new, limits)
