"""Firing of schedules: each instant once, by the policies for overlap and catch-up."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from orchestrator import schedules, workflows
from orchestrator.db.database import Database
from orchestrator.models import FiringOutcome, Overlap, Schedule, ScheduleType, Trigger
from orchestrator.schedules import TriggerRequest
from orchestrator.spec import cron
from orchestrator.spec.cron import CatchUp
from tests.support.factories import a_schedule, a_spec, a_tenant
from tests.support.schedule_factories import (
    HOUR,
    LIMITS,
    SECOND,
    firings_of,
    hourly,
    miss,
    now,
    outcomes,
    runs_of,
    stop,
    sweep,
)


def test_a_schedule_that_is_due_submits_a_run_that_says_where_it_comes_from(
    database: Database,
) -> None:
    schedule = hourly(
        database, params={"a": 1}, priority=7, sla=HOUR, run_as="anna", tags=["nightly"]
    )
    due_at = now(database, schedule).next_at

    assert sweep(database) == 1

    (run,) = runs_of(database, schedule)
    (fired,) = firings_of(database, schedule)
    assert (run.trigger, run.source_type) == (Trigger.SCHEDULE, "schedule")
    assert (run.source_id, run.reason) == (str(schedule.id), "every(1h)")
    assert (run.submitted_by, run.run_as, run.priority) == ("schedule", "anna", 7)
    assert (run.logical_date, run.params, run.tags) == (due_at, {"a": 1}, ["nightly"])
    assert run.late_at == run.created_at + HOUR
    assert (fired.due_at, fired.run_id, fired.outcome) == (due_at, run.id, "submitted")
    after = now(database, schedule)
    assert (after.last_at, after.next_at) == (due_at, due_at + HOUR if due_at else None)


def test_many_schedulers_fire_each_instant_once(database: Database) -> None:
    made = [hourly(database, missed=6, catch_up=CatchUp.ALL) for _ in range(8)]

    with ThreadPoolExecutor(6) as schedulers:
        list(schedulers.map(lambda _: sweep(database), range(6)))
    sweep(database)

    for schedule in made:
        instants = [run.logical_date for run in runs_of(database, schedule)]
        assert len(instants) == len(set(instants)) == 6
        assert [each.due_at for each in firings_of(database, schedule)] == instants


def test_a_scheduler_that_dies_before_its_commit_leaves_nothing(database: Database) -> None:
    schedule = hourly(database)

    def fire_and_die() -> None:
        with database.transaction() as session:
            assert schedules.fire(session, [schedule.id], LIMITS) == 1
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fire_and_die()
    assert (runs_of(database, schedule), outcomes(database, schedule)) == ([], [])
    assert sweep(database) == 1
    assert outcomes(database, schedule) == ["submitted"]


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        (CatchUp.ALL, ["submitted"] * 13),
        (CatchUp.LATEST, ["skipped"] * 12 + ["submitted"]),
        (CatchUp.NONE, ["skipped"] * 12 + ["submitted"]),
    ],
)
def test_what_was_missed_is_caught_up_as_the_policy_says(
    database: Database, catch_up: CatchUp, expected: list[str]
) -> None:
    schedule = hourly(database, missed=13, catch_up=catch_up)

    sweep(database)

    assert outcomes(database, schedule) == expected


def test_without_catch_up_an_instant_that_is_a_minute_late_is_skipped(database: Database) -> None:
    start_at = datetime.now(UTC) - 10 * HOUR - cron.LATE_AFTER - SECOND
    schedule = hourly(database, catch_up=CatchUp.NONE, start_at=start_at)

    sweep(database)

    (fired,) = firings_of(database, schedule)
    assert fired.outcome == FiringOutcome.SKIPPED
    assert fired.detail is not None
    assert fired.detail.startswith("missed")
    assert runs_of(database, schedule) == []


def test_overlap_allow_lets_runs_run_side_by_side(database: Database) -> None:
    schedule = hourly(database, missed=3, catch_up=CatchUp.ALL)

    sweep(database)

    assert [run.state for run in runs_of(database, schedule)] == ["queued"] * 3


def test_overlap_skip_makes_no_run_while_one_is_open(database: Database) -> None:
    schedule = hourly(database, missed=2, catch_up=CatchUp.ALL, overlap=Overlap.SKIP)

    sweep(database)
    (run,) = runs_of(database, schedule)

    assert outcomes(database, schedule) == ["submitted", "skipped"]
    assert str(run.id) in str(firings_of(database, schedule)[1].detail)
    stop(database, run)
    with database.transaction() as session:
        assert schedules.trigger_now(session, run.tenant_id, schedule.id, TriggerRequest(), LIMITS)


def test_an_instant_that_has_fired_never_fires_again(database: Database) -> None:
    schedule = hourly(database)
    sweep(database)

    miss(database, schedule)
    sweep(database)

    assert len(runs_of(database, schedule)) == len(firings_of(database, schedule)) == 1


def test_overlap_buffer_one_lets_one_wait_for_the_end_of_the_other(database: Database) -> None:
    schedule = hourly(database, missed=3, catch_up=CatchUp.ALL, overlap=Overlap.BUFFER_ONE)

    sweep(database)
    first, second = runs_of(database, schedule)

    assert outcomes(database, schedule) == ["submitted", "submitted", "skipped"]
    assert (first.state, second.state) == ("queued", "pending")
    stop(database, first)
    assert [run.due for run in runs_of(database, schedule)] == [True, True]


def test_overlap_cancel_running_cancels_the_earlier_run(database: Database) -> None:
    schedule = hourly(database, missed=3, catch_up=CatchUp.ALL, overlap=Overlap.CANCEL_RUNNING)

    sweep(database)

    first, second, third = runs_of(database, schedule)
    assert [run.state for run in (first, second)] == ["cancelled"] * 2
    assert third.due
    assert first.cancel_reason == f"a later run of schedule {schedule.number} takes its place"


def test_a_run_that_cannot_be_submitted_is_refused_and_the_schedule_goes_on(
    database: Database,
) -> None:
    broken, sound = hourly(database), hourly(database)
    needy = a_spec(params={"type": "object", "required": ["day"]})
    with database.transaction() as session:
        workflows.register(session, a_tenant(session), needy)
        session.execute(update(Schedule).where(Schedule.id == sound.id).values(version=1))

    sweep(database)

    assert outcomes(database, sound) == ["submitted"]
    (fired,) = firings_of(database, broken)
    assert fired.outcome == FiringOutcome.REFUSED
    assert "'day' is a required property" in str(fired.detail)
    assert now(database, broken).next_at is not None


def test_a_rule_that_cannot_be_computed_stops_no_other_schedule(
    database: Database,
) -> None:
    gone = a_schedule(database, type=ScheduleType.CRON, cron="0 * * * *", timezone="Asia/Tokyo")
    sound = hourly(database)
    miss(database, gone)
    with database.transaction() as session:
        values = {"timezone": "Atlantis/Center"}
        session.execute(update(Schedule).where(Schedule.id == gone.id).values(values))

    sweep(database)

    (fired,) = firings_of(database, gone)
    assert fired.outcome == FiringOutcome.REFUSED
    assert "there is no such time zone" in str(fired.detail)
    assert (now(database, gone).next_at, outcomes(database, sound)) == (None, ["submitted"])


def test_an_inactive_schedule_fires_nothing_and_forgets_what_it_missed(database: Database) -> None:
    schedule = hourly(database, missed=5, catch_up=CatchUp.ALL)
    with database.transaction() as session:
        schedules.change_schedule(session, schedule.tenant_id, schedule.id, active=False)
    assert sweep(database) == 0

    with database.transaction() as session:
        changed = schedules.change_schedule(session, schedule.tenant_id, schedule.id, active=True)

    assert sweep(database) == 0
    assert changed.next_at is not None
    assert changed.next_at > changed.updated_at


def test_once_fires_once(database: Database) -> None:
    at = datetime.now(UTC) + HOUR
    schedule = a_schedule(database, type=ScheduleType.ONCE, at=at)
    miss(database, schedule)
    with database.transaction() as session:
        session.execute(update(Schedule).where(Schedule.id == schedule.id).values(at=at - HOUR))

    sweep(database)

    assert outcomes(database, schedule) == ["submitted"]
    assert now(database, schedule).next_at is None


def test_jitter_delays_the_run_but_not_its_instant(database: Database) -> None:
    schedule = a_schedule(database, jitter=10 * 60 * SECOND)

    assert schedule.next_at is not None
    assert schedule.fires_at is not None
    assert timedelta(0) < schedule.fires_at - schedule.next_at < 10 * 60 * SECOND
