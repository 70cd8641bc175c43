"""VirtuousAI's automation runs: one and lists."""

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from orchestrator import runs
from orchestrator.db.database import Database
from orchestrator.engine import attempts
from orchestrator.models import Trigger
from orchestrator.states import FINAL_RUNS, RunState
from tests.contracts.adapters.virtuousai import AUTOMATIONS, RUNS, body_of
from tests.contracts.virtuousai.helpers import (
    EVENTS,
    a_failed_run,
    a_running_run,
    events_in,
    follow,
)
from tests.support.factories import GRACE, a_run, a_spec
from tests.support.statement_recorder import recorded_statements

STATE = """
    UPDATE runs SET state = :state, finished_at = CASE WHEN :ended THEN now() END WHERE id = :id
"""


@pytest.mark.row("VirtuousAI GET automation-runs/{id}: status")
def test_each_state_has_its_word(client: FlaskClient, database: Database, engine: Engine) -> None:
    words = {}
    for state in RunState:
        run = a_run(database)
        with engine.begin() as connection:
            params = {"id": run.id, "state": state, "ended": state in FINAL_RUNS}
            connection.execute(text(STATE), params)
        words[str(run.id)] = body_of(client.get(f"{RUNS}/{run.id}"))["status"]

    assert list(words.values()) == [
        "pending", "pending", "running", "running", "completed", "failed", "failed", "cancelled",
    ]  # fmt: skip
    for status in set(words.values()):
        page = body_of(client.get(RUNS, query_string={"status": status}))
        expected = {run_id for run_id, word in words.items() if word == status}
        assert ({run["id"] for run in page["items"]}, page["total"]) == (expected, len(expected))


def test_what_started_a_run_is_shown(client: FlaskClient, database: Database) -> None:
    for trigger, source_type, *shown in [
        (Trigger.MANUAL, None, "manual", None, None),
        (Trigger.MANUAL, "key", "manual", "api_key", "s"),
        (Trigger.MANUAL, "user", "manual", "user", "s"),
        (Trigger.MANUAL, "nobody knows", "manual", None, None),
        (Trigger.RETRY, "run", "manual", "automation", "s"),
        (Trigger.SCHEDULE, "schedule", "schedule", "schedule", "s"),
        (Trigger.API, "schedule", "webhook", "webhook", "s"),
        (Trigger.EVENT, "run", "schedule", "automation", "s"),
        (Trigger.BACKFILL, "backfill", "schedule", "schedule", None),
    ]:
        run = a_run(database, trigger=trigger, source_type=source_type, source_id="s")
        body = body_of(client.get(f"{RUNS}/{run.id}"))
        names = ("triggerType", "triggerSourceType", "triggerSourceId")
        assert [body[name] for name in names] == shown


def test_a_failed_run_says_why_where_and_how_long(client: FlaskClient, database: Database) -> None:
    run = a_failed_run(database, concurrency_key="ledger")

    shown = body_of(client.get(f"{RUNS}/{run.id}"))

    assert shown["status"] == "failed"
    assert shown["concurrencyKey"] == "ledger"
    assert shown["error"] == {
        "type": "step_failed", "message": "HTTP 503 from target", "stepKey": "s2",
    }  # fmt: skip
    assert run.started_at is not None
    assert run.finished_at is not None
    took = (run.finished_at - run.started_at).total_seconds()
    assert shown["durationSeconds"] == pytest.approx(took)
    assert shown["externalJobId"] == run.steps[0].task_id
    assert shown["updatedAt"] >= shown["completedAt"] > shown["startedAt"] > shown["createdAt"]


def test_a_run_that_took_too_long_has_failed_by_timeout(
    client: FlaskClient, database: Database
) -> None:
    run = a_running_run(database)
    with database.transaction() as session:
        locked = runs.lock(session, run.tenant_id, run.id)
        reason = "the run's timeout has passed"
        runs.stop_run(session, locked, grace=GRACE, reason=reason, timed_out=True)
    stopping = body_of(client.get(f"{RUNS}/{run.id}"))
    with database.transaction() as session:
        assert attempts.end_lost_attempt(session, str(run.steps[0].task_id), "gone") is not None

    shown = body_of(client.get(f"{RUNS}/{run.id}"))

    assert (stopping["status"], stopping["error"]) == ("running", None)
    assert shown["status"] == "failed"
    assert shown["error"] == {"type": "timeout", "message": reason, "stepKey": None}
    last = list(events_in(follow(client, run)))[-1]
    assert last["event"] == "automation.failed"


@pytest.mark.row("VirtuousAI GET automation-runs: limit, offset, total")
def test_pages_are_newest_first_and_the_total_is_that_of_all(
    client: FlaskClient, database: Database
) -> None:
    made = [str(a_run(database).id) for _ in range(5)][::-1]

    pages = [
        body_of(client.get(RUNS, query_string={"limit": 2, "offset": offset}))
        for offset in (0, 2, 4, 6)
    ]

    assert [[run["id"] for run in page["items"]] for page in pages] == [
        made[:2], made[2:4], made[4:], [],
    ]  # fmt: skip
    assert {page["total"] for page in pages} == {5}
    assert body_of(client.get(f"{RUNS}?limit=0")) == {"items": [], "total": 5}


def test_a_page_asks_as_often_however_long_it_is(client: FlaskClient, database: Database) -> None:
    def count_statements(path: str) -> int:
        with recorded_statements(client) as statements:
            body_of(client.get(path))
        return len(statements)

    for path in (RUNS, AUTOMATIONS, EVENTS):
        a_run(database, a_spec("first"))
        expected = count_statements(path)
        for name in "abc":
            a_run(database, a_spec(name, steps=3))
        assert count_statements(path) == expected, path
