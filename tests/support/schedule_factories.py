"""Due schedules, and a scheduler's sweeps over them, in this process."""

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


def hourly(database: Database, missed: int = 1, **fields: Any) -> Schedule:
    """An hourly schedule, last due a second ago, that missed its last instants."""
    start_at = datetime.now(UTC) - 1000 * HOUR - SECOND
    schedule = a_schedule(database, **({"start_at": start_at} | fields))
    miss(database, schedule, missed)
    return schedule


def miss(database: Database, schedule: Schedule, missed: int = 1) -> None:
    """Move the schedule back, as if no scheduler had run for the last instants."""
    with database.transaction() as session:
        current = schedules.get_schedule(session, schedule.tenant_id, schedule.id)
        assert current.next_at is not None
        late = current.next_at - missed * HOUR
        values = {"next_at": late, "fires_at": late}
        session.execute(update(Schedule).where(Schedule.id == schedule.id).values(values))


def sweep(database: Database) -> int:
    """Fire until nothing is due; returns the number of firings."""
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
        statement = select(Run).where(Run.schedule_id == schedule.id).order_by(Run.number)
        return list(session.scalars(statement))


def firings_of(database: Database, schedule: Schedule) -> list[Firing]:
    """Its firings, oldest first."""
    with database.transaction() as session:
        return list(reversed(schedules.firings(session, schedule, limit=5000)))


def outcomes(database: Database, schedule: Schedule) -> list[str]:
    return [each.outcome for each in firings_of(database, schedule)]


def stop(database: Database, run: Run) -> None:
    """Cancel a run."""
    with database.transaction() as session:
        stopped = runs.cancel(session, run.tenant_id, run.id, grace=GRACE)
    assert stopped.state == RunState.CANCELLED
