"""Pages of what happened to the runs of a tenant: by type, by run and by time, newest first."""

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, and_, func, select
from sqlalchemy.orm import Session, aliased

from orchestrator import store
from orchestrator.models import Event, Run, Step

# The first transaction of a tenant whose events are not before a moment, found by halves: there is
# no index by tenant and time, and transactions have nearly the order of time.
_FIRST_SINCE = """
    WITH RECURSIVE search AS (
        SELECT min(tx) AS low, max(tx) + 1 AS high FROM events WHERE tenant_id = :tenant_id
        UNION ALL
        SELECT CASE WHEN found.occurred_at < :moment THEN found.tx + 1 ELSE low END,
            CASE WHEN found.occurred_at < :moment THEN high ELSE (low + high) / 2 END
        FROM search, LATERAL (
            SELECT tx, occurred_at FROM events
            WHERE tenant_id = :tenant_id AND tx >= (low + high) / 2 ORDER BY tx, id LIMIT 1
        ) found
        WHERE low < high
    ) SELECT low AS tx FROM search WHERE low >= high
"""
_SKEW = timedelta(minutes=5)  # by which an event may be older than one of an earlier transaction


@dataclass(frozen=True, kw_only=True)
class EventFilter:
    """Which events of a tenant; both instants are included."""

    types: Collection[str]
    run_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


def newest(
    session: Session, tenant_id: UUID, which: EventFilter, *, limit: int, offset: int = 0
) -> list[Event]:
    """Some events of a tenant's runs, the newest first."""
    asked = select(Event).where(*_conditions(session, tenant_id, which))
    asked = asked.order_by(Event.tx.desc(), Event.id.desc())
    return list(session.scalars(asked.limit(limit).offset(offset)))


def count(session: Session, tenant_id: UUID, which: EventFilter, *, most: int) -> int:
    """How many there are, counted no further than `most`: a history grows without end."""
    asked = select(Event.id).where(*_conditions(session, tenant_id, which))
    asked = asked.order_by(Event.tx.desc(), Event.id.desc()).limit(most)
    return session.scalars(select(func.count()).select_from(asked.subquery())).one()


def newest_with_places(
    session: Session, tenant_id: UUID, which: EventFilter, *, limit: int
) -> list[Row[Any]]:
    """The same, each with what tells its run and its step from others."""
    asked = select(Event).where(*_conditions(session, tenant_id, which))
    latest = asked.order_by(Event.tx.desc(), Event.id.desc()).limit(limit)
    event = aliased(Event, latest.subquery())
    columns = (
        event.id, event.type, event.occurred_at, Run.workflow, Run.submitted_by, Run.run_as,
        Run.number.label("run_number"), Run.error.label("run_error"),
        Step.number.label("step_number"), Step.name.label("step_name"),
        Step.error.label("step_error"),
    )  # fmt: skip
    of_step = and_(Step.run_id == event.run_id, Step.key == event.step)
    joined = select(*columns).join(Run, Run.id == event.run_id).outerjoin(Step, of_step)
    return list(session.execute(joined.order_by(event.tx.desc(), event.id.desc())))


def _conditions(session: Session, tenant_id: UUID, which: EventFilter) -> list[ColumnElement[bool]]:
    conditions = [Event.tenant_id == tenant_id, Event.type.in_(which.types)]
    if which.run_id is not None:
        conditions.append(Event.run_id == which.run_id)
    if which.since is not None:
        first = _first_since(session, tenant_id, which.since, -_SKEW)
        conditions += [Event.occurred_at >= which.since, Event.tx >= first]
    if which.until is not None:
        first = _first_since(session, tenant_id, which.until, _SKEW)
        conditions += [Event.occurred_at <= which.until, Event.tx <= first]
    return conditions


def _first_since(session: Session, tenant_id: UUID, moment: datetime, shift: timedelta) -> int:
    """The first transaction with events of about a shifted moment; 0 without any events."""
    with contextlib.suppress(OverflowError):  # the first or the last minutes there are
        moment += shift
    given = {"tenant_id": tenant_id, "moment": moment}
    found = store.rows(session, _FIRST_SINCE, **given)
    return found[0].tx if found else 0
