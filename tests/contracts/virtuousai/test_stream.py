"""VirtuousAI's automation runs: the stream of a run's events."""

from datetime import timedelta
from itertools import islice

import pytest
from flask.testing import FlaskClient

from api.toolkit import sse
from orchestrator import runs
from orchestrator.db import journal, transitions
from orchestrator.db.database import Database
from tests.contracts.adapters.virtuousai import ADAPTER, RUNS
from tests.contracts.virtuousai.helpers import (
    NOBODY,
    a_failed_run,
    a_running_run,
    events_in,
    follow,
    mistake_of,
)
from tests.support.factories import GRACE, a_run


def test_a_stream_has_the_published_events_and_no_others(
    client: FlaskClient, database: Database
) -> None:
    run = a_failed_run(database)

    events = list(events_in(follow(client, run)))

    assert sorted(each["event"] for each in events[:3]) == [
        "action.started", "automation.started", "automation.triggered",
    ]  # fmt: skip
    assert [each["event"] for each in events[3:]] == [
        "action.completed", "action.started", "action.failed", "action.skipped",
        "automation.failed",
    ]  # fmt: skip
    assert list(events[0]) == [
        "event", "data", "id", "eventType", "resourceType", "resourceId", "tenantId",
        "occurredAt", "payload",
    ]  # fmt: skip
    assert events[3]["data"] == events[3]["payload"] == {"stepKey": "s1", "attempt": 1}
    assert {(each["resourceType"], each["resourceId"]) for each in events} == {
        ("automation_run", str(run.id))
    }


def test_progress_is_streamed(client: FlaskClient, database: Database) -> None:
    run = a_running_run(database)
    progress = {"percent": 40, "stage": "loading", "message": None}
    with database.transaction() as session:
        transitions.lock_run(session, run.id)
        journal.record_event(session, run.id, "step.progress", step="s1", attempt=1, **progress)
        runs.cancel(session, run.tenant_id, run.id, grace=GRACE)

    parts = follow(client, run)
    events = list(islice(events_in(parts), 4))
    parts.close()  # type: ignore[attr-defined]

    assert events[-1]["event"] == "action.progress"
    assert events[-1]["data"] == {"stepKey": "s1", "attempt": 1, **progress}


@pytest.mark.row("VirtuousAI GET automation-runs/{id}/events: Last-Event-ID")
def test_a_reader_that_comes_again_gets_the_rest_and_then_nothing(
    client: FlaskClient, database: Database
) -> None:
    run = a_failed_run(database)
    events = list(events_in(follow(client, run)))

    rest = list(events_in(follow(client, run, **{"Last-Event-ID": events[3]["id"]})))
    seen = {"Last-Event-ID": events[-1]["id"]}

    assert rest == events[4:]
    assert client.get(f"{RUNS}/{run.id}/events", headers=seen).status_code == 204
    wrong = {"Last-Event-ID": "x"}
    path = f"{RUNS}/{run.id}/events"
    assert mistake_of(client, "GET", path, headers=wrong) == (
        ["header", "last-event-id"], "value_error",
    )  # fmt: skip
    assert ADAPTER.refusal(client.get(f"{RUNS}/{NOBODY}/events")) == 404


def test_events_without_a_name_keep_no_stream_silent(
    client: FlaskClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.2)  # it is 15 seconds
    run = a_run(database)
    parts = follow(client, run)
    assert next(parts) == "retry: 3000\n\n"
    assert "automation.triggered" in next(parts)

    for _ in range(2):
        with database.transaction() as session:
            transitions.lock_run(session, run.id)
            journal.record_event(session, run.id, "run.noted")
        assert next(parts) == ": keep-alive\n\n"
    with database.transaction() as session:
        runs.cancel(session, run.tenant_id, run.id, grace=timedelta(0))

    assert list(events_in(parts))[-1]["event"] == "automation.cancelled"
