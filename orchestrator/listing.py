"""Pages of runs: filters, order and keyset, each answered from an index."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, select, tuple_
from sqlalchemy.orm import Session

from orchestrator.models import Run
from orchestrator.states import RunState

# Ids are made by the API's clock and times by Postgres'; they may differ by so much.
_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class RunFilter:
    """Which runs; several values of one field mean any of them, several tags all of them."""

    workflow: Sequence[str] = ()
    state: Sequence[RunState] = ()
    tag: Sequence[str] = ()
    priority: Sequence[int] = ()
    trigger: Sequence[str] = ()
    schedule_id: UUID | None = None
    backfill_id: UUID | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True)
class RunOrder:
    """By age, which is the order of the ids, or by priority and then age."""

    by_priority: bool = False
    descending: bool = True
    after: tuple[Any, ...] | None = field(default=None)  # the position where the last page ended

    def position(self, run: Run) -> tuple[Any, ...]:
        """Where in this order a run stands."""
        return (run.priority, run.id) if self.by_priority else (run.id,)


def page(
    session: Session, tenant_id: UUID, which: RunFilter, order: RunOrder, limit: int
) -> list[Run]:
    """The next runs in this order; `limit` of them unless the list ends."""
    columns = (Run.priority, Run.id) if order.by_priority else (Run.id,)
    asked = select(Run).where(Run.tenant_id == tenant_id, *_conditions(which))
    if order.after is not None:
        here, there = tuple_(*columns), tuple_(*order.after)
        asked = asked.where(here < there if order.descending else here > there)
    ordered = [column.desc() if order.descending else column for column in columns]
    return list(session.scalars(asked.order_by(*ordered).limit(limit)))


def _conditions(which: RunFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    for column, values in (
        (Run.workflow, which.workflow),
        (Run.state, which.state),
        (Run.priority, which.priority),
        (Run.trigger, which.trigger),
    ):
        if values:
            conditions.append(column.in_(values))
    if which.schedule_id is not None:
        conditions.append(Run.schedule_id == which.schedule_id)
    if which.backfill_id is not None:
        conditions.append(Run.backfill_id == which.backfill_id)
    if which.tag:
        conditions.append(Run.tags.contains(list(which.tag)))
    if which.created_after:
        conditions += [
            Run.created_at > which.created_after, Run.id >= _floor(which.created_after, -_SKEW)
        ]  # fmt: skip
    if which.created_before:
        conditions += [
            Run.created_at < which.created_before, Run.id <= _floor(which.created_before, _SKEW)
        ]  # fmt: skip
    return conditions


def _floor(moment: datetime, shift: timedelta) -> UUID:
    """The lowest version-7 id of a shifted moment (RFC 9562): its 48 high bits are milliseconds."""
    # Added as numbers: dates end at the year 9999.
    milliseconds = int((moment.timestamp() + shift.total_seconds()) * 1000)
    milliseconds = max(0, min(milliseconds, 2**48 - 1))
    return UUID(int=milliseconds << 80)
