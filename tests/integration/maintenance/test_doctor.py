"""`orchestrator doctor`: what it checks, its output, and its exit status."""

import json
from typing import Any
from uuid import uuid4

import pytest
import redis
from click.testing import CliRunner, Result
from sqlalchemy import Engine, select, text

from config.settings import Settings, environ_of
from orchestrator.broker.client import Broker, make_app
from orchestrator.cli.main import main
from orchestrator.db import statements
from orchestrator.db.database import Database
from orchestrator.db.engine import make_engine
from orchestrator.maintenance import checks, doctor, sweeps
from orchestrator.maintenance.invariants import INVARIANTS
from orchestrator.models import AuditEntry, Run
from orchestrator.monitoring import workers
from tests.integration.api.test_transient_retry import Knife
from tests.integration.monitoring.test_status import HOST, a_report, say
from tests.support.factories import a_run, a_spec

CHAIN = a_spec("chain", steps=2)
OPEN = "UPDATE steps SET state = 'pending' WHERE run_id = :id"


_FINE = "Nothing is broken."
_NO_SCHEDULER = (
    "Note: no scheduler runs: until one does, what waits is not started, nothing is tried"
    " again, and no schedule fires; start one with: orchestrator scheduler."
)


def _is_young(line: str) -> bool:
    """Whether it says that Postgres has just started, which it may have."""
    return line.startswith("Note: Postgres started ")


def _doctor(settings: Settings, *words: str, **environ: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *words], env=environ_of(settings) | environ)


def _break(engine: Engine, run: Run, sql: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(sql), {"id": run.id})


def test_the_facts_are_printed_and_that_nothing_is_broken(
    database: Database, settings: Settings
) -> None:
    a_run(database, CHAIN)
    say(database, a_report())

    result = _doctor(settings)

    lines = result.stdout.splitlines()
    assert lines[0].startswith("Redis ")
    assert lines[1].startswith("Postgres 1")
    assert lines[2] == "Workers: 1 active, 0 draining, 0 drained, 0 offline; schedulers: 0"
    assert lines[3] == (
        f"Looked at 1 runs (1 live), 2 steps and 3 events for {len(INVARIANTS)} kinds of mistakes"
    )
    assert lines[4].startswith("Audit log: ")
    assert lines[4].endswith(", all verified")
    assert [line for line in lines[5:] if not _is_young(line)] == [_NO_SCHEDULER, _FINE]
    assert result.exit_code == 0


def test_what_is_broken_is_named_and_to_be_reported(
    database: Database, settings: Settings, engine: Engine
) -> None:
    run = a_run(database, CHAIN)
    _break(engine, run, OPEN)

    result = _doctor(settings)

    assert result.exit_code == 1
    assert (
        "Broken: a step waits although all that it needs is there (1);"
        " nothing mends it by itself: please report it.\n"
        f"  run {run.id} step s1 (pending)\n"
    ) in result.stdout
    assert "Nothing is broken" not in result.stdout


def test_what_is_overdue_is_the_schedulers(
    database: Database, settings: Settings, engine: Engine
) -> None:
    run = a_run(database, CHAIN, start=False)
    start_time = "UPDATE runs SET held = false, run_at = now() - interval '1 hour' WHERE id = :id"
    _break(engine, run, start_time)

    result = _doctor(settings)

    assert "long ago (1); overdue: a scheduler does it, if one runs.\n" in result.stdout
    assert result.exit_code == 1


def _unlocked(engine: Engine, sql: str) -> None:
    """Change the audit log as its owner can."""
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE audit DISABLE TRIGGER USER"))
        connection.execute(text(sql))
        connection.execute(text("ALTER TABLE audit ENABLE TRIGGER USER"))


def test_a_changed_entry_of_the_audit_log_is_broken(
    database: Database, settings: Settings, engine: Engine
) -> None:
    a_run(database, CHAIN)
    sweeps.link_audit(database)
    _unlocked(engine, "UPDATE audit SET actor = 'sweep' WHERE verb = 'workflow.register'")

    result = _doctor(settings)

    assert "was changed, or the one before it." in result.stdout
    assert "Broken: the audit log of tenant " in result.stdout
    assert result.exit_code == 1


def test_without_a_scheduler_it_is_no_fault_that_entries_wait(
    database: Database, settings: Settings, engine: Engine
) -> None:
    a_run(database, CHAIN)
    _unlocked(engine, "UPDATE audit SET at = now() - interval '2 min'")
    count = len(_rows(database))

    quiet = _doctor(settings)
    with database.transaction() as session:
        workers.report_scheduler(session, uuid4())
    broken = _doctor(settings)

    waiting = f"{count} entries of the audit log wait for their number since more than a minute"
    assert f"Note: {waiting}" in quiet.stdout
    assert quiet.exit_code == 0
    assert f"Broken: {waiting}" in broken.stdout
    assert broken.exit_code == 1


def _rows(database: Database) -> list[Any]:
    with database.transaction() as session:
        return list(session.scalars(select(AuditEntry)))


def test_the_json_has_the_same(database: Database, settings: Settings, engine: Engine) -> None:
    run = a_run(database, CHAIN)
    _break(engine, run, "UPDATE runs SET event_seq = 99 WHERE id = :id")

    result = _doctor(settings, "--json")

    report: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == 1
    assert report["broken"] is True
    assert report["findings"] == [
        {
            "broken": "a run's last event is not the last number", "run_id": str(run.id),
            "step": None, "detail": "99 and not 3",
        }
    ]  # fmt: skip
    assert report["facts"]["looked_at"] == {"runs": 1, "live_runs": 1, "steps": 2, "events": 3}
    assert report["facts"]["schema"]


def test_a_published_step_that_is_nowhere_is_broken_and_one_in_the_broker_is_not(
    database: Database, settings: Settings, engine: Engine
) -> None:
    broker = Broker(make_app(settings.redis_url, publisher=True))
    real = Database(engine, broker.deliver)
    spec = a_spec("parked", queue="nobody-listens")
    there, lost = a_run(real, spec), a_run(database, spec)
    with engine.begin() as connection:
        connection.execute(text("UPDATE steps SET published_at = now() - interval '1 hour'"))

    report = doctor.examine(real, broker)

    assert [(each.broken, each.run_id) for each in report.findings] == [
        (doctor.LOST_MESSAGE, lost.id)
    ]
    assert there.id not in {each.run_id for each in report.findings}
    assert any("work waits in queue nobody-listens" in notice for notice in report.notices)
    broker._app.connection_for_write().default_channel.client.flushdb()


def test_a_silent_worker_is_a_note(database: Database, settings: Settings, engine: Engine) -> None:
    say(database, a_report())
    with engine.begin() as connection:
        connection.execute(text("UPDATE workers SET seen_at = now() - interval '1 hour'"))

    result = _doctor(settings)

    assert "Note: worker w1@here was last heard of at " in result.stdout
    assert result.exit_code == 0


def test_workers_in_every_state_are_counted(
    database: Database, settings: Settings, engine: Engine
) -> None:
    drains = {"draining": True}
    say(database, a_report("a@here"), a_report("b@here", **drains, active=1))
    say(database, a_report("c@here", **drains), a_report("d@here"))
    with engine.begin() as connection:
        silent = "UPDATE workers SET seen_at = now() - interval '1 hour' WHERE name = 'd@here'"
        connection.execute(text(silent))

    result = _doctor(settings)

    assert "Workers: 1 active, 1 draining, 1 drained, 1 offline" in result.stdout
    assert result.exit_code == 0


def test_schedulers_that_report_are_counted(database: Database, settings: Settings) -> None:
    silent, ended, running = uuid4(), uuid4(), uuid4()
    with database.transaction() as session:
        for each in (silent, ended, running):
            workers.report_scheduler(session, each)
        workers.remove_scheduler(session, ended)
        late = "UPDATE schedulers SET seen_at = now() - interval '16 s' WHERE id = :id"
        statements.execute(session, late, id=silent)

    result = _doctor(settings)

    assert result.stdout.splitlines()[2].endswith("; schedulers: 1")
    assert _NO_SCHEDULER not in result.stdout


def test_a_postgres_that_goes_away_meanwhile_is_reported(
    database: Database, settings: Settings, engine: Engine
) -> None:
    a_run(database, CHAIN)
    own = Database(make_engine(settings.database_url), lambda _: None)
    knife, reports = Knife(engine, own.engine), list[doctor.DoctorReport]()
    while knife.used == len(reports):
        with knife.after_statement(3 * len(reports) + 1):
            reports.append(doctor.examine(own, None))
    own.engine.dispose()

    mistakes = [mistake for report in reports for mistake in report.mistakes]
    assert len(mistakes) > 5
    assert all(mistake.startswith("Postgres: ") for mistake in mistakes)
    assert not any(report.findings for report in reports)


@pytest.mark.parametrize(
    ("away", "message"),
    [
        ({"ORCHESTRATOR_REDIS_URL": "redis://127.0.0.1:1/0"}, "Broken: Redis cannot be reached: "),
        (
            {"ORCHESTRATOR_DATABASE_URL": "postgresql://127.0.0.1:1/none"},
            "Broken: Postgres: connection to server",
        ),
    ],
)
def test_a_service_that_is_away_is_broken(
    database: Database, settings: Settings, away: dict[str, str], message: str
) -> None:
    result = _doctor(settings, **away)

    assert message in result.stdout
    assert result.exit_code == 1
    report = json.loads(_doctor(settings, "--json", **away).stdout)
    assert report["broken"] is True
    assert report["facts"].keys() == doctor.DoctorReport().facts.keys()


def test_all_runs_are_checked_in_batches(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "BATCH", 2)
    submitted = [a_run(database, CHAIN) for _ in range(5)]
    _break(engine, submitted[0], OPEN)
    _break(engine, submitted[4], OPEN)

    with database.transaction() as session:
        result = checks.check_all_runs(session)

    assert (result.runs, result.steps) == (5, 10)
    assert {each.run_id for each in result.findings} == {submitted[0].id, submitted[4].id}


def test_foreign_content_of_redis_stops_no_check(
    database: Database, settings: Settings, engine: Engine
) -> None:
    a_run(database, a_spec(queue="foreign"))
    a_run(database, a_spec("lost", queue="lost"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE steps SET published_at = now() - interval '1 hour'"))
    with redis.Redis.from_url(settings.redis_url) as store:
        store.lpush("foreign", "[]", "", b"\xff")
        store.set("foreign\x06\x165", "x")

        result = _doctor(settings)

        store.delete("foreign")
    assert f"Broken: {doctor.LOST_MESSAGE} (2)" in result.stdout
    assert "Traceback" not in result.output


def test_a_worker_that_lacks_processes_or_dropped_messages_is_named(
    database: Database, settings: Settings
) -> None:
    usage = HOST | {"missing_processes": 2, "dropped_messages": 1234}
    say(database, a_report("short@here", usage=usage), a_report())

    result = _doctor(settings)

    assert "Broken: worker short@here lacks 2 of its processes: it starts" in result.stdout
    assert "Note: worker short@here has dropped 1,234 messages since its start" in result.stdout
    assert "w1@here" not in result.stdout
    assert result.exit_code == 1
