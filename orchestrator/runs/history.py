"""Pages of what happened to the runs of a tenant: by type, by run and by time, newest first."""

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, and_, func, select, text, tuple_
from sqlalchemy.orm import Session, aliased

from orchestrator.db import statements
from orchestrator.db.unit_of_work import unit_of
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


def newest_events(
    session: Session, tenant_id: UUID, which: EventFilter, *, limit: int, offset: int = 0
) -> list[Event]:
    """Some events of a tenant's runs, the newest first."""
    asked = select(Event).where(*_conditions(session, tenant_id, which))
    asked = asked.order_by(Event.tx.desc(), Event.id.desc())
    return list(session.scalars(asked.limit(limit).offset(offset)))


def count_events(session: Session, tenant_id: UUID, which: EventFilter, *, most: int) -> int:
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
    found = statements.rows(session, _FIRST_SINCE, **given)
    return found[0].tx if found else 0


# Of several runs at once, each by its own index entry, however many there are.
_SINCE = """
    SELECT event.* FROM unnest(CAST(:run_ids AS uuid[]), CAST(:seqs AS int[])) AS wanted(id, seq),
    LATERAL (SELECT * FROM events WHERE events.run_id = wanted.id AND events.seq > wanted.seq
             ORDER BY events.seq LIMIT :limit) event
"""

# The oldest transaction that may still write something.
_HORIZON = "CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
Position = tuple[int, int]  # transaction, id: where a reader of a tenant's events stands
BEGINNING: Position = (0, 0)


def events_of_run(
    session: Session, run_id: UUID, *, after: int = 0, limit: int = 100
) -> list[Event]:
    """The events of a run after a number, oldest first."""
    asked = select(Event).where(Event.run_id == run_id, Event.seq > after)
    return list(session.scalars(asked.order_by(Event.seq).limit(limit)))


def changed_at(session: Session, runs: Iterable[Run]) -> Mapping[UUID, datetime]:
    """When something last happened to each of the runs, by its id: now, if this transaction did."""
    last = {run.id: run.event_seq for run in runs}
    asked = select(Event.run_id, Event.occurred_at)
    asked = asked.where(tuple_(Event.run_id, Event.seq).in_(last.items()))
    found = {row.run_id: row.occurred_at for row in session.execute(asked)}
    noted = last.keys() & unit_of(session).events.keys()
    return found | dict.fromkeys(noted, datetime.now(UTC))


def events_of_tenant(
    session: Session,
    tenant_id: UUID,
    *,
    after: Position = BEGINNING,
    limit: int = 100,
) -> list[Event]:
    """The events of all runs of a tenant after a position, in the order of their commits.

    An event is not shown before every transaction that began to write earlier has ended: then
    nothing can come in between any more, and a reader that goes on from a position misses nothing.
    """
    asked = select(Event).where(
        Event.tenant_id == tenant_id,
        tuple_(Event.tx, Event.id) > tuple_(*after),
        Event.tx < text(_HORIZON),
    )
    return list(session.scalars(asked.order_by(Event.tx, Event.id).limit(limit)))


def horizon(session: Session) -> Position:
    """The position after everything that `of_tenant` shows now."""
    return session.scalars(text(f"SELECT {_HORIZON}")).one(), 0


def events_since(
    session: Session, positions: Mapping[UUID, int], limit: int = 500
) -> Sequence[Row[Any]]:
    """The events of several runs, each after a number; at most `limit` of one run."""
    given = {
        "run_ids": list(positions),
        "seqs": list(positions.values()),
        "limit": limit,
    }
    return statements.rows(session, _SINCE, **given)
