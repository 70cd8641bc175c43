"""Whom the audit log names for changes that no caller of the API makes."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, select, text

from config.settings import Settings, environ_of
from orchestrator import audit
from orchestrator.cli.main import main
from orchestrator.db.database import Database
from orchestrator.local import stack
from orchestrator.models import AuditEntry, Overlap
from orchestrator.notifications import deliveries
from orchestrator.notifications.deliveries import Backoff
from orchestrator.notifications.http import SendResult
from orchestrator.spec.cron import CatchUp
from tests.contracts.virtuousai.helpers import a_running_run
from tests.integration.monitoring.test_status import a_report, say
from tests.support.factories import KEY, LEASE, a_run, a_webhook
from tests.support.schedule_factories import hourly
from workers.scheduler.main import Scheduler


@pytest.fixture
def scheduler(settings: Settings, database: Database) -> Iterator[Scheduler]:
    """A scheduler in this process, which sweeps when it is told to."""
    scheduler = Scheduler(settings)
    yield scheduler
    scheduler._deliverer.end()
    scheduler.database.engine.dispose()


def _entries(database: Database, **same: Any) -> list[AuditEntry]:
    with database.transaction() as session:
        statement = select(AuditEntry).filter_by(**same).order_by(AuditEntry.id)
        return list(session.scalars(statement))


def test_a_run_that_timed_out_names_the_sweep(
    database: Database, engine: Engine, scheduler: Scheduler
) -> None:
    run = a_running_run(database)
    with engine.begin() as connection:
        late = "UPDATE runs SET deadline_at = now() - interval '1 s' WHERE id = :id"
        connection.execute(text(late), {"id": run.id})

    scheduler.sweep_once()

    (entry,) = _entries(database, object_id=str(run.id), verb="run.time_out")
    assert (entry.actor, entry.name) == ("sweep", "expire_timed_out")
    assert entry.before == {"state": "running"}
    assert entry.after["state"] == "cancelling"


def test_a_run_that_a_later_one_replaces_names_the_sweep(
    database: Database, scheduler: Scheduler
) -> None:
    hourly(database, missed=2, catch_up=CatchUp.ALL, overlap=Overlap.CANCEL_RUNNING)

    scheduler.sweep_once()

    (entry,) = _entries(database, verb="run.cancel")
    assert (entry.actor, entry.name) == ("sweep", "fire")
    submitted = _entries(database, verb="run.submit")
    assert {(each.actor, each.name) for each in submitted} == {("sweep", "fire")}
    assert "takes its place" in entry.after["reason"]
    with database.transaction() as session:
        report = audit.verify(session, patience=timedelta(minutes=1))
    assert report.verified == report.entries > 0
    assert report.mistakes == []


def test_a_webhook_whose_receiver_is_gone_is_recorded(database: Database) -> None:
    webhook = a_webhook(database, "https://hooks.example/in")
    a_run(database)
    acting = database.acting(audit.sweep_actor("deliver"))
    with acting.transaction() as session:
        claimed = deliveries.claim_delivery(session, after="", full=[], lease=LEASE)
    assert claimed is not None

    for _ in range(2):
        gone = SendResult(status=410, error="HTTP 410")
        with acting.transaction() as session:
            deliveries.record_delivery(session, claimed, gone, 0.1, Backoff())

    (entry,) = _entries(database, verb="webhook.change")
    assert (entry.actor, entry.name, entry.object_id) == ("sweep", "deliver", str(webhook.id))
    assert entry.before == {"active": True}
    assert entry.after["active"] is False


@pytest.mark.usefixtures("database")
def test_a_command_names_the_user_of_the_machine(
    database: Database, engine: Engine, settings: Settings
) -> None:
    say(database, a_report())
    environ = environ_of(settings) | {"LOGNAME": "ana"}
    try:
        for words in (["tenants", "create", "audited"], ["drain", "w1", "--no-wait"]):
            result = CliRunner().invoke(main, words, env=environ)
            assert result.exit_code == 0, result.output
        created = _entries(database, actor="command")
    finally:
        with engine.begin() as connection:
            for table in ("keys", "projects"):
                connection.execute(
                    text(f"DELETE FROM {table} USING tenants WHERE tenants.name = 'audited'"
                         f" AND {table}.tenant_id = tenants.id")
                )  # fmt: skip
            connection.execute(text("DELETE FROM tenants WHERE name = 'audited'"))

    by_verb = {each.verb: each for each in created if each.name == "ana"}
    assert by_verb.keys() == {"tenant.create", "key.create", "worker.drain"}
    assert by_verb["tenant.create"].tenant_id == by_verb["key.create"].tenant_id
    assert by_verb["worker.drain"].tenant_id == audit.SYSTEM
    assert by_verb["worker.drain"].object_id == "w1@here"
    assert "ok_" not in str(by_verb["key.create"].after)


def test_migrate_records_another_admin_key_and_nothing_twice(
    database: Database, engine: Engine
) -> None:
    url = engine.url.render_as_string(hide_password=False)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM keys WHERE name <> 'admin'"))
    try:
        stack.prepare_database(url, KEY, only=True)
        assert _entries(database, object_type="key", verb="key.change") == []
        stack.prepare_database(url, "ok_another_admin_key_0123456789", only=True)
        changes = _entries(database, object_type="key")
    finally:
        stack.prepare_database(url, KEY, only=True)
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM keys WHERE prefix LIKE 'ok_anot%'"))

    assert [each.verb for each in changes[-2:]] in (
        ["key.create", "key.change"],
        ["key.change", "key.create"],
    )
    assert {each.actor.value for each in changes} == {"command"}
