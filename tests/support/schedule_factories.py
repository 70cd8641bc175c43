"""Schedules that are due, and schedulers that look, without a process of their own."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select, update

from orchestrator import runs, schedules
from orchestrator.db.database import Database
from orchestrator.maintenance import sweeps
from orchestrator.models import Firing, Run, Schedule
from orchestrator.schedules import RunOptions
from orchestrator.states import RunState
from tests.support.factories import GRACE, WINDOW, a_schedule

LIMITS = RunOptions(WINDOW, GRACE)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


def hourly(database: Database, missed: int = 1, **asked: Any) -> Schedule:
    """A schedule that was due every hour, last a second ago, and missed the last instants."""
    start_at = datetime.now(UTC) - 1000 * HOUR - SECOND
    schedule = a_schedule(database, **({"start_at": start_at} | asked))
    miss(database, schedule, missed)
    return schedule


def miss(database: Database, schedule: Schedule, missed: int = 1) -> None:
    """Nobody looked since then."""
    with database.transaction() as session:
        found = schedules.get_schedule(session, schedule.tenant_id, schedule.id)
        assert found.next_at is not None
        late = found.next_at - missed * HOUR
        values = {"next_at": late, "fires_at": late}
        session.execute(update(Schedule).where(Schedule.id == schedule.id).values(values))


def sweep(database: Database) -> int:
    """Let a scheduler look until nothing is due."""
    total = 0
    while moved := sweeps.fire(database, LIMITS) + sweeps.fire_events(database, LIMITS):
        total += moved
    return total


def now(database: Database, schedule: Schedule) -> Schedule:
    """The schedule as it is now."""
    with database.transaction() as session:
        return schedules.get_schedule(session, schedule.tenant_id, schedule.id)


def runs_of(database: Database, schedule: Schedule) -> list[Run]:
    """The runs of a schedule, oldest first."""
    with database.transaction() as session:
        asked = select(Run).where(Run.schedule_id == schedule.id).order_by(Run.number)
        return list(session.scalars(asked))


def firings_of(database: Database, schedule: Schedule) -> list[Firing]:
    """What became of its instants, oldest first."""
    with database.transaction() as session:
        return list(reversed(schedules.firings(session, schedule, limit=5000)))


def outcomes(database: Database, schedule: Schedule) -> list[str]:
    return [each.outcome for each in firings_of(database, schedule)]


def stop(database: Database, run: Run) -> None:
    """End a run."""
    with database.transaction() as session:
        stopped = runs.cancel(session, run.tenant_id, run.id, grace=GRACE)
    assert stopped.state == RunState.CANCELLED
