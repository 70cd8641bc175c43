"""Three schedulers as real processes, killed at random: every instant fires exactly once.

`CHAOS_SECONDS` sets the duration; 10 by default.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, text, update

from config.settings import Settings, environ_of
from orchestrator.db.database import Database
from orchestrator.local.processes import stop_process
from orchestrator.models import Firing, FiringOutcome, Run, Schedule
from orchestrator.spec.cron import CatchUp
from tests.chaos.invariants import broken
from tests.support.factories import PROMPT, a_schedule, a_spec, eventually

SECONDS = int(os.environ.get("CHAOS_SECONDS", "10"))
SCHEDULES, SCHEDULERS = 20, 3
EVERY = timedelta(seconds=1)


@dataclass
class Schedulers:
    """Scheduler processes; a killed one is replaced."""

    settings: Settings
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    killed: int = 0

    def start(self) -> None:
        """Start one more."""
        environ = os.environ | environ_of(self.settings)
        command = [sys.executable, "-m", "workers.scheduler.main"]
        self.processes.append(subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL))

    def kill_one(self) -> None:
        """Kill one at a random moment, and start another."""
        victim = self.processes.pop(random.randrange(len(self.processes)))
        victim.kill()
        victim.wait()
        self.killed += 1
        self.start()

    def end(self) -> None:
        """Stop them all."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            stop_process(process)


@contextmanager
def _schedulers(settings: Settings) -> Iterator[Schedulers]:
    schedulers = Schedulers(settings)
    try:
        for _ in range(SCHEDULERS):
            schedulers.start()
        yield schedulers
    finally:
        schedulers.end()


@pytest.mark.timeout(SECONDS * 3 + 120)
def test_every_instant_fires_once_although_schedulers_are_killed(
    database: Database, settings: Settings
) -> None:
    spec = a_spec("every-second", queue="nobody-listens")
    with _schedulers(settings) as schedulers:
        _await_start(database)
        start_at = datetime.now(UTC) + 4 * EVERY
        fields = {"start_at": start_at, "end_at": start_at + SECONDS * EVERY, "every": EVERY}
        fields["catch_up"] = CatchUp.ALL
        schedules = [a_schedule(database, spec, **fields) for _ in range(SCHEDULES)]
        expected = {start_at + number * EVERY for number in range(SECONDS)}
        while datetime.now(UTC) < start_at + SECONDS * EVERY:
            time.sleep(random.uniform(0.5, 5))  # between two kills; a start takes seconds
            schedulers.kill_one()
        fired_meanwhile = _fired(database)
        timeout = SECONDS + 60
        eventually(lambda: _waiting(database), within=timeout, until=lambda waiting: waiting == 0)

    for schedule in schedules:
        fired = _firings(database, schedule)
        due = {at for at in expected if at > schedule.created_at}  # not before its creation
        assert {each.due_at for each in fired} == due
        assert [each.outcome for each in fired] == [FiringOutcome.SUBMITTED] * len(due)
        assert _instants(database, schedule) == sorted(due)
    assert schedulers.killed >= SECONDS / 6
    assert fired_meanwhile > SCHEDULES  # not only caught up afterwards
    assert broken(database.engine) == {}


def test_a_thousand_schedules_of_one_second_fire_within_seconds(
    database: Database, settings: Settings
) -> None:
    spec = a_spec("all-at-once", queue="nobody-listens")
    first = a_schedule(database, spec)
    with database.transaction() as session:
        columns = [each.name for each in Schedule.__table__.columns if each.name != "number"]
        names = ", ".join(columns)
        values = ", ".join("gen_random_uuid()" if name == "id" else name for name in columns)
        session.execute(
            text(
                f"INSERT INTO schedules ({names}) SELECT {values} FROM schedules,"
                " generate_series(1, 999) WHERE id = :id"
            ),
            {"id": first.id},
        )

    with _schedulers(settings):
        _await_start(database)
        due_at = datetime.now(UTC)
        with database.transaction() as session:
            statement = update(Schedule).where(Schedule.active)
            session.execute(statement.values(next_at=due_at, fires_at=due_at))
        eventually(lambda: _fired(database), within=40, until=lambda fired: fired == 1001)

    with database.transaction() as session:
        delay = Firing.created_at - Firing.due_at
        delays = sorted(session.scalars(select(delay).where(Firing.due_at == due_at)))
    assert delays[0] < timedelta(seconds=PROMPT)
    assert delays[-1] < timedelta(seconds=4 * PROMPT)


def _await_start(database: Database) -> None:
    """Wait until a scheduler has fired a first schedule, and deactivate that."""
    first = a_schedule(database, a_spec("first", queue="nobody-listens"))
    now = datetime.now(UTC)
    statement = update(Schedule).where(Schedule.id == first.id)
    with database.transaction() as session:
        session.execute(statement.values(next_at=now, fires_at=now))
    eventually(lambda: _fired(database), within=60)
    with database.transaction() as session:
        session.execute(statement.values(next_at=None, fires_at=None, active=False))


def _waiting(database: Database) -> int:
    """The number of schedules with an instant to come."""
    with database.transaction() as session:
        statement = select(func.count()).where(Schedule.next_at.is_not(None))
        return session.scalars(statement).one()


def _fired(database: Database) -> int:
    with database.transaction() as session:
        return session.scalars(select(func.count()).select_from(Firing)).one()


def _firings(database: Database, schedule: Schedule) -> list[Firing]:
    with database.transaction() as session:
        return list(session.scalars(select(Firing).where(Firing.schedule_id == schedule.id)))


def _instants(database: Database, schedule: Schedule) -> list[datetime | None]:
    """The logical dates of its runs, in order, with duplicates."""
    with database.transaction() as session:
        statement = select(Run.logical_date).where(Run.schedule_id == schedule.id)
        return list(session.scalars(statement.order_by(Run.logical_date)))
