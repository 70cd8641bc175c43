"""The events of runs: pages by type, run and time, and reading on from a position."""

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, and_, func, select, text, tuple_
from sqlalchemy.orm import Session, aliased

from orchestrator.db import lookups, statements
from orchestrator.db.unit_of_work import unit_of
from orchestrator.models import Event, Run, Step

# The first transaction of a tenant with events since a moment, by binary search: there is no index
# by tenant and time, and transactions are nearly in the order of time.
_FIRST_SINCE = """
    WITH RECURSIVE search AS (
        SELECT min(tx) AS low, max(tx) + 1 AS high FROM events WHERE tenant_id = :tenant_id
        UNION ALL
        SELECT CASE WHEN middle.occurred_at < :moment THEN middle.tx + 1 ELSE low END,
            CASE WHEN middle.occurred_at < :moment THEN high ELSE (low + high) / 2 END
        FROM search, LATERAL (
            SELECT tx, occurred_at FROM events
            WHERE tenant_id = :tenant_id AND tx >= (low + high) / 2 ORDER BY tx, id LIMIT 1
        ) middle
        WHERE low < high
    ) SELECT low AS tx FROM search WHERE low >= high
"""
_SKEW = timedelta(minutes=5)  # how much older an event may be than one of an earlier transaction


@dataclass(frozen=True, kw_only=True)
class EventFilter:
    """Which events of a tenant; `since` and `until` are inclusive."""

    types: Collection[str]
    run_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


def newest_events(
    session: Session,
    tenant_id: UUID,
    which: EventFilter,
    *,
    limit: int,
    offset: int = 0,
    before: Sequence[Any] | None = None,
) -> list[Event]:
    """A tenant's events, newest first; with `before`, a `tx` and an id, the older ones."""
    statement = _newest(session, tenant_id, which)
    if before is not None:
        statement = statement.where(tuple_(Event.tx, Event.id) < tuple_(*before))
    return list(session.scalars(statement.limit(limit).offset(offset)))


def count_events(session: Session, tenant_id: UUID, which: EventFilter, *, most: int) -> int:
    """The number of these events, counted up to `most`: a history has no bound."""
    events = _newest(session, tenant_id, which).with_only_columns(Event.id).limit(most).subquery()
    return session.scalars(select(func.count()).select_from(events)).one()


def newest_events_with_steps(
    session: Session, tenant_id: UUID, which: EventFilter, *, limit: int
) -> list[Row[Any]]:
    """A tenant's events, newest first, with columns of their runs and steps."""
    event = aliased(Event, _newest(session, tenant_id, which).limit(limit).subquery())
    columns = (
        event.id, event.type, event.occurred_at, Run.workflow, Run.submitted_by, Run.run_as,
        Run.number.label("run_number"), Run.error.label("run_error"),
        Step.number.label("step_number"), Step.name.label("step_name"),
        Step.error.label("step_error"),
    )  # fmt: skip
    of_step = and_(Step.run_id == event.run_id, Step.key == event.step)
    joined = select(*columns).join(Run, Run.id == event.run_id).outerjoin(Step, of_step)
    return list(session.execute(joined.order_by(event.tx.desc(), event.id.desc())))


def _newest(session: Session, tenant_id: UUID, which: EventFilter) -> Select[Event]:
    conditions = [Event.tenant_id == tenant_id, Event.type.in_(which.types)]
    if which.run_id is not None:
        conditions.append(Event.run_id == which.run_id)
    if which.since is not None:
        first = _first_since(session, tenant_id, which.since, -_SKEW)
        conditions += [Event.occurred_at >= which.since, Event.tx >= first]
    if which.until is not None:
        first = _first_since(session, tenant_id, which.until, _SKEW)
        conditions += [Event.occurred_at <= which.until, Event.tx <= first]
    return select(Event).where(*conditions).order_by(Event.tx.desc(), Event.id.desc())


def _first_since(session: Session, tenant_id: UUID, moment: datetime, shift: timedelta) -> int:
    """The first transaction with events since a shifted moment; 0 without events."""
    with contextlib.suppress(OverflowError):  # datetime ends at the year 9999
        moment += shift
    row = statements.row(session, _FIRST_SINCE, tenant_id=tenant_id, moment=moment)
    return row.tx if row else 0


_SUBMITTERS = """
    SELECT runs.id, runs.trigger, runs.source_type, runs.source_id, keys."user"
    FROM runs LEFT JOIN keys ON runs.source_type = 'key' AND keys.tenant_id = runs.tenant_id
      AND CAST(keys.id AS text) = runs.source_id
    WHERE runs.tenant_id = :tenant_id AND runs.id = ANY(CAST(:ids AS uuid[]))
"""


def submitters(
    session: Session, tenant_id: UUID, run_ids: Collection[UUID]
) -> Mapping[UUID, Row[Any]]:
    """What submitted each run: `trigger`, `source_type`, `source_id`, and the `user` of a key."""
    params = {"tenant_id": tenant_id, "ids": list(run_ids)}
    return {row.id: row for row in statements.rows(session, _SUBMITTERS, **params)}


# One index range per run.
_SINCE = """
    SELECT event.* FROM unnest(CAST(:run_ids AS uuid[]), CAST(:seqs AS int[])) AS last(run_id, seq),
    LATERAL (SELECT * FROM events WHERE events.run_id = last.run_id AND events.seq > last.seq
             ORDER BY events.seq LIMIT :limit) event
"""

# The oldest transaction that may still write something.
_HORIZON = "CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
Position = tuple[int, int]  # transaction and id of the event that was read last
BEGINNING: Position = (0, 0)


def events_of_run(
    session: Session, run_id: UUID, *, after: int = 0, limit: int = 100
) -> list[Event]:
    """The events of a run after a number, oldest first."""
    statement = select(Event).where(Event.run_id == run_id)
    return lookups.page_after(session, statement, Event.seq, after, limit)


def changed_at(session: Session, runs: Iterable[Run]) -> Mapping[UUID, datetime]:
    """The time of the last event of each run, by id; now, if it is of this transaction."""
    last = {run.id: run.event_seq for run in runs}
    statement = select(Event.run_id, Event.occurred_at)
    statement = statement.where(tuple_(Event.run_id, Event.seq).in_(last.items()))
    times = {row.run_id: row.occurred_at for row in session.execute(statement)}
    unwritten = last.keys() & unit_of(session).events.keys()
    return times | dict.fromkeys(unwritten, datetime.now(UTC))


def events_of_tenant(
    session: Session, tenant_id: UUID, *, after: Position = BEGINNING, limit: int = 100
) -> list[Event]:
    """The events of a tenant after a position, in the order of their transactions.

    Events are left out until all transactions that began to write earlier have ended, so that a
    reader who continues from a position misses none.
    """
    statement = select(Event).where(
        Event.tenant_id == tenant_id,
        tuple_(Event.tx, Event.id) > tuple_(*after),
        Event.tx < text(_HORIZON),
    )
    return list(session.scalars(statement.order_by(Event.tx, Event.id).limit(limit)))


def horizon(session: Session) -> Position:
    """The position after all events that `events_of_tenant` gives now."""
    return session.scalars(text(f"SELECT {_HORIZON}")).one(), 0


def events_since(session: Session, positions: Mapping[UUID, int]) -> Sequence[Row[Any]]:
    """The events of runs, each after a number; at most 500 of one run."""
    run_ids, seqs = list(positions), list(positions.values())
    return statements.rows(session, _SINCE, run_ids=run_ids, seqs=seqs, limit=500)
