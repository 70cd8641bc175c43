"""VirtuousAI's automation runs: traps for clients, by their numbers."""

from datetime import datetime
from itertools import islice
from uuid import UUID

from flask.testing import FlaskClient

from orchestrator.db.database import Database
from orchestrator.engine.outcomes import Succeeded
from tests.contracts.adapters.virtuousai import RUNS, body_of
from tests.contracts.virtuousai.helpers import (
    EVENTS,
    NOBODY,
    a_completed_run,
    a_failed_run,
    end_step,
    events_in,
    follow,
    mistake_of,
)
from tests.support.factories import KEY, a_run, a_spec

RUN_KEYS = [
    "id", "tenantId", "automationId", "automationVersionId", "versionNumber", "status",
    "triggerType", "triggerSourceType", "triggerSourceId", "orchestratorType", "externalJobId",
    "concurrencyKey", "error", "startedAt", "completedAt", "durationSeconds", "createdAt",
    "updatedAt",
]  # fmt: skip


def test_trap_1_detail_is_a_list_with_422_and_a_text_elsewhere(
    client: FlaskClient, database: Database
) -> None:
    run = a_failed_run(database)
    bodies = {
        client.application.test_client().get(RUNS).status_code: None,
        **{
            (answer := client.open(path, method=method)).status_code: answer.json
            for method, path in [
                ("GET", f"{RUNS}/{NOBODY}"), ("GET", f"{RUNS}/x"), ("PUT", RUNS),
                ("POST", f"{RUNS}/{run.id}/cancel"),
            ]
        },
    }  # fmt: skip
    bodies[401] = client.application.test_client().get(RUNS).json

    assert {status: type(body["detail"]) for status, body in bodies.items()} == {
        401: str, 404: str, 405: str, 409: str, 422: list,
    }  # fmt: skip
    assert all(list(body) == ["detail"] for body in bodies.values())


def test_trap_2_the_counters_need_not_add_up(client: FlaskClient, database: Database) -> None:
    run = a_failed_run(database)

    body = body_of(client.get(f"{RUNS}/{run.id}/steps"))

    assert [step["status"] for step in body["steps"]] == ["completed", "failed", "skipped"]
    counted = [body[f"{word}Count"] for word in ("completed", "failed", "pending", "running")]
    assert counted == [1, 1, 0, 0]


def test_trap_3_the_stream_honours_the_cookie(client: FlaskClient, database: Database) -> None:
    run = a_completed_run(database)
    browser = client.application.test_client()
    browser.set_cookie("vai_token", KEY)

    events = list(events_in(follow(browser, run)))

    assert events[-1]["event"] == "automation.completed"


def test_trap_4_events_are_unnamed(client: FlaskClient, database: Database) -> None:
    with client.get(f"{RUNS}/{a_failed_run(database).id}/events") as answer:
        lines = answer.get_data(as_text=True).split("\n")

    assert lines[0] == "retry: 3000"
    assert {line.partition(":")[0] for line in lines if line} == {"retry", "id", "data"}
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Accel-Buffering"] == "no"


def test_trap_5_open_streams_hold_up_nobody(client: FlaskClient, database: Database) -> None:
    run = a_run(database)
    streams = [follow(client, run) for _ in range(12)]  # the API has four connections
    try:
        assert [next(events_in(each))["event"] for each in streams] == ["automation.triggered"] * 12
        assert client.get(f"{RUNS}/{run.id}").status_code == 200
    finally:
        for each in streams:
            each.close()  # type: ignore[attr-defined]


def test_trap_6_nothing_is_lost_between_the_replay_and_the_live_part(
    client: FlaskClient, database: Database
) -> None:
    run = a_run(database, a_spec(steps=2))
    events = events_in(follow(client, run))
    first = next(events)
    end_step(database, run, "s1", Succeeded({}))  # while the reader is in between

    rest = list(islice(events, 2))
    end_step(database, run, "s2", Succeeded({}))
    rest += events

    assert [first["event"], *sorted(each["event"] for each in rest[:2])] == [
        "automation.triggered", "action.started", "automation.started",
    ]  # fmt: skip
    assert [each["event"] for each in rest[2:]] == [
        "action.completed", "action.started", "action.completed", "automation.completed",
    ]  # fmt: skip
    ids = [int(each["id"]) for each in (first, *rest)]
    assert ids == sorted(set(ids))


def test_trap_7_every_key_is_there_and_null_where_there_is_nothing(
    client: FlaskClient, database: Database
) -> None:
    run = a_run(database, start=False)

    shown = body_of(client.get(f"{RUNS}/{run.id}"))
    (step,) = body_of(client.get(f"{RUNS}/{run.id}/steps"))["steps"]

    assert list(shown) == RUN_KEYS
    assert [name for name, value in shown.items() if value is None] == [
        "triggerSourceType", "triggerSourceId", "externalJobId", "concurrencyKey", "error",
        "startedAt", "completedAt", "durationSeconds",
    ]  # fmt: skip
    assert [name for name, value in step.items() if value is None] == [
        "actionRunId", "decisionId", "result", "error", "startedAt", "completedAt",
        "durationSeconds",
    ]  # fmt: skip


def test_trap_8_the_placeholders_of_the_reference_are_no_formats(
    client: FlaskClient, database: Database
) -> None:
    run = a_completed_run(database)

    shown = body_of(client.get(f"{RUNS}/{run.id}"))

    assert UUID(shown["id"]).version == 7
    assert shown["createdAt"].endswith("Z")
    assert datetime.fromisoformat(shown["createdAt"]) == run.created_at  # to the microsecond


def test_trap_9_queries_are_snake_case_and_json_is_camel_case(
    client: FlaskClient, database: Database
) -> None:
    run = a_failed_run(database)
    other = a_failed_run(database)

    matches = body_of(client.get(EVENTS, query_string={"resource_id": str(run.id)}))
    all_of_it = body_of(client.get(EVENTS, query_string={"resourceId": str(run.id)}))

    assert {event["resourceId"] for event in matches["events"]} == {str(run.id)}
    assert {event["resourceId"] for event in all_of_it["events"]} == {str(run.id), str(other.id)}
    snake = {"mode": "from_step", "step_key": "s2"}
    assert mistake_of(client, "POST", f"{RUNS}/{run.id}/retry", json=snake) == (
        ["body", "stepKey"], "value_error",
    )  # fmt: skip
