"""A scheduler in a process of its own: the work of one tenant delays no schedule of another one."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from config.settings import Settings, environ_of
from orchestrator import runs, schedules, workflows
from orchestrator.db.database import Database
from orchestrator.local import processes
from orchestrator.models import ScheduleType
from orchestrator.monitoring.workers import count_schedulers
from orchestrator.notifications import webhooks
from orchestrator.schedules import NewSchedule
from orchestrator.spec.parser import MAX_QUEUES
from tests.support.factories import WINDOW, a_spec, eventually
from tests.support.webhook_receivers import answering, dripping

SECRET_KEY = "a-secret-key-of-the-tests-of-turns"
MAX_DELAY = timedelta(seconds=15)  # alone it is below one second; it was 32 to 41
FIRINGS = 8


@contextmanager
def _scheduling(settings: Settings, engine: Engine) -> Iterator[None]:
    """A scheduler in a process of its own, that has begun."""
    changed = replace(settings, secret_key=SECRET_KEY, allow_private_targets=True)
    command = [sys.executable, "-m", "workers.scheduler.main"]
    process = subprocess.Popen(command, env={**os.environ, **environ_of(changed)})
    try:
        eventually(lambda: _schedulers(engine), within=30)
        yield
    finally:
        processes.stop_process(process)


def _schedulers(engine: Engine) -> int:
    with Session(engine) as session:
        return count_schedulers(session)


def _three_thousand_queues(session: Session, tenant_id: UUID) -> None:
    """Steps that are ready at once, each in a queue of its own that nobody listens to."""
    for name in range(3000 // MAX_QUEUES):
        steps = [
            {"key": f"s{number}", "uses": "noop", "needs": [], "queue": f"nobody-{name}-{number}"}
            for number in range(MAX_QUEUES)
        ]
        workflows.register(session, tenant_id, {"name": f"wide-{name}", "steps": steps})
        runs.submit(session, tenant_id, runs.NewRun(workflow=f"wide-{name}"), window=WINDOW)


def _ten_thousand_schedules(session: Session, tenant_id: UUID) -> None:
    """All of them are due, and again each minute."""
    _schedule(session, tenant_id, "many", every=timedelta(minutes=1))
    columns = "tenant_id, workflow_id, workflow, name, type, every"
    copies = f"""
        INSERT INTO schedules (id, {columns}, next_at, fires_at)
        SELECT gen_random_uuid(), {columns}, now(), now() FROM schedules, generate_series(1, 10000)
        WHERE tenant_id = :tenant_id
    """
    session.execute(text(copies), {"tenant_id": tenant_id})


def _fifty_thousand_retries(session: Session, tenant_id: UUID) -> None:
    """Steps of as many runs, all of them to be tried again now."""
    workflows.register(session, tenant_id, a_spec("again"))
    run, _ = runs.submit(session, tenant_id, runs.NewRun(workflow="again"), window=0)
    copies = """
        INSERT INTO {table} SELECT new.* FROM {table} first, {others} others,
            LATERAL jsonb_populate_record(first, jsonb_build_object(
                'id', others.copy, 'number', nextval(pg_get_serial_sequence('{table}', 'number')),
                {values})) new
        WHERE first.{key} = :run_id
    """
    ids = "(SELECT gen_random_uuid() AS copy FROM generate_series(1, 50000))"
    to_run = copies.format(table="runs", key="id", others=ids, values="'state', 'running'")
    session.execute(text(to_run), {"run_id": run.id})
    ids = "(SELECT id AS run_id, gen_random_uuid() AS copy FROM runs WHERE state = 'running')"
    values = "'run_id', others.run_id, 'state', 'waiting', 'wake_at', now()"
    to_wait = copies.format(table="steps", key="run_id", others=ids, values=values)
    session.execute(text(to_wait), {"run_id": run.id})


@contextmanager
def _three_thousand_dead_webhooks(session: Session, tenant_id: UUID) -> Iterator[None]:
    """Deliveries to as many hosts, none of which answers."""
    with dripping() as silent:
        statement = f"""
            INSERT INTO deliveries (id, tenant_id, kind, target, lane, event, payload)
            SELECT gen_random_uuid(), :tenant_id, 'webhook', '{silent.url}/' || number,
                :tenant_id || ' dead-' || number, 'run.created', '{{}}'
            FROM generate_series(1, 3000) AS number
        """
        session.execute(text(statement), {"tenant_id": str(tenant_id)})
        yield


FLOODS: dict[str, Callable[[Session, UUID], object]] = {
    "3,000 queues": _three_thousand_queues,
    "10,000 schedules": _ten_thousand_schedules,
    "50,000 retries": _fifty_thousand_retries,
}


def _schedule(session: Session, tenant_id: UUID, workflow: str, every: timedelta) -> UUID:
    workflows.register(session, tenant_id, a_spec(workflow))
    new = NewSchedule(workflow=workflow, type=ScheduleType.INTERVAL, every=every)
    return schedules.create_schedule(session, tenant_id, new).id


def _delays(engine: Engine, schedule_id: UUID) -> list[timedelta]:
    """How late the schedule's instants were acted upon."""
    statement = text("SELECT created_at - due_at FROM firings WHERE schedule_id = :id")
    with engine.connect() as connection:
        return list(connection.scalars(statement, {"id": schedule_id}))


@pytest.mark.parametrize("flood", FLOODS)
def test_the_work_of_one_tenant_delays_no_schedule_of_another(
    flood: str,
    other_tenant: UUID,
    tenant_id: UUID,
    database: Database,
    engine: Engine,
    settings: Settings,
) -> None:
    with database.transaction() as session:
        FLOODS[flood](session, tenant_id)
    with _scheduling(settings, engine):
        with database.transaction() as session:
            schedule = _schedule(session, other_tenant, "watched", timedelta(seconds=1))
        delays = eventually(
            lambda: _delays(engine, schedule), within=60, until=lambda seen: len(seen) >= FIRINGS
        )

    assert max(delays) < MAX_DELAY


def test_receivers_of_one_tenant_that_never_answer_delay_no_delivery_of_another(
    other_tenant: UUID, tenant_id: UUID, database: Database, engine: Engine, settings: Settings
) -> None:
    with answering(200) as well:
        with database.transaction() as session:
            new = webhooks.NewWebhook(target=well.url, events=["run.created"])
            policy = webhooks.TargetPolicy(allow_private=True, mail=False)
            webhooks.create_webhook(session, other_tenant, new, policy)
            _schedule(session, other_tenant, "watched", timedelta(seconds=1))
        with ExitStack() as exits:
            with database.transaction() as session:
                exits.enter_context(_three_thousand_dead_webhooks(session, tenant_id))
            exits.enter_context(_scheduling(settings, engine))
            eventually(lambda: len(well.requests) >= FIRINGS, within=60)
    statement = text(
        "SELECT max(delivered_at - created_at) FROM deliveries WHERE tenant_id = :tenant_id"
    )
    with engine.connect() as connection:
        delay = connection.scalar(statement, {"tenant_id": other_tenant})

    assert delay < MAX_DELAY
