"""Sweeps take turns: between tenants within a pass, and with each other by their time."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from config.settings import Settings
from orchestrator import runs, schedules, workflows
from orchestrator.broker.client import Broker, make_app
from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.maintenance import checks, sweeps
from orchestrator.maintenance.sweeps import SWEEPS, SweepContext
from orchestrator.models import ScheduleType
from orchestrator.schedules import NewBackfill, NewSchedule, firing
from orchestrator.spec.cron import CatchUp
from orchestrator.spec.durations import parse_duration
from tests.conftest import Services
from tests.support.factories import WINDOW, a_run, a_spec, messages_in
from tests.support.schedule_factories import HOUR, LIMITS, firings_of, hourly, runs_of
from workers.scheduler.main import Scheduler

MANY = 12
BY_NAME = {sweep.name: sweep for sweep in SWEEPS}


@pytest.fixture
def context(database: Database, services: Services) -> SweepContext:
    """What a scheduler gives to its sweeps, but for the limit of time."""
    return SweepContext(
        database=database,
        broker=Broker(make_app(services.redis_url, publisher=True)),
        options=LIMITS,
        check=checks.LiveCheck(),
        deliver=lambda: 0,
        leases_count=lambda: True,
    )


def _submit(session: Session, tenant_id: UUID, window: int = WINDOW) -> None:
    """A run in a queue of its own."""
    workflow = f"work-{uuid4()}"
    workflows.register(session, tenant_id, a_spec(workflow, queue=str(uuid4())[:32]))
    runs.submit(session, tenant_id, runs.NewRun(workflow=workflow), window=window)


def _wait(session: Session, tenant_id: UUID) -> None:
    _submit(session, tenant_id, window=0)


def _schedule(session: Session, tenant_id: UUID, **fields: Any) -> UUID:
    workflows.register(session, tenant_id, a_spec())
    fields = {"type": ScheduleType.INTERVAL, "every": HOUR} | fields
    new = NewSchedule(workflow="work", **fields)
    return schedules.create_schedule(session, tenant_id, new).id


def _event(session: Session, tenant_id: UUID) -> None:
    workflows.register(session, tenant_id, a_spec("first"))
    _schedule(session, tenant_id, type=ScheduleType.EVENT, every=None, after_workflow="first")


def _backfill(session: Session, tenant_id: UUID) -> None:
    end_at = datetime.now(UTC)
    new = NewBackfill(start_at=end_at - 3 * HOUR, end_at=end_at)
    schedules.create_backfill(session, tenant_id, _schedule(session, tenant_id), new)


class Case(NamedTuple):
    """How to make one row, to make all of them due, and which are left."""

    make: Callable[[Session, UUID], object]
    make_due: str
    left: str


CASES = {
    "release_due_runs": Case(
        _wait, "UPDATE runs SET due = false, run_at = now() - interval '1 s'", "runs WHERE NOT due"
    ),
    "grant_free_keys": Case(
        _wait, "UPDATE runs SET due = false, concurrency_key = id", "runs WHERE NOT due"
    ),
    "mark_late": Case(
        _wait, "UPDATE runs SET late_at = now() - interval '1 s'", "runs WHERE NOT passed_sla"
    ),
    "rescue_expired": Case(
        _submit,
        """
        UPDATE runs SET state = 'running'; UPDATE steps SET state = 'running', attempt = 1;
        INSERT INTO attempts (step_id, number, run_id, task_id, worker, lease_until)
        SELECT id, 1, run_id, task_id, 'gone', now() - interval '1 min' FROM steps
        """,
        "steps WHERE state = 'running'",
    ),
    "fire": Case(
        _schedule,
        "UPDATE schedules SET next_at = next_at - every, fires_at = next_at - every",
        "schedules WHERE fires_at <= now()",
    ),
    "fire_events": Case(
        _event,
        """
        INSERT INTO firings (tenant_id, schedule_id, due_at, source_run_id, source_seq)
        SELECT tenant_id, id, now(), gen_random_uuid(), 1 FROM schedules
        """,
        "firings WHERE outcome = 'waiting'",
    ),
    "advance_backfills": Case(_backfill, "", "backfills WHERE submitted = 0"),
    "expire_timed_out": Case(
        _submit,
        "UPDATE runs SET state = 'running', deadline_at = now() - interval '1 s'",
        "runs WHERE state = 'running'",
    ),
    "wake_waiting_steps": Case(
        _submit,
        """
        UPDATE runs SET state = 'running';
        UPDATE steps SET state = 'waiting', wake_at = now() - interval '1 s', published_at = NULL
        """,
        "steps WHERE state = 'waiting'",
    ),
    "republish_lost": Case(
        _submit,
        "UPDATE steps SET published_at = now() - interval '1 min'",
        "steps WHERE generation = 1",
    ),
    "admit_waiting": Case(_wait, "", "runs WHERE state = 'pending'"),
}
IN_ONE_STATEMENT = {"release_due_runs", "mark_late", "wake_waiting_steps"}
STAYS_DUE = {"advance_backfills"}  # as long as it runs, also without room


def _make(database: Database, name: str, counts: dict[UUID, int]) -> None:
    case = CASES[name]
    with database.transaction() as session:
        for tenant_id, count in counts.items():
            for _ in range(count):
                case.make(session, tenant_id)
        session.flush()
        session.execute(text(case.make_due or "SELECT"))


def _left(engine: Engine, name: str, tenant_id: UUID) -> int:
    statement = f"SELECT count(*) FROM {CASES[name].left} AND tenant_id = :tenant_id"
    with engine.connect() as connection:
        return int(connection.scalar(text(statement), {"tenant_id": tenant_id}) or 0)


def test_every_sweep_that_takes_rows_is_tried() -> None:
    others = {"deliver", "fold_counters", "analyze", "roll_up", "forget_old_rows", "link_audit"}

    assert CASES.keys() == BY_NAME.keys() - others - {"check_live_runs"}


@pytest.mark.parametrize("name", CASES)
def test_a_tenant_with_very_many_rows_does_not_keep_those_of_another_from_a_pass(
    name: str,
    other_tenant: UUID,
    tenant_id: UUID,
    database: Database,
    engine: Engine,
    context: SweepContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _make(database, name, {tenant_id: MANY, other_tenant: 1})
    monkeypatch.setattr(sweeps, "BATCH", 2)
    monkeypatch.setattr(sweeps, "MAX_QUEUES", 2)

    assert BY_NAME[name].run(context) == 2

    assert (_left(engine, name, other_tenant), _left(engine, name, tenant_id)) == (0, MANY - 1)


@pytest.mark.parametrize("name", sorted(CASES.keys() - IN_ONE_STATEMENT - STAYS_DUE))
def test_a_sweep_whose_time_has_passed_leaves_the_rest_for_its_next_pass(
    name: str,
    tenant_id: UUID,
    database: Database,
    engine: Engine,
    context: SweepContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _make(database, name, {tenant_id: 3})
    monkeypatch.setattr(sweeps, "FIRE_BATCH", 1)
    monkeypatch.setattr(sweeps, "QUEUES_BATCH", 1)
    late = replace(context, seconds=0.0)

    left = [BY_NAME[name].run(late) and _left(engine, name, tenant_id) for _ in range(2)]

    assert left == [2, 1]


def test_runs_that_take_too_long_to_submit_are_left_for_the_next_transaction(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [hourly(database, missed=4, catch_up=catch_up) for catch_up in (CatchUp.ALL,) * 3]
    made.append(hourly(database, missed=4, catch_up=CatchUp.LATEST))
    monkeypatch.setattr(firing, "MAX_SECONDS", 0)
    moved = []
    while count := sweeps.fire(database, LIMITS):
        moved.append(count)

    assert sum(moved) == 16
    assert len(moved) == 13
    for schedule in made[:3]:
        instants = [run.logical_date for run in runs_of(database, schedule)]
        assert instants == sorted(instants)
        assert [each.due_at for each in firings_of(database, schedule)] == instants
        assert len(instants) == 4
    outcomes = [each.outcome for each in firings_of(database, made[3])]
    assert outcomes == ["skipped"] * 3 + ["submitted"]


def test_a_backfill_whose_runs_take_too_long_goes_on_in_the_next_pass(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = hourly(database)
    with database.transaction() as session:
        new = NewBackfill(
            start_at=datetime.now(UTC) - 5 * HOUR, end_at=datetime.now(UTC), parallel=5
        )
        schedules.create_backfill(session, schedule.tenant_id, schedule.id, new)
    monkeypatch.setattr(firing, "MAX_SECONDS", 0)

    assert [sweeps.advance_backfills(database, LIMITS) for _ in range(6)] == [1] * 5 + [0]
    assert len(runs_of(database, schedule)) == 5


def test_tenants_take_turns_with_steps_of_runs_that_have_begun(
    other_tenant: UUID, database: Database, sent: list[Outbound]
) -> None:
    wide = [{"key": f"w{n:02}", "uses": "noop", "needs": []} for n in range(24)]
    a_run(database, {"name": "wide", "steps": wide})
    a_run(database, a_spec("same"), window=0)
    with database.transaction() as session:
        workflows.register(session, other_tenant, a_spec("theirs"))
        for _ in range(2):
            runs.submit(session, other_tenant, runs.NewRun(workflow="theirs"), window=0)
    sent.clear()

    sweeps.admit_waiting(database, 16 + 4)

    names = sorted(message.name for message in messages_in(sent))
    assert names == ["theirs/s1#1"] * 2 + ["wide/w16#1", "wide/w17#1"]


def test_the_messages_of_three_thousand_queues_are_read_over_one_connection(
    services: Services,
) -> None:
    broker = Broker(make_app(services.redis_url, publisher=True))
    names = [f"nobody-listens-{number}" for number in range(3000)]
    with broker._app.connection_for_read() as connection:
        client = connection.default_channel.client
        before = client.info("stats")["total_connections_received"]
        pending = broker.pending(names)
        after = client.info("stats")["total_connections_received"]

    assert pending == {name: set() for name in names}
    assert after - before <= 2


def test_a_row_that_is_locked_for_long_is_given_up_soon(settings: Settings) -> None:
    scheduler = Scheduler(replace(settings, secret_key="k" * 32))
    with scheduler.database.transaction() as session:
        limit = session.execute(text("SHOW lock_timeout")).scalar_one()
    scheduler.database.engine.dispose()

    assert parse_duration(limit) <= timedelta(seconds=1)
