"""Lists of runs: filters, order, keyset or offset pages, and counts; each by an index."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Row, Select, and_, exists, or_, select
from sqlalchemy.orm import Session, aliased, load_only

from orchestrator.db import lookups
from orchestrator.models import Run, RunTag, Schedule
from orchestrator.monitoring import run_counts
from orchestrator.monitoring.run_counts import RunCountKey
from orchestrator.search.compiler import RUN_FIELDS, compile_field
from orchestrator.search.queries import SearchOrder
from orchestrator.states import RunState

# How much the clocks of the API, which makes ids, and of Postgres may differ.
_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class RunFilter:
    """Which runs; several values of a field mean any of them, several tags all of them."""

    project_id: UUID | None = None
    workflow: Sequence[str] = ()
    state: Sequence[RunState] = ()
    tag: Sequence[str] = ()
    priority: Sequence[int] = ()
    trigger: Sequence[str] = ()
    schedule_id: UUID | None = None
    schedule_ids: Sequence[UUID] = ()
    backfill_id: UUID | None = None
    submitted_by: Sequence[str | None] = ()  # None: no submitter
    annotations: Mapping[str, Any] | None = None  # members that the run's annotations contain
    created_after: datetime | None = None
    created_before: datetime | None = None
    last_of_instant: bool = False  # of the runs of a schedule or workflow with the same instant
    either: Sequence["RunFilter"] = ()  # and any of these
    but: "RunFilter | None" = None  # and not this one


class SortOrder(Enum):
    """The order of a list of runs."""

    AGE = "age"
    PRIORITY = "priority"
    LOGICAL = "logical"  # logical date, or creation without one


def _instant(of: Any) -> ColumnElement[datetime]:
    """The expression of the index by instant: the logical date, or else the creation."""
    return sa.case((of.logical_date.is_(None), of.created_at), else_=of.logical_date)


_COLUMNS: Mapping[SortOrder, Sequence[Any]] = {
    SortOrder.AGE: (Run.id,),  # ids are in the order of time
    SortOrder.PRIORITY: (Run.priority, Run.id),
    SortOrder.LOGICAL: (_instant(Run), Run.number),
}


@dataclass(frozen=True)
class RunSort:
    """The order of a list, and the position where the last page ended."""

    by: SortOrder = SortOrder.AGE
    descending: bool = True
    after: Sequence[Any] | None = None
    first: SearchOrder = ()  # sorted by these values before; then there is no position

    def position(self, run: Run) -> tuple[Any, ...]:
        """The position of a run in this order."""
        if self.by == SortOrder.LOGICAL:
            return run.logical_date or run.created_at, run.number
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
    """A page of runs; `only` loads just these columns, which is faster for long pages."""
    # Only ids are sorted: an index may have all that this takes, and no other row is read.
    ids = _ordered(select(Run.id), tenant_id, which, order).limit(limit).offset(offset)
    statement = select(Run).where(Run.id.in_(ids)).order_by(*_directed(order))
    if only:
        names = (getattr(Run, name) for name in only)
        statement = statement.options(load_only(*names, raiseload=True))
    return list(session.scalars(statement))


def columns(
    session: Session,
    tenant_id: UUID,
    which: RunFilter,
    order: RunSort,
    limit: int,
    names: Sequence[str],
) -> Sequence[Row[Any]]:
    """Rows with some columns of the runs, the fastest way to read a long list."""
    statement = select(*(getattr(Run, name) for name in names))
    return session.execute(_ordered(statement, tenant_id, which, order).limit(limit)).all()


def count(session: Session, tenant_id: UUID, which: RunFilter) -> int:
    """The number of runs of a filter, by the tallies if it tests nothing else than they have."""
    others = replace(which, project_id=None, workflow=(), schedule_id=None, state=())
    if len(which.workflow) > 1 or others != RunFilter():
        return lookups.count(session, Run, Run.tenant_id == tenant_id, *_conditions(which))
    name = which.workflow[0] if which.workflow else None
    kind = RunCountKey(project_id=which.project_id, workflow=name, schedule_id=which.schedule_id)
    counts = run_counts.counts_by_state(session, tenant_id, kind)
    return sum(counts[state] for state in set(which.state or RunState))


def last_of_schedules(session: Session, schedule_ids: Sequence[UUID]) -> Mapping[UUID, Run]:
    """The last run of each schedule, by schedule id."""
    last = select(Run.id).where(Run.schedule_id == Schedule.id).order_by(Run.id.desc()).limit(1)
    # Two statements: Postgres would execute one as a join over all runs.
    ids = session.scalars(select(last.scalar_subquery()).where(Schedule.id.in_(schedule_ids)))
    runs = session.scalars(select(Run).where(Run.id.in_(ids.all())))
    return {run.schedule_id: run for run in runs if run.schedule_id is not None}


def _ordered(
    statement: Select[Any], tenant_id: UUID, which: RunFilter, order: RunSort
) -> Select[Any]:
    """The statement with the filter, the order and the start of the page."""
    statement = statement.where(Run.tenant_id == tenant_id, *_conditions(which))
    if order.after is not None:
        key, last = sa.tuple_(*_COLUMNS[order.by]), sa.tuple_(*order.after)
        statement = statement.where(key < last if order.descending else key > last)
    return statement.order_by(*_directed(order))


def _directed(order: RunSort) -> Iterator[Any]:
    first = [(compile_field(value, RUN_FIELDS), descends) for value, descends in order.first]
    for column, descends in (*first, *((each, order.descending) for each in _COLUMNS[order.by])):
        yield column.desc() if descends else column


def _conditions(which: RunFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    several = {name: getattr(which, name) for name in ("workflow", "state", "priority", "trigger")}
    for name, values in {**several, "schedule_id": which.schedule_ids}.items():
        if values:
            conditions.append(getattr(Run, name).in_(values))
    for identity in ("project_id", "schedule_id", "backfill_id"):
        if getattr(which, identity) is not None:
            conditions.append(getattr(Run, identity) == getattr(which, identity))
    if which.submitted_by:
        conditions.append(or_(*(Run.submitted_by == each for each in which.submitted_by)))
    if which.annotations is not None:
        conditions.append(Run.annotations.contains(dict(which.annotations)))
    for tag in which.tag:
        same_run = and_(RunTag.tenant_id == Run.tenant_id, RunTag.run_id == Run.id)
        conditions.append(exists().where(same_run, RunTag.tag == tag))
    if which.created_after:
        first = _floor(which.created_after, -_SKEW)
        conditions += [Run.created_at > which.created_after, Run.id >= first]
    if which.created_before:
        last = _floor(which.created_before, _SKEW)
        conditions += [Run.created_at < which.created_before, Run.id <= last]
    if which.last_of_instant:
        conditions.append(~_has_later_run())
    if which.either:
        conditions.append(or_(*(and_(*_conditions(each)) for each in which.either)))
    if which.but is not None:  # NULL counts as false
        conditions.append(~sa.func.coalesce(and_(*_conditions(which.but)), sa.false()))
    return conditions


def _has_later_run() -> ColumnElement[bool]:
    """Whether there is a later run of the same instant."""
    other = aliased(Run)
    return exists().where(
        other.tenant_id == Run.tenant_id,
        _instant(other) == _instant(Run),
        other.number > Run.number,
        other.workflow_id == Run.workflow_id,
        other.schedule_id.is_not_distinct_from(Run.schedule_id),
    )


def _floor(moment: datetime, shift: timedelta) -> UUID:
    """The lowest version-7 id of a shifted moment (RFC 9562): its 48 high bits are milliseconds."""
    # Added as numbers: datetime ends at the year 9999.
    milliseconds = int((moment.timestamp() + shift.total_seconds()) * 1000)
    milliseconds = max(0, min(milliseconds, 2**48 - 1))
    return UUID(int=milliseconds << 80)
