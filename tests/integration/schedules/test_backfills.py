"""Backfills: every instant of a range once, a limited number at a time."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from orchestrator import runs, schedules, workflows
from orchestrator.db.database import Database
from orchestrator.errors import Conflict, Invalid, InvalidTransition
from orchestrator.maintenance import sweeps
from orchestrator.models import Backfill, Run, Schedule, ScheduleType, Trigger
from orchestrator.runs import RetryMode, RetryRequest, RetryTarget
from orchestrator.schedules import NewBackfill, RunOptions
from tests.support.factories import GRACE, WINDOW, a_schedule, a_spec, a_tenant

LIMITS = RunOptions(WINDOW, GRACE)
START = datetime(2025, 3, 28, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def daily(database: Database, **fields: Any) -> Schedule:
    """A schedule for every day at noon in Berlin."""
    cron = {"type": ScheduleType.CRON, "cron": "0 12 * * *", "timezone": "Europe/Berlin"}
    return a_schedule(database, **(cron | fields))


def begin(database: Database, schedule: Schedule, days: int = 5, **fields: Any) -> Backfill:
    """A backfill of so many days."""
    new = NewBackfill(**({"start_at": START, "end_at": START + days * DAY} | fields))
    with database.transaction() as session:
        return schedules.create_backfill(session, schedule.tenant_id, schedule.id, new)


def sweep(database: Database) -> int:
    """Sweep until there is nothing to do."""
    total = 0
    while moved := sweeps.advance_backfills(database, LIMITS):
        total += moved
    return total


def runs_of(database: Database, backfill: Backfill) -> list[Run]:
    """Its runs, oldest first."""
    with database.transaction() as session:
        statement = select(Run).where(Run.backfill_id == backfill.id).order_by(Run.number)
        return list(session.scalars(statement))


def end(database: Database, *ended: Run) -> None:
    """End runs, which are not executed here, by a cancel."""
    with database.transaction() as session:
        for run in ended:
            runs.cancel(session, run.tenant_id, run.id, grace=GRACE)


def progress(database: Database, backfill: Backfill) -> dict[str, Any]:
    """Its state and the counts that are not 0."""
    with database.transaction() as session:
        current = schedules.get_backfill(session, backfill.tenant_id, backfill.id)
        counts = schedules.backfill_progress(session, [current])[current.id]
    return {"state": current.state, **{name: count for name, count in counts.items() if count}}


def test_a_backfill_runs_every_instant_of_its_range_so_many_at_a_time(database: Database) -> None:
    schedule = daily(database, params={"a": 1, "b": 1}, tags=["nightly"])
    backfill = begin(database, schedule, parallel=2, params={"b": 2}, submitted_by="anna")

    sweep(database)
    first = runs_of(database, backfill)
    sweep(database)

    assert progress(database, backfill) == {
        "state": "running",
        "total": 5,
        "submitted": 2,
        "waiting": 2,
    }
    assert [run.logical_date for run in first] == [
        START + 11 * HOUR,
        START + DAY + 11 * HOUR,
    ]
    assert (first[0].params, first[0].tags) == ({"a": 1, "b": 2}, ["nightly"])
    assert (first[0].trigger, first[0].source_id) == (Trigger.BACKFILL, str(backfill.id))
    assert first[0].submitted_by == "anna"
    assert first[0].reason == f"backfill {backfill.number} of cron(0 12 * * *, Europe/Berlin)"
    end(database, first[0])
    sweep(database)
    assert len(runs_of(database, backfill)) == 3


def test_a_backfill_is_finished_when_all_its_runs_have_ended(database: Database) -> None:
    backfill = begin(database, daily(database), parallel=10)

    sweep(database)
    assert progress(database, backfill)["state"] == "running"
    end(database, *runs_of(database, backfill))
    sweep(database)

    assert progress(database, backfill) == {
        "state": "finished", "total": 5, "submitted": 5, "cancelled": 5
    }  # fmt: skip
    dates = [run.logical_date for run in runs_of(database, backfill)]
    assert dates[2:4] == [START + 2 * DAY + 10 * HOUR, START + 3 * DAY + 10 * HOUR]  # summer time


def test_an_instant_that_is_run_again_counts_once(database: Database) -> None:
    backfill = begin(database, daily(database), parallel=10)
    sweep(database)
    first, *_ = runs_of(database, backfill)
    end(database, first)

    with database.transaction() as session:
        again = RetryRequest(mode=RetryMode.FULL, where=RetryTarget.NEW)
        runs.retry(session, first.tenant_id, first.id, again, window=WINDOW)

    assert progress(database, backfill) == {
        "state": "running", "total": 5, "submitted": 5, "waiting": 5
    }  # fmt: skip


def test_many_schedulers_run_each_instant_once_and_keep_the_limit(database: Database) -> None:
    backfill = begin(database, daily(database), days=40, parallel=7)

    while progress(database, backfill)["state"] == "running":
        with ThreadPoolExecutor(5) as schedulers:
            list(schedulers.map(lambda _: sweep(database), range(5)))
        waiting = [run for run in runs_of(database, backfill) if run.finished_at is None]
        assert len(waiting) <= 7
        end(database, *waiting)

    dates = [run.logical_date for run in runs_of(database, backfill)]
    assert len(dates) == len(set(dates)) == 40


def test_a_scheduler_that_dies_before_its_commit_leaves_nothing(database: Database) -> None:
    backfill = begin(database, daily(database), parallel=5)

    def go_on_and_die() -> None:
        with database.transaction() as session:
            assert schedules.advance(session, backfill.id, LIMITS) == 5
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        go_on_and_die()
    assert runs_of(database, backfill) == []
    sweep(database)
    assert len(runs_of(database, backfill)) == 5


def test_a_cancelled_backfill_submits_no_more_and_cancels_what_is_open(database: Database) -> None:
    backfill = begin(database, daily(database), parallel=2)
    sweep(database)

    with database.transaction() as session:
        schedules.cancel_backfill(session, backfill.tenant_id, backfill.id, grace=GRACE)
    sweep(database)

    assert progress(database, backfill) == {
        "state": "cancelled", "total": 5, "submitted": 2, "cancelled": 2
    }  # fmt: skip
    with pytest.raises(InvalidTransition), database.transaction() as session:
        schedules.cancel_backfill(session, backfill.tenant_id, backfill.id, grace=GRACE)


def test_another_rule_does_not_change_a_backfill_that_runs(database: Database) -> None:
    schedule = daily(database)
    backfill = begin(database, schedule, parallel=10)

    with database.transaction() as session:
        schedules.change_schedule(session, schedule.tenant_id, schedule.id, cron="0 * * * *")
    sweep(database)

    assert len(runs_of(database, backfill)) == 5


def test_instants_that_cannot_be_run_are_counted_as_refused(database: Database) -> None:
    backfill = begin(database, daily(database), parallel=2)
    with database.transaction() as session:
        needy = a_spec(params={"type": "object", "required": ["day"]})
        workflows.register(session, a_tenant(session), needy)

    sweep(database)

    assert progress(database, backfill) == {"state": "finished", "total": 5, "refused": 5}
    with database.transaction() as session:
        detail = schedules.get_backfill(session, backfill.tenant_id, backfill.id).detail
    assert "'day' is a required property" in str(detail)


def test_an_interval_can_be_filled_before_it_began(database: Database) -> None:
    schedule = a_schedule(database, every=HOUR, start_at=datetime.now(UTC) + DAY)
    backfill = begin(database, schedule, days=1, parallel=50)

    sweep(database)

    assert len(runs_of(database, backfill)) == 24


def test_a_schedule_cannot_go_while_a_backfill_of_it_runs(database: Database) -> None:
    schedule = daily(database)
    backfill = begin(database, schedule)

    with pytest.raises(Conflict, match="cancel it first"), database.transaction() as session:
        schedules.delete_schedule(session, schedule.tenant_id, schedule.id)
    with database.transaction() as session:
        schedules.cancel_backfill(session, backfill.tenant_id, backfill.id, grace=GRACE)
        schedules.delete_schedule(session, schedule.tenant_id, schedule.id)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"end_at": START}, "must be later than start_at"),
        ({"end_at": START + HOUR}, "none of the schedule's instants"),
        ({"end_at": START + 20_000 * DAY}, "more than 10,000 of the schedule's instants"),
    ],
)
def test_a_range_that_is_empty_or_too_long_is_refused(
    database: Database, fields: dict[str, Any], message: str
) -> None:
    schedule = daily(database)

    with pytest.raises(Invalid) as raised:
        begin(database, schedule, **fields)

    assert raised.value.mistakes[0].pointer == "/end_at"
    assert raised.value.mistakes[0].detail.startswith(message)
