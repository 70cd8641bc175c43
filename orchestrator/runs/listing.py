"""Pages of runs: filters, order, keyset or offset, and how many there are; each by an index."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    and_,
    case,
    exists,
    false,
    func,
    or_,
    select,
    tuple_,
)
from sqlalchemy.orm import Session, aliased, load_only

from orchestrator.models import Run, RunTag, Schedule
from orchestrator.monitoring import run_counts
from orchestrator.monitoring.run_counts import RunCountKey
from orchestrator.states import RunState

# Ids are made by the API's clock and times by Postgres'; they may differ by so much.
_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class RunFilter:
    """Which runs; several values of one field mean any of them, several tags all of them."""

    project_id: UUID | None = None
    workflow: Sequence[str] = ()
    state: Sequence[RunState] = ()
    tag: Sequence[str] = ()
    priority: Sequence[int] = ()
    trigger: Sequence[str] = ()
    schedule_id: UUID | None = None
    schedule_ids: Sequence[UUID] = ()
    backfill_id: UUID | None = None
    submitted_by: Sequence[str | None] = ()  # None: nobody
    annotations: Mapping[str, Any] | None = None  # members that the run's have, with these values
    created_after: datetime | None = None
    created_before: datetime | None = None
    last_of_instant: bool = False  # of a schedule's or a workflow's runs that share one
    either: Sequence["RunFilter"] = ()  # and one or more of these
    but: "RunFilter | None" = None  # and not this


class SortOrder(Enum):
    """What a list of runs goes by."""

    AGE = "age"
    PRIORITY = "priority"
    LOGICAL = "logical"  # the instants that runs stand for


def _instant(of: Any) -> ColumnElement[datetime]:
    """For which instant a run stands, as its index has it."""
    return case((of.logical_date.is_(None), of.created_at), else_=of.logical_date)


_COLUMNS: Mapping[SortOrder, Sequence[Any]] = {
    SortOrder.AGE: (Run.id,),  # ids are in the order of time
    SortOrder.PRIORITY: (Run.priority, Run.id),
    SortOrder.LOGICAL: (_instant(Run), Run.number),
}


@dataclass(frozen=True)
class RunSort:
    """What a list goes by, and where it goes on."""

    by: SortOrder = SortOrder.AGE
    descending: bool = True
    after: tuple[Any, ...] | None = field(default=None)  # the position where the last page ended

    def position(self, run: Run) -> tuple[Any, ...]:
        """Where in this order a run stands."""
        return (run.priority, run.id) if self.by == SortOrder.PRIORITY else (run.id,)


def page(
    session: Session,
    tenant_id: UUID,
    which: RunFilter,
    order: RunSort,
    limit: int,
    *,
    offset: int = 0,
    only: Sequence[str] = (),
) -> list[Run]:
    """The next runs in this order; `limit` of them unless the list ends.

    With `only` they have only these columns, which a long list is read faster for.
    """
    # Only ids are put in order: an index may know all that this takes, and no other row is read.
    ids = _ordered(select(Run.id), tenant_id, which, order).limit(limit).offset(offset)
    asked = select(Run).where(Run.id.in_(ids)).order_by(*_directed(order))
    if only:
        asked = asked.options(load_only(*(getattr(Run, name) for name in only), raiseload=True))
    return list(session.scalars(asked))


def columns(
    session: Session,
    tenant_id: UUID,
    which: RunFilter,
    order: RunSort,
    limit: int,
    names: Sequence[str],
) -> Sequence[Row[Any]]:
    """The same as rows of some columns, which a list without pages is read fastest as."""
    asked = select(*(getattr(Run, name) for name in names))
    return session.execute(_ordered(asked, tenant_id, which, order).limit(limit)).all()


def count(session: Session, tenant_id: UUID, which: RunFilter) -> int:
    """How many runs there are; of what the tallies know, without counting them."""
    tallied = _tallied(which)
    if tallied is not None:
        kind, states = tallied
        found = run_counts.counts_by_state(session, tenant_id, kind)
        return sum(found[state] for state in states)
    asked = select(func.count()).select_from(Run)
    return session.scalars(asked.where(Run.tenant_id == tenant_id, *_conditions(which))).one()


def last_of_schedules(session: Session, schedule_ids: Sequence[UUID]) -> Mapping[UUID, Run]:
    """The run that each schedule submitted last, by the schedule's id."""
    last = select(Run.id).where(Run.schedule_id == Schedule.id).order_by(Run.id.desc()).limit(1)
    # Two statements: of one, Postgres would make a join over all runs.
    ids = session.scalars(select(last.scalar_subquery()).where(Schedule.id.in_(schedule_ids)))
    found = session.scalars(select(Run).where(Run.id.in_(ids.all())))
    return {run.schedule_id: run for run in found if run.schedule_id is not None}


def _ordered(asked: Select[Any], tenant_id: UUID, which: RunFilter, order: RunSort) -> Select[Any]:
    """The question, asked about these runs, in this order, from where the last page ended."""
    asked = asked.where(Run.tenant_id == tenant_id, *_conditions(which))
    if order.after is not None:
        here, there = tuple_(*_COLUMNS[order.by]), tuple_(*order.after)
        asked = asked.where(here < there if order.descending else here > there)
    return asked.order_by(*_directed(order))


def _directed(order: RunSort) -> Iterator[Any]:
    for column in _COLUMNS[order.by]:
        yield column.desc() if order.descending else column


def _tallied(which: RunFilter) -> tuple[RunCountKey, Sequence[RunState]] | None:
    """The kind and states that say the same; None when there is more to it."""
    if len(which.workflow) > 1:
        return None
    plain = replace(which, project_id=None, workflow=(), schedule_id=None, state=())
    if any(getattr(plain, each.name) != each.default for each in fields(plain)):
        return None
    name = which.workflow[0] if which.workflow else None
    kind = RunCountKey(project_id=which.project_id, workflow=name, schedule_id=which.schedule_id)
    return kind, list(dict.fromkeys(which.state)) or list(RunState)


def _conditions(which: RunFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    for column, values in (
        (Run.workflow, which.workflow),
        (Run.state, which.state),
        (Run.priority, which.priority),
        (Run.trigger, which.trigger),
        (Run.schedule_id, which.schedule_ids),
    ):
        if values:
            conditions.append(column.in_(values))
    if which.submitted_by:
        conditions.append(or_(*(Run.submitted_by == each for each in which.submitted_by)))
    if which.project_id is not None:
        conditions.append(Run.project_id == which.project_id)
    if which.annotations is not None:
        conditions.append(Run.annotations.contains(dict(which.annotations)))
    if which.schedule_id is not None:
        conditions.append(Run.schedule_id == which.schedule_id)
    if which.backfill_id is not None:
        conditions.append(Run.backfill_id == which.backfill_id)
    for tag in which.tag:
        is_its = and_(RunTag.tenant_id == Run.tenant_id, RunTag.run_id == Run.id)
        conditions.append(exists().where(is_its, RunTag.tag == tag))
    if which.created_after:
        conditions += [
            Run.created_at > which.created_after, Run.id >= _floor(which.created_after, -_SKEW)
        ]  # fmt: skip
    if which.created_before:
        conditions += [
            Run.created_at < which.created_before, Run.id <= _floor(which.created_before, _SKEW)
        ]  # fmt: skip
    return conditions + _compared(which)


def _compared(which: RunFilter) -> list[ColumnElement[bool]]:
    """What a filter says by other runs or by other filters."""
    conditions: list[ColumnElement[bool]] = []
    if which.last_of_instant:
        conditions.append(~_later())
    if which.either:
        conditions.append(or_(*(and_(*_conditions(each)) for each in which.either)))
    if which.but is not None:  # a column without a value makes it neither true nor false
        conditions.append(~func.coalesce(and_(*_conditions(which.but)), false()))
    return conditions


def _later() -> ColumnElement[bool]:
    """Whether there is a later run that stands for the same instant."""
    other = aliased(Run)
    asked = select(other.id).where(
        other.tenant_id == Run.tenant_id,
        _instant(other) == _instant(Run),
        other.number > Run.number,
        other.workflow_id == Run.workflow_id,
        other.schedule_id.is_not_distinct_from(Run.schedule_id),
    )
    return asked.exists()


def _floor(moment: datetime, shift: timedelta) -> UUID:
    """The lowest version-7 id of a shifted moment (RFC 9562): its 48 high bits are milliseconds."""
    # Added as numbers: dates end at the year 9999.
    milliseconds = int((moment.timestamp() + shift.total_seconds()) * 1000)
    milliseconds = max(0, min(milliseconds, 2**48 - 1))
    return UUID(int=milliseconds << 80)
