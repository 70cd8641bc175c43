"""Failed starts of workers: remembered until one succeeds, and named where a worker is missed."""

import json

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from config.settings import Settings, environ_of
from orchestrator.cli.main import main
from orchestrator.db.database import Database
from orchestrator.monitoring import workers
from tests.integration.monitoring.test_status import a_report, say
from tests.support.factories import a_run

WORKER, QUEUES, ERROR = "w-17@here", ["default", "gpu"], "it cannot load its step modules: oops"
SENTENCE = f"w@here did not start: {ERROR}"


def _begin(database: Database, name: str = WORKER) -> None:
    with database.transaction() as session:
        workers.begin_start(session, name, QUEUES)


def _fail(database: Database, name: str = WORKER) -> None:
    _begin(database, name)
    with database.transaction() as session:
        workers.fail_start(session, name, QUEUES, ERROR)


def _errors(database: Database) -> dict[str, str]:
    with database.transaction() as session:
        return {row.worker: row.error for row in workers.failed_starts(session)}


def test_a_failed_start_is_remembered_until_a_start_succeeds(database: Database) -> None:
    _fail(database)
    _fail(database, "w-18@here")
    assert _errors(database) == {"w@here": ERROR}
    _begin(database)
    assert _errors(database) == {"w@here": ERROR}

    with database.transaction() as session:
        workers.end_start(session, "w-19@here", list(reversed(QUEUES)))

    assert _errors(database) == {}


def test_a_start_that_goes_on_is_no_failure_before_a_minute(
    database: Database, engine: Engine
) -> None:
    _begin(database)
    assert _errors(database) == {}

    with engine.begin() as connection:
        connection.execute(text("UPDATE worker_starts SET started_at = now() - interval '2 min'"))

    assert _errors(database) == {"w@here": "its start has not come to an end"}


def test_a_process_that_ends_without_a_word_is_noticed_at_the_next_start(
    database: Database,
) -> None:
    _begin(database)
    _begin(database)

    assert _errors(database) == {"w@here": "its process ended while it started"}


def test_a_start_of_yesterday_is_forgotten(database: Database, engine: Engine) -> None:
    _fail(database)
    with engine.begin() as connection:
        connection.execute(text("UPDATE worker_starts SET started_at = now() - interval '2 days'"))

    with database.transaction() as session:
        workers.forget_workers(session)

    assert _errors(database) == {}


@pytest.mark.parametrize("waits", [True, False])
def test_the_status_says_why_a_queue_has_no_worker(
    client: FlaskClient, database: Database, waits: bool
) -> None:
    if waits:
        a_run(database)
    _fail(database)

    status = client.get("/api/v1/system/status").json

    assert status["reasons"] == [f"no active worker listens to queue 'default': {SENTENCE}"]
    assert status["status"] == ("unhealthy" if waits else "degraded")


def test_a_queue_with_another_worker_is_healthy(client: FlaskClient, database: Database) -> None:
    _fail(database)
    say(database, a_report())

    assert client.get("/api/v1/system/status").json["status"] == "healthy"


def test_explain_says_why_a_queue_has_no_worker(client: FlaskClient, database: Database) -> None:
    run = a_run(database)
    _fail(database)

    cause = client.get(f"/api/v1/runs/{run.id}/explain").json["cause"]

    sentence = f"step s1: no active worker listens to queue default; {SENTENCE}"
    assert (cause["code"], cause["text"]) == ("no_worker", sentence)
    assert cause["about"]["start_error"] == SENTENCE


def test_the_doctor_names_workers_that_do_not_start(database: Database, settings: Settings) -> None:
    _fail(database)

    result = CliRunner().invoke(main, ["doctor"], env=environ_of(settings))
    report = CliRunner().invoke(main, ["doctor", "--json"], env=environ_of(settings))

    assert "Note: worker w@here of queue default, gpu did not start at " in result.stdout
    assert f": {ERROR}.\n" in result.stdout
    (failure,) = json.loads(report.stdout)["facts"]["failed_starts"]
    assert (failure["worker"], failure["queues"]) == ("w@here", QUEUES)
