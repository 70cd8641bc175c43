"""Runs of a schedule by an event or by a trigger."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from orchestrator import schedules, workflows
from orchestrator.db.database import Database
from orchestrator.errors import Conflict, Invalid
from orchestrator.models import FiringOutcome, Overlap, Run, Schedule, ScheduleType, Trigger
from orchestrator.schedules import TriggerPayload, TriggerRequest
from tests.support.factories import a_run, a_schedule, a_spec, a_tenant, eventually
from tests.support.schedule_factories import LIMITS, firings_of, now, runs_of, stop, sweep


def after(database: Database, **fields: Any) -> Schedule:
    """A schedule of `second` that waits for the end of runs of `first`."""
    with database.transaction() as session:
        workflows.register(session, a_tenant(session), a_spec("first"))
    fields = {"after_workflow": "first", "after_states": ["cancelled"]} | fields
    return a_schedule(database, a_spec("second"), type=ScheduleType.EVENT, **fields)


def test_the_end_of_a_run_starts_another_one(database: Database) -> None:
    schedule = after(database)
    first = a_run(database, a_spec("first"))
    stop(database, first)

    assert sweep(database) == 1

    (run,) = runs_of(database, schedule)
    assert (run.workflow, run.trigger, run.depth) == ("second", Trigger.EVENT, 1)
    assert (run.source_type, run.source_id) == ("run", str(first.id))
    assert run.reason == "after(first, cancelled)"
    assert run.event_variables == {
        "run_id": str(first.id),
        "workflow": "first",
        "state": "cancelled",
        "number": first.number,
    }
    assert run.logical_date == firings_of(database, schedule)[0].due_at


def test_other_ends_start_nothing(database: Database) -> None:
    schedule = after(database, after_states=None)
    stop(database, a_run(database, a_spec("first")))

    assert sweep(database) == 0
    assert schedule.after_states == ["succeeded"]


def test_a_loop_ends(database: Database) -> None:
    schedule = after(database)
    stop(database, a_run(database, a_spec("first"), depth=schedules.firing.MAX_DEPTH))

    sweep(database)

    (fired,) = firings_of(database, schedule)
    assert fired.outcome == FiringOutcome.REFUSED
    assert "this is a loop" in str(fired.detail)


def test_runs_that_would_lead_to_themselves_are_refused_before_there_are_any(
    database: Database,
) -> None:
    after(database)
    with pytest.raises(Invalid) as refused:
        a_schedule(database, a_spec("first"), type=ScheduleType.EVENT, after_workflow="second")
    assert [each.pointer for each in refused.value.mistakes] == ["/after_workflow"]

    with pytest.raises(Invalid):
        a_schedule(database, a_spec("first"), type=ScheduleType.EVENT, after_workflow="first")


def test_an_event_and_the_deletion_of_its_schedule_do_not_block_each_other(
    database: Database,
) -> None:
    schedule = after(database)
    stop(database, a_run(database, a_spec("first")))
    with ThreadPoolExecutor(1) as scheduler:
        with database.transaction() as session:
            schedules.get_schedule(session, schedule.tenant_id, schedule.id, lock=True)
            swept = scheduler.submit(sweep, database)
            _until_blocked(session)
            schedules.delete_schedule(session, schedule.tenant_id, schedule.id)
        swept.result(10)

    assert firings_of(database, schedule) == []


def _until_blocked(session: Session) -> None:
    """Wait until another transaction waits for a lock of this one."""
    # Not by pg_stat_activity, which stays the same during a transaction.
    blocked = text(
        "SELECT count(*) FROM pg_locks"
        " WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    )
    eventually(lambda: session.scalar(blocked))


def test_many_schedulers_answer_an_event_once(database: Database) -> None:
    schedule = after(database)
    for _ in range(10):
        stop(database, a_run(database, a_spec("first")))

    with ThreadPoolExecutor(6) as schedulers:
        list(schedulers.map(lambda _: sweep(database), range(6)))
    sweep(database)

    sources = [run.source_id for run in runs_of(database, schedule)]
    assert len(sources) == len(set(sources)) == 10


def trigger(database: Database, schedule: Schedule, **fields: Any) -> Run:
    """The run that a trigger makes."""
    with database.transaction() as session:
        which = schedule.tenant_id, schedule.id
        return schedules.trigger_now(session, *which, TriggerRequest(**fields), LIMITS)[0]


def test_variables_go_over_the_parameters_and_the_rest_is_kept_apart(database: Database) -> None:
    schedule = a_schedule(database, params={"a": 1, "b": 1})

    run = trigger(
        database,
        schedule,
        payload=TriggerPayload(variables={"b": 2}, event_variables={"source": "billing"}),
    )

    assert run.params == {"a": 1, "b": 2}
    assert (run.variables, run.event_variables) == ({"b": 2}, {"source": "billing"})
    assert (run.trigger, run.logical_date) == (Trigger.MANUAL, run.created_at)


def test_the_same_key_gives_the_same_run(database: Database) -> None:
    schedule = a_schedule(database, overlap=Overlap.SKIP)

    first = trigger(database, schedule, idempotency_key="k")
    again = trigger(database, schedule, idempotency_key="k")

    assert first.id == again.id


def test_what_overlap_would_skip_is_a_conflict(database: Database) -> None:
    schedule = a_schedule(database, overlap=Overlap.SKIP)
    trigger(database, schedule)

    with pytest.raises(Conflict, match="has not ended"):
        trigger(database, schedule)
    assert len(runs_of(database, schedule)) == 1


def test_an_inactive_schedule_can_be_run_by_hand_but_not_by_its_token(database: Database) -> None:
    schedule = a_schedule(database, type=ScheduleType.API, active=False)

    trigger(database, schedule)

    with pytest.raises(Conflict, match="not active"):
        trigger(database, schedule, trigger=Trigger.API)
    trigger(database, schedule, trigger=Trigger.API, activate=True)
    assert now(database, schedule).active


def test_parameters_that_do_not_fit_are_refused(database: Database) -> None:
    spec = a_spec(params={"type": "object", "properties": {"n": {"type": "integer"}}})
    schedule = a_schedule(database, spec, type=ScheduleType.API)

    with pytest.raises(Invalid):
        trigger(database, schedule, payload=TriggerPayload(variables={"n": "x"}))
