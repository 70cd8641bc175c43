"""What a schedule submits by itself: the runs of its instants, and of the events it waits for.

The firing of an instant, its run and the instant that comes next are one transaction under the
schedule's row lock. So any number of schedulers may look, and die at any moment: an instant fires
once, and none is passed over.
"""

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
from orchestrator.db import Row, statements
from orchestrator.errors import Conflict, Invalid, OrchestratorError
from orchestrator.json_values import clean_text
from orchestrator.models import Firing, FiringOutcome, Schedule, Trigger
from orchestrator.runs import NewRun
from orchestrator.schedules import manage, overlap, timing
from orchestrator.spec import cron
from orchestrator.spec.cron import CatchUp, DueInstants

MAX_DEPTH = 32  # runs that may start each other in a line; more are a loop
_RUNS = 5  # of one schedule, submitted in one transaction
_SKIPS = 1000  # of one schedule, noted in one transaction
_MISSED = "missed: no scheduler ran, or it was behind"
_ANSWER = """
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
_SOURCE = """
    SELECT runs.id, runs.number, runs.workflow, runs.depth, runs.logical_date,
        split_part(events.type, '.', 2) AS state
    FROM runs JOIN events ON events.run_id = runs.id
    WHERE runs.id = :run_id AND events.seq = :seq
"""


class RunOptions(NamedTuple):
    """What the deployment chose, for the runs that are submitted and cancelled."""

    window: int
    grace: timedelta


class _Answer(NamedTuple):
    outcome: FiringOutcome
    run_id: UUID | None = None
    detail: str | None = None


def fire(session: Session, schedule_ids: Collection[UUID], limits: RunOptions) -> int:
    """Act on the instants of schedules that have come; gives how many it dealt with.

    Those that another scheduler holds are left to it. Raises OrchestratorError for a rule that
    cannot be computed any more.
    """
    moment = manage.database_now(session)
    due = {
        schedule.id: (schedule, _decide(schedule, schedule.next_at, moment))
        for schedule in _due(session, schedule_ids)
        if schedule.next_at is not None
    }
    missed = _Answer(FiringOutcome.SKIPPED, detail=_MISSED)
    _note(session, [(each, at) for each, decided in due.values() for at in decided.skip], missed)
    coming = [(each, at) for each, decided in due.values() for at in decided.fire]
    answers = {}
    for noted in _note(session, coming, _Answer(FiringOutcome.WAITING)):
        schedule, _ = due[noted.schedule_id]
        reason = str(timing.timing_rule(schedule))
        new = new_run(schedule, reason=reason, logical_date=noted.due_at)
        answers[noted.id] = _submit(session, schedule, new, limits)
    _answer(session, answers)
    _advance(session, due.values())
    return sum(len(decided.fire) + len(decided.skip) for _, decided in due.values())


def refuse_firing(session: Session, schedule_id: UUID, detail: str) -> None:
    """Pass over an instant that cannot be acted upon, so that the schedule goes on after it."""
    for schedule in _due(session, [schedule_id]):
        if schedule.next_at is not None:
            answer = _Answer(FiringOutcome.REFUSED, detail=clean_text(detail))
            _note(session, [(schedule, schedule.next_at)], answer)
            coming = None
            with suppress(OrchestratorError):
                coming = cron.next_after(timing.timing_rule(schedule), schedule.next_at)
            _advance(session, [(schedule, DueInstants([], [schedule.next_at], coming))])


def fire_event(session: Session, firing_id: int, limits: RunOptions) -> int:
    """Act on an event that a schedule waits for; nothing happens while another scheduler does."""
    asked = select(Firing).where(Firing.id == firing_id, Firing.outcome == FiringOutcome.WAITING)
    firing = session.scalar(asked)
    if firing is None:
        return 0
    # The schedule first, as who deletes it does; it takes its firings with it.
    schedule = manage.get_schedule(session, firing.tenant_id, firing.schedule_id, lock=True)
    if session.scalar(asked.with_for_update(skip_locked=True)) is None:
        return 0
    source = statements.row(session, _SOURCE, run_id=firing.source_run_id, seq=firing.source_seq)
    answer = _hindered(schedule, firing.due_at, source)
    if answer is None and source is not None:
        new = _of_event(schedule, firing.due_at, source)
        answer = _submit(session, schedule, new, limits)
    if answer is not None:
        _answer(session, {firing.id: answer})
    return 1


def refuse_event(session: Session, firing_id: int, detail: str) -> None:
    """Pass over an event that cannot be acted upon."""
    _answer(session, {firing_id: _Answer(FiringOutcome.REFUSED, detail=clean_text(detail))})


def new_run(schedule: Schedule, **more: Any) -> NewRun:
    """A run of the schedule that is not one of a backfill, with what makes it differ."""
    params = {**schedule.params, **(more.get("variables") or {})}
    given = {
        "trigger": Trigger.SCHEDULE,
        "source_type": "schedule",
        "source_id": str(schedule.id),
        "submitted_by": "schedule",
        "concurrency_key": overlap.overlap_key(schedule),
        **schedule_fields(schedule),
        "params": params,
        **more,
    }
    return NewRun(**given)


def schedule_fields(schedule: Schedule) -> dict[str, Any]:
    """What every run of a schedule takes over from it."""
    return {
        "workflow": schedule.workflow,
        "version": schedule.version,
        "params": schedule.params,
        "priority": schedule.priority,
        "tags": schedule.tags,
        "sla": schedule.sla,
        "timeout": schedule.timeout,
        "run_as": schedule.run_as,
        "schedule_id": schedule.id,
    }


def check_open(schedule: Schedule, moment: datetime) -> None:
    """Raises Conflict unless the schedule is active and between its start and its end."""
    if not schedule.active:
        raise Conflict(f"schedule {schedule.number} is not active")
    if schedule.start_at is not None and moment < schedule.start_at:
        raise Conflict(f"schedule {schedule.number} starts later, at {schedule.start_at}")
    if schedule.end_at is not None and moment >= schedule.end_at:
        raise Conflict(f"schedule {schedule.number} has ended, at {schedule.end_at}")


def error_text(error: Exception) -> str:
    """An error with its mistakes, in one text."""
    if not isinstance(error, OrchestratorError):
        return "this is a mistake of ours; the scheduler's log has more"
    mistakes = error.mistakes if isinstance(error, Invalid) else ()
    return clean_text(
        "; ".join([str(error), *(f"{each.pointer} {each.detail}" for each in mistakes)])
    )


def _due(session: Session, schedule_ids: Collection[UUID]) -> list[Schedule]:
    """The schedules, locked, that are due and that nobody else holds."""
    asked = select(Schedule).where(
        Schedule.id.in_(schedule_ids), Schedule.active, Schedule.fires_at <= func.now()
    )
    return list(session.scalars(asked.with_for_update(skip_locked=True, key_share=True)))


def _decide(schedule: Schedule, next_at: datetime, moment: datetime) -> DueInstants:
    return cron.due_instants(
        timing.timing_rule(schedule),
        next_at,
        moment,
        schedule.catch_up,
        timing.timing_jitter(schedule),
        limit=_RUNS if schedule.catch_up == CatchUp.ALL else _SKIPS,
    )


def _note(
    session: Session, instants: list[tuple[Schedule, datetime]], answer: _Answer
) -> Sequence[sa.Row[int, UUID, datetime]]:
    """Note what becomes of instants; gives those that were not noted before."""
    if not instants:
        return []
    common = {"outcome": answer.outcome, "detail": answer.detail}
    values = [
        {"tenant_id": each.tenant_id, "schedule_id": each.id, "due_at": instant, **common}
        for each, instant in instants
    ]
    columns = (Firing.id, Firing.schedule_id, Firing.due_at)
    return session.execute(
        insert(Firing).on_conflict_do_nothing().returning(*columns), values
    ).all()


def _answer(session: Session, answers: Mapping[int, _Answer]) -> None:
    if answers:
        given = {
            "ids": list(answers),
            "outcomes": [answer.outcome.value for answer in answers.values()],
            "run_ids": [answer.run_id for answer in answers.values()],
            "details": [answer.detail for answer in answers.values()],
        }
        statements.execute(session, _ANSWER, **given)


def _advance(session: Session, done: Collection[tuple[Schedule, DueInstants]]) -> None:
    """Let the schedules wait for the instants that come after these."""
    if done:
        next_at = [decided.next_at for _, decided in done]
        given = {
            "ids": [schedule.id for schedule, _ in done],
            "next_at": next_at,
            "fires_at": [
                None if at is None else timing.timing_jitter(schedule).delay(at)
                for at, (schedule, _) in zip(next_at, done, strict=True)
            ],
            "last_at": [
                max([*decided.fire, *decided.skip], default=schedule.last_at)
                for schedule, decided in done
            ],
        }
        statements.execute(session, _ADVANCE, **given)


def _submit(session: Session, schedule: Schedule, new: NewRun, limits: RunOptions) -> _Answer:
    """Submit the run as far as the overlap policy lets it, or say why not."""
    full = overlap.is_full(session, schedule)
    if full is not None:
        return _Answer(FiringOutcome.SKIPPED, detail=full)
    try:  # what it raises, it raises before it has written anything
        run, _ = runs.submit(session, schedule.tenant_id, new, window=limits.window)
    except OrchestratorError as error:
        return _Answer(FiringOutcome.REFUSED, detail=error_text(error))
    overlap.cancel_others(session, schedule, run.id, limits.grace)
    return _Answer(FiringOutcome.SUBMITTED, run_id=run.id)


def _of_event(schedule: Schedule, due_at: datetime, source: Row) -> NewRun:
    return new_run(
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
        logical_date=source.logical_date or due_at,  # it stands for the same instant
        depth=source.depth + 1,
    )


def _hindered(schedule: Schedule, due_at: datetime, source: Row | None) -> _Answer | None:
    """Why an event does not count, None if it does."""
    if source is None:
        return _Answer(FiringOutcome.SKIPPED, detail="the run that ended is gone")
    try:
        check_open(schedule, due_at)
    except Conflict as closed:
        return _Answer(FiringOutcome.SKIPPED, detail=str(closed))
    if source.depth >= MAX_DEPTH:
        detail = f"run {source.id} stands at the end of {MAX_DEPTH} runs that started each other"
        return _Answer(FiringOutcome.REFUSED, detail=f"{detail}: this is a loop")
    return None
