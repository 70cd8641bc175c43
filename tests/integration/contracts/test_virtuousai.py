"""VirtuousAI's automation runs: what is particular to this contract."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID, uuid5

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, event, text

from api import stream
from api.app import create_app
from config.settings import Settings
from orchestrator import events, execution, runs, store
from orchestrator.db import Database
from orchestrator.models import Run, Trigger
from orchestrator.outcomes import Failed, Outcome, Succeeded
from orchestrator.states import FINAL_RUNS, RunState
from tests import reference
from tests.conftest import Services
from tests.factories import GRACE, KEY, a_claim, a_run, a_spec, the_run
from tests.integration.contracts.conftest import Golden
from tests.integration.contracts.virtuousai_adapter import ADAPTER, AUTOMATIONS, RUNS, body_of
from tests.keys import a_key, with_key

EVENTS = "/api/v1/events"
NOBODY = ADAPTER.unknown_id
REFERENCE = {"X-API-Key": reference.SECRET}
RUN = f"{RUNS}/{reference.RUN}"
AUTOMATION = f"{AUTOMATIONS}/{reference.WORKFLOW}"
RUN_KEYS = [
    "id", "tenantId", "automationId", "automationVersionId", "versionNumber", "status",
    "triggerType", "triggerSourceType", "triggerSourceId", "orchestratorType", "externalJobId",
    "concurrencyKey", "error", "startedAt", "completedAt", "durationSeconds", "createdAt",
    "updatedAt",
]  # fmt: skip
NOW = "<now>"
STATE = """
    UPDATE runs SET state = :state, finished_at = CASE WHEN :ended THEN now() END WHERE id = :id
"""


@pytest.fixture(scope="module")
def app(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """One API for all tests, because making one takes longer than most of them."""
    where = {"database_url": services.database_url, "redis_url": services.redis_url}
    app = create_app(Settings(**where, data_dir=tmp_path_factory.mktemp("api"), connections=4))
    yield app
    parts = app.extensions["orchestrator"]
    for each in (parts.database, parts.doors):
        each.engine.dispose()


@pytest.fixture
def client(app: Flask, database: Database) -> FlaskClient:
    """That API, asked with the admin key."""
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"
    return client


def _end(database: Database, run: Run, key: str, outcome: Outcome) -> None:
    """Let a worker take up a step and end it."""
    (step,) = (step for step in the_run(database, run).steps if step.key == key)
    assert step.task_id is not None
    claim = a_claim(database, step.task_id)
    assert claim is not None
    with database.transaction() as session:
        execution.record(session, claim, outcome)


def _failed(database: Database, **asked: Any) -> Run:
    """A run whose second of three steps failed."""
    run = a_run(database, a_spec(steps=3), **asked)
    _end(database, run, "s1", Succeeded({"rows": 812}))
    _end(database, run, "s2", Failed("HTTP 503 from target", ("HTTPError",)))
    return the_run(database, run)


def _completed(database: Database) -> Run:
    run = a_run(database)
    _end(database, run, "s1", Succeeded({"rows": 812}))
    return the_run(database, run)


def _running(database: Database, steps: int = 2) -> Run:
    run = a_run(database, a_spec(steps=steps))
    (first, *_) = the_run(database, run).steps
    assert first.task_id is not None
    assert a_claim(database, first.task_id) is not None
    return the_run(database, run)


def _follow(client: FlaskClient, run: Run | str, **headers: str) -> Iterator[str]:
    """What a stream sends, as it comes in."""
    run_id = run if isinstance(run, str) else run.id
    answer = client.get(f"{RUNS}/{run_id}/events", headers=headers)
    assert answer.status_code == 200, answer.get_data()
    try:
        yield from (part.decode() for part in answer.iter_encoded())
    finally:
        answer.close()


def _told(parts: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The events in what a stream sends."""
    for part in parts:
        if "data: " in part:
            yield json.loads(part.partition("data: ")[2])


def _mistake(client: FlaskClient, method: str, path: str, **sent: Any) -> tuple[list[Any], str]:
    """Where the first mistake is, and of which kind."""
    answer = client.open(path, method=method, **sent)
    assert ADAPTER.refusal(answer) == 422, answer.json
    mistake: Any = answer.json["detail"][0]  # type: ignore[index]
    return mistake["loc"], mistake["type"]


@contextmanager
def _statements(client: FlaskClient) -> Iterator[list[str]]:
    """What the API says to Postgres meanwhile."""
    said: list[str] = []
    target = client.application.extensions["orchestrator"].database.engine
    listener: Any = lambda *given: said.append(given[2])  # noqa: E731
    event.listen(target, "before_cursor_execute", listener)
    try:
        yield said
    finally:
        event.remove(target, "before_cursor_execute", listener)


def _without_now(shown: dict[str, Any], *names: str) -> dict[str, Any]:
    """The body with what depends on now, or on chance, replaced."""
    return {name: NOW if name in names and value else value for name, value in shown.items()}


# The exact bodies of the reference tenant.


def test_the_bodies_are_as_published(reference_api: FlaskClient, golden: Golden) -> None:
    for name, path in {
        "runs": RUNS,
        "runs_failed": f"{RUNS}?status=failed&limit=1",
        "run": RUN,
        "steps": f"{RUN}/steps",
        "automations": AUTOMATIONS,
        "automation": AUTOMATION,
        "events": EVENTS,
        "events_of_a_kind": f"{EVENTS}?event_type=action.failed&resource_id={reference.RUN}",
    }.items():
        golden(f"virtuousai/{name}", body_of(reference_api.get(path, headers=REFERENCE)))


def test_the_changes_answer_as_published(reference_api: FlaskClient, golden: Golden) -> None:
    def answer(path: str, body: Any = None) -> dict[str, Any]:
        shown = body_of(reference_api.post(path, json=body, headers=REFERENCE))
        return _without_now(shown, "updatedAt", "completedAt", "externalJobId")

    golden("virtuousai/cancel", answer(f"{RUNS}/{reference.RUNS['pending']}/cancel"))
    golden("virtuousai/retry", answer(f"{RUN}/retry", {"mode": "from_step", "stepKey": "push"}))
    started = answer(f"{AUTOMATION}/runs", {"input": {"day": "2026-04-01"}, "concurrencyKey": "k"})
    golden("virtuousai/trigger", _without_now(started, "id", "createdAt"))
    config = {"steps": [{"key": "load", "uses": "noop"}]}
    made = answer(AUTOMATIONS, {"name": "Invoice Export", "config": config})
    golden("virtuousai/make", _without_now(made, "id", "createdAt"))


def test_the_stream_is_as_published(reference_api: FlaskClient, golden: Golden) -> None:
    told = list(_follow(reference_api, str(reference.RUN), **REFERENCE))

    golden("virtuousai/stream", "".join(told).split("\n"))


def test_the_refusals_are_as_published(reference_api: FlaskClient, golden: Golden) -> None:
    def answer(path: str, body: Any = None) -> list[Any]:
        given = reference_api.post(path, json=body, headers=REFERENCE)
        return [given.status_code, given.json]

    def seen(path: str, headers: dict[str, str] = REFERENCE) -> list[Any]:
        given = reference_api.get(path, headers=headers)
        return [given.status_code, given.json]

    golden(
        "virtuousai/refusals",
        {
            "cancel of a failed run": answer(f"{RUN}/cancel"),
            "from_step without a step": answer(f"{RUN}/retry", {"mode": "from_step"}),
            "from_step of no step": answer(f"{RUN}/retry", {"mode": "from_step", "stepKey": "x"}),
            "retry of a running run": answer(f"{RUNS}/{reference.RUNS['running']}/retry"),
            "no name and no config": answer(AUTOMATIONS, {}),
            "no key": seen(RUNS, {}),
            "unknown run": seen(f"{RUNS}/{NOBODY}"),
            "another tenant's run": seen(RUN, {"X-API-Key": KEY}),
            "malformed run": seen(f"{RUNS}/nonsense"),
            "unknown status": seen(f"{RUNS}?status=succeeded"),
        },
    )


# The hidden traps, by their numbers.


def test_trap_1_detail_is_a_list_with_422_and_a_text_elsewhere(
    client: FlaskClient, database: Database
) -> None:
    run = _failed(database)
    found = {
        client.application.test_client().get(RUNS).status_code: None,
        **{
            (answer := client.open(path, method=method)).status_code: answer.json
            for method, path in [
                ("GET", f"{RUNS}/{NOBODY}"), ("GET", f"{RUNS}/x"), ("PUT", RUNS),
                ("POST", f"{RUNS}/{run.id}/cancel"),
            ]
        },
    }  # fmt: skip
    found[401] = client.application.test_client().get(RUNS).json

    assert {status: type(body["detail"]) for status, body in found.items()} == {
        401: str, 404: str, 405: str, 409: str, 422: list,
    }  # fmt: skip
    assert all(list(body) == ["detail"] for body in found.values())


def test_trap_2_the_counters_need_not_add_up(client: FlaskClient, database: Database) -> None:
    run = _failed(database)

    told = body_of(client.get(f"{RUNS}/{run.id}/steps"))

    assert [step["status"] for step in told["steps"]] == ["completed", "failed", "skipped"]
    counted = [told[f"{word}Count"] for word in ("completed", "failed", "pending", "running")]
    assert counted == [1, 1, 0, 0]


def test_trap_3_the_stream_honours_the_cookie(client: FlaskClient, database: Database) -> None:
    run = _completed(database)
    browser = client.application.test_client()
    browser.set_cookie("vai_token", KEY)

    told = list(_told(_follow(browser, run)))

    assert told[-1]["event"] == "automation.completed"


def test_trap_4_events_are_unnamed(client: FlaskClient, database: Database) -> None:
    with client.get(f"{RUNS}/{_failed(database).id}/events") as answer:
        lines = answer.get_data(as_text=True).split("\n")

    assert lines[0] == "retry: 3000"
    assert {line.partition(":")[0] for line in lines if line} == {"retry", "id", "data"}
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Accel-Buffering"] == "no"


def test_trap_5_open_streams_hold_up_nobody(client: FlaskClient, database: Database) -> None:
    run = a_run(database)
    streams = [_follow(client, run) for _ in range(12)]  # the API has four connections
    try:
        assert [next(_told(each))["event"] for each in streams] == ["automation.triggered"] * 12
        assert client.get(f"{RUNS}/{run.id}").status_code == 200
    finally:
        for each in streams:
            each.close()  # type: ignore[attr-defined]


def test_trap_6_nothing_is_lost_between_the_replay_and_the_live_part(
    client: FlaskClient, database: Database
) -> None:
    run = a_run(database, a_spec(steps=2))
    told = _told(_follow(client, run))
    first = next(told)
    _end(database, run, "s1", Succeeded({}))  # while the reader is in between

    rest = list(islice(told, 2))
    _end(database, run, "s2", Succeeded({}))
    rest += told

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
    run = _completed(database)

    shown = body_of(client.get(f"{RUNS}/{run.id}"))

    assert UUID(shown["id"]).version == 7
    assert shown["createdAt"].endswith("Z")
    assert datetime.fromisoformat(shown["createdAt"]) == run.created_at  # to the microsecond


def test_trap_9_queries_are_snake_case_and_json_is_camel_case(
    client: FlaskClient, database: Database
) -> None:
    run = _failed(database)
    other = _failed(database)

    found = body_of(client.get(EVENTS, query_string={"resource_id": str(run.id)}))
    all_of_it = body_of(client.get(EVENTS, query_string={"resourceId": str(run.id)}))

    assert {event["resourceId"] for event in found["events"]} == {str(run.id)}
    assert {event["resourceId"] for event in all_of_it["events"]} == {str(run.id), str(other.id)}
    snake = {"mode": "from_step", "step_key": "s2"}
    assert _mistake(client, "POST", f"{RUNS}/{run.id}/retry", json=snake) == (
        ["body", "stepKey"], "value_error",
    )  # fmt: skip


# Runs.


def test_each_state_has_its_word(client: FlaskClient, database: Database, engine: Engine) -> None:
    words = {}
    for state in RunState:
        run = a_run(database)
        with engine.begin() as connection:
            given = {"id": run.id, "state": state, "ended": state in FINAL_RUNS}
            connection.execute(text(STATE), given)
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
        found = body_of(client.get(f"{RUNS}/{run.id}"))
        names = ("triggerType", "triggerSourceType", "triggerSourceId")
        assert [found[name] for name in names] == shown


def test_a_failed_run_says_why_where_and_how_long(client: FlaskClient, database: Database) -> None:
    run = _failed(database, concurrency_key="ledger")

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
    run = _running(database)
    with database.transaction() as session:
        locked = runs.locked(session, run.tenant_id, run.id)
        reason = "the run's timeout has passed"
        runs.stop(session, locked, grace=GRACE, reason=reason, timed_out=True)
    stopping = body_of(client.get(f"{RUNS}/{run.id}"))
    with database.transaction() as session:
        assert execution.lose(session, str(run.steps[0].task_id), "gone") is not None

    shown = body_of(client.get(f"{RUNS}/{run.id}"))

    assert (stopping["status"], stopping["error"]) == ("running", None)
    assert shown["status"] == "failed"
    assert shown["error"] == {"type": "timeout", "message": reason, "stepKey": None}
    last = list(_told(_follow(client, run)))[-1]
    assert last["event"] == "automation.failed"


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
    def asked(path: str) -> int:
        client.get(path)  # the connection knows its statements from here on
        with _statements(client) as counted:
            body_of(client.get(path))
        return len(counted)

    for path in (RUNS, AUTOMATIONS, EVENTS):
        a_run(database, a_spec("first"))
        few = asked(path)
        for name in "abc":
            a_run(database, a_spec(name, steps=3))
        assert asked(path) == few, path


WRONG_ADDRESSES = [
    (f"{RUNS}?status=nonsense", ["query", "status"], "enum"),
    (f"{RUNS}?status=", ["query", "status"], "enum"),
    (f"{RUNS}?limit=-1", ["query", "limit"], "greater_than_equal"),
    (f"{RUNS}?limit=1001", ["query", "limit"], "less_than_equal"),
    (f"{RUNS}?limit=ten", ["query", "limit"], "int_parsing"),
    (f"{RUNS}?limit=1.5", ["query", "limit"], "int_parsing"),
    (f"{RUNS}?offset=-1", ["query", "offset"], "greater_than_equal"),
    (f"{RUNS}?offset={10**30}", ["query", "offset"], "less_than_equal"),
    (f"{RUNS}?offset={'9' * 5000}", ["query", "offset"], "int_parsing"),
    (f"{RUNS}/x", ["path", "run_id"], "uuid_parsing"),
    (f"{RUNS}/1/steps", ["path", "run_id"], "uuid_parsing"),
    (f"{RUNS}/{NOBODY}0/events", ["path", "run_id"], "uuid_parsing"),
    (f"{AUTOMATIONS}/x", ["path", "automation_id"], "uuid_parsing"),
    (f"{AUTOMATIONS}?status=on", ["query", "status"], "enum"),
    (f"{EVENTS}?limit=0", ["query", "limit"], "greater_than_equal"),
    (f"{EVENTS}?limit=101", ["query", "limit"], "less_than_equal"),
    (f"{EVENTS}?event_type=run.created", ["query", "event_type"], "enum"),
    (f"{EVENTS}?resource_id=x", ["query", "resource_id"], "uuid_parsing"),
    (f"{EVENTS}?from=yesterday", ["query", "from"], "datetime_parsing"),
    (f"{EVENTS}?to=2026-13-01", ["query", "to"], "datetime_parsing"),
]


def test_a_wrong_address_says_what_is_wrong(client: FlaskClient) -> None:
    for path, *wrong in WRONG_ADDRESSES:
        assert list(_mistake(client, "GET", path)) == wrong, path


WRONG_RETRIES = [
    (b'{"mode":', ["body"], "json_invalid"),
    (b"[]", ["body"], "dict_type"),
    (b'"full"', ["body"], "dict_type"),
    (b'{"mode": "again"}', ["body", "mode"], "enum"),
    (b'{"mode": null}', ["body", "mode"], "enum"),
    (b'{"mode": 1}', ["body", "mode"], "enum"),
    (b'{"stepKey": 1}', ["body", "stepKey"], "string_type"),
    (b'{"mode": "from_step", "stepKey": null}', ["body", "stepKey"], "value_error"),
    (b'{"mode": "from_step", "stepKey": ""}', ["body", "stepKey"], "value_error"),
    (b'{"mode": "from_step", "stepKey": "a\\u0000"}', ["body", "stepKey"], "value_error"),
    (b'{"x": ' + b"[" * 100 + b"]" * 100 + b"}", ["body", "x"], "value_error"),
    (b'{"x": ' + b"[" * 100_000, ["body"], "value_error"),
    (b'{"x": "\xff"}', ["body"], "json_invalid"),
]


def test_a_wrong_retry_says_what_is_wrong_and_changes_nothing(
    client: FlaskClient, database: Database
) -> None:
    run = _failed(database)

    for body, loc, kind in WRONG_RETRIES:
        where, what = _mistake(client, "POST", f"{RUNS}/{run.id}/retry", data=body)
        assert (where[: len(loc)], what) == (loc, kind), body

    assert the_run(database, run).state == RunState.FAILED


def test_an_unknown_address_and_a_wrong_method_are_refused_in_its_form(
    client: FlaskClient,
) -> None:
    assert ADAPTER.refusal(client.get(f"{RUNS}/{NOBODY}/x")) == 404
    assert ADAPTER.refusal(client.delete(AUTOMATIONS)) == 405
    assert client.delete(AUTOMATIONS).headers["Allow"]
    assert client.get(f"{RUNS}x").json["code"] == "not_found"  # type: ignore[index] # not its own


def test_what_says_that_it_is_no_json_or_is_too_large_is_refused(
    client: FlaskClient, database: Database
) -> None:
    path = f"{RUNS}/{_failed(database).id}/retry"
    wrong = client.post(path, data=b"<mode/>", content_type="application/xml")
    large = client.post(path, data=b" " * 30_000_000, content_type="application/json")

    assert [ADAPTER.refusal(answer) for answer in (wrong, large)] == [415, 413]


# Who may ask.


def test_any_one_valid_credential_is_enough(client: FlaskClient, database: Database) -> None:
    wrong, key = {"Authorization": "Bearer wrong"}, {"X-API-Key": KEY}
    for headers, cookie in (
        ({"Authorization": f"Bearer {KEY}"}, "wrong"),
        (key, "wrong"),
        ({}, KEY),
        (wrong | key, "wrong"),
        (wrong | {"X-API-Key": "wrong"}, KEY),
    ):
        stranger = client.application.test_client()
        stranger.set_cookie("vai_token", cookie)
        assert stranger.get(RUNS, headers=headers).status_code == 200
        run = _failed(database)
        assert stranger.post(f"{RUNS}/{run.id}/retry", headers=headers).status_code == 200


def test_the_cookie_changes_nothing_for_another_sites_page(client: FlaskClient) -> None:
    browser = client.application.test_client()
    browser.set_cookie("vai_token", KEY)

    answer = browser.post(f"{RUNS}/{NOBODY}/cancel", headers={"Sec-Fetch-Site": "cross-site"})

    assert ADAPTER.refusal(answer) == 401
    assert ADAPTER.refusal(browser.post(f"{RUNS}/{NOBODY}/cancel")) == 404


def test_nobody_is_not_authenticated(client: FlaskClient) -> None:
    stranger = client.application.test_client()
    stranger.set_cookie("vai_token", "wrong")
    nobody = [{}, {"Authorization": "Bearer x"}, {"X-API-Key": "x"}]
    for path in (RUNS, f"{RUNS}/x", f"{RUNS}/{NOBODY}/events", EVENTS, f"{AUTOMATIONS}/x/y"):
        for headers in nobody:
            answer = stranger.get(path, headers=headers)
            assert (answer.status_code, answer.json) == (401, {"detail": "Not authenticated"})


@pytest.mark.usefixtures("no_keys_left")
def test_a_key_does_what_its_role_and_scopes_let_it(
    client: FlaskClient, database: Database
) -> None:
    run = _failed(database)
    viewer = with_key(client, a_key(client, "viewer")["key"])
    operator = with_key(client, a_key(client, "operator")["key"])
    scoped = with_key(client, a_key(client, scopes=["runs"])["key"])
    made = {"name": "n", "config": a_spec()}
    path = f"{AUTOMATIONS}/{run.workflow_id}"

    assert viewer.get(RUNS).status_code == 200
    assert ADAPTER.refusal(viewer.post(f"{RUNS}/{run.id}/cancel")) == 403
    assert ADAPTER.refusal(viewer.post(f"{RUNS}/{run.id}/retry")) == 403
    assert ADAPTER.refusal(viewer.post(f"{path}/runs")) == 403
    assert ADAPTER.refusal(operator.post(AUTOMATIONS, json=made)) == 403
    assert scoped.post(f"{path}/runs").status_code == 200
    assert [ADAPTER.refusal(scoped.get(where)) for where in (AUTOMATIONS, EVENTS)] == [403, 403]


# Steps.


def test_a_step_shows_its_attempt_and_what_it_gave(client: FlaskClient, database: Database) -> None:
    run = _failed(database)

    first, second, third = body_of(client.get(f"{RUNS}/{run.id}/steps"))["steps"]

    assert first["result"] == {"rows": 812}
    assert first["actionRunId"] == str(uuid5(run.steps[0].id, "1"))
    assert second["error"] == {
        "type": "HTTPError", "message": "HTTP 503 from target", "stepKey": "s2",
    }  # fmt: skip
    assert (third["actionRunId"], third["dependsOn"]) == (None, ["s2"])


def test_a_result_is_an_object_of_at_most_64_kib(client: FlaskClient, database: Database) -> None:
    for result, *shown in [
        (None, None, False),
        ([1, 2], {"value": [1, 2]}, False),
        ("text", {"value": "text"}, False),
        ({}, {}, False),
        ({"a": "x" * (64 * 1024 - 8)}, {"a": "x" * (64 * 1024 - 8)}, False),  # 64 KiB as JSON
        ({"a": "x" * (64 * 1024 - 7)}, {}, True),
        ({"a": 1, "b": "é" * 40_000, "c": 2}, {"a": 1}, True),
        ("x" * 70_000, {}, True),
    ]:
        run = a_run(database)
        _end(database, run, "s1", Succeeded(result))
        (step,) = body_of(client.get(f"{RUNS}/{run.id}/steps"))["steps"]
        assert [step["result"], step["resultTruncated"]] == shown


def test_a_result_that_is_a_file_is_truncated(client: FlaskClient, database: Database) -> None:
    run = a_run(database)
    _end(database, run, "s1", Succeeded(None, text="{}", artifact=UUID(NOBODY)))

    (step,) = body_of(client.get(f"{RUNS}/{run.id}/steps"))["steps"]

    assert (step["result"], step["resultTruncated"]) == (None, True)


# Cancel and retry.


def test_a_waiting_run_is_cancelled_at_once(client: FlaskClient, database: Database) -> None:
    run = a_run(database)

    shown = body_of(client.post(f"{RUNS}/{run.id}/cancel", content_type="application/json"))

    assert shown["status"] == "cancelled"
    assert shown["completedAt"] is not None
    again = client.post(f"{RUNS}/{run.id}/cancel")
    assert again.status_code == 409
    assert again.json == {"detail": "Run is already in a terminal state: cancelled"}


def test_a_running_run_is_running_until_it_lets_go_and_cancelling_again_changes_nothing(
    client: FlaskClient, database: Database
) -> None:
    run = _running(database)

    first = body_of(client.post(f"{RUNS}/{run.id}/cancel"))
    before = the_run(database, run)
    second = body_of(client.post(f"{RUNS}/{run.id}/cancel"))

    assert first["status"] == second["status"] == "running"
    after = the_run(database, run)
    assert before.state == RunState.CANCELLING
    assert (after.stop_by, after.event_seq) == (before.stop_by, before.event_seq)


def test_a_failed_run_is_retried_in_place(client: FlaskClient, database: Database) -> None:
    for body, again in [
        (None, ["s2", "s3"]),
        ({}, ["s2", "s3"]),
        ({"mode": "from_failed", "stepKey": "nonsense"}, ["s2", "s3"]),
        ({"mode": "from_step", "stepKey": "s2", "more": 1}, ["s2", "s3"]),
        ({"mode": "from_step", "stepKey": "s1"}, ["s1", "s2", "s3"]),
        ({"mode": "full"}, ["s1", "s2", "s3"]),
    ]:
        run = _failed(database)
        shown = body_of(client.post(f"{RUNS}/{run.id}/retry", json=body))
        assert (shown["id"], shown["status"]) == (str(run.id), "pending")
        cleared = ("startedAt", "completedAt", "error", "durationSeconds")
        assert [shown[name] for name in cleared] == [None] * 4
        assert run.finished_at is not None
        assert datetime.fromisoformat(shown["updatedAt"]) > run.finished_at
        steps = body_of(client.get(f"{RUNS}/{run.id}/steps"))["steps"]
        assert [step["key"] for step in steps if step["status"] != "completed"] == again


def test_a_retry_keeps_the_version_and_the_earlier_attempts(
    client: FlaskClient, database: Database
) -> None:
    run = _failed(database)
    a_run(database, a_spec(steps=1))  # a newer version

    shown = body_of(client.post(f"{RUNS}/{run.id}/retry"))

    assert shown["automationVersionId"] == str(run.version_id)
    with database.transaction() as session:
        assert len(runs.attempts(session, run.steps[1])) == 1


def test_a_cancelled_run_is_retried_and_a_completed_one_only_from_a_step_or_whole(
    client: FlaskClient, database: Database
) -> None:
    cancelled, completed = a_run(database), _completed(database)
    client.post(f"{RUNS}/{cancelled.id}/cancel")

    assert body_of(client.post(f"{RUNS}/{cancelled.id}/retry"))["status"] == "pending"
    assert ADAPTER.refusal(client.post(f"{RUNS}/{completed.id}/retry")) == 409
    asked = {"mode": "from_step", "stepKey": "s1"}
    again = client.post(f"{RUNS}/{completed.id}/retry", json=asked)
    assert body_of(again)["status"] == "pending"
    unfinished = client.post(f"{RUNS}/{completed.id}/retry", json={"mode": "full"})
    assert ADAPTER.refusal(unfinished) == 409


# The stream.


def test_a_stream_tells_what_is_published_and_leaves_the_rest_out(
    client: FlaskClient, database: Database
) -> None:
    run = _failed(database)

    told = list(_told(_follow(client, run)))

    assert sorted(each["event"] for each in told[:3]) == [
        "action.started", "automation.started", "automation.triggered",
    ]  # fmt: skip
    assert [each["event"] for each in told[3:]] == [
        "action.completed", "action.started", "action.failed", "action.skipped",
        "automation.failed",
    ]  # fmt: skip
    assert list(told[0]) == [
        "event", "data", "id", "eventType", "resourceType", "resourceId", "tenantId",
        "occurredAt", "payload",
    ]  # fmt: skip
    assert told[3]["data"] == told[3]["payload"] == {"stepKey": "s1", "attempt": 1}
    assert {(each["resourceType"], each["resourceId"]) for each in told} == {
        ("automation_run", str(run.id))
    }


def test_progress_is_told_as_it_is_made(client: FlaskClient, database: Database) -> None:
    run = _running(database)
    said = {"percent": 40, "stage": "loading", "message": None}
    with database.transaction() as session:
        store.lock_run(session, run.id)
        events.note(session, run.id, "step.progress", step="s1", attempt=1, **said)
        runs.cancel(session, run.tenant_id, run.id, grace=GRACE)

    parts = _follow(client, run)
    told = list(islice(_told(parts), 4))
    parts.close()  # type: ignore[attr-defined]

    assert told[-1]["event"] == "action.progress"
    assert told[-1]["data"] == {"stepKey": "s1", "attempt": 1, **said}


def test_a_reader_that_comes_again_gets_the_rest_and_then_nothing(
    client: FlaskClient, database: Database
) -> None:
    run = _failed(database)
    told = list(_told(_follow(client, run)))

    rest = list(_told(_follow(client, run, **{"Last-Event-ID": told[3]["id"]})))
    seen = {"Last-Event-ID": told[-1]["id"]}

    assert rest == told[4:]
    assert client.get(f"{RUNS}/{run.id}/events", headers=seen).status_code == 204
    wrong = {"Last-Event-ID": "x"}
    path = f"{RUNS}/{run.id}/events"
    assert _mistake(client, "GET", path, headers=wrong) == (
        ["header", "last-event-id"], "value_error",
    )  # fmt: skip
    assert ADAPTER.refusal(client.get(f"{RUNS}/{NOBODY}/events")) == 404


def test_events_without_a_name_keep_no_stream_silent(
    client: FlaskClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "KEEP_ALIVE", 0.2)  # it is 15 seconds
    run = a_run(database)
    parts = _follow(client, run)
    assert next(parts) == "retry: 3000\n\n"
    assert "automation.triggered" in next(parts)

    for _ in range(2):
        with database.transaction() as session:
            store.lock_run(session, run.id)
            events.note(session, run.id, "run.noted")
        assert next(parts) == ": keep-alive\n\n"
    with database.transaction() as session:
        runs.cancel(session, run.tenant_id, run.id, grace=timedelta(0))

    assert list(_told(parts))[-1]["event"] == "automation.cancelled"


# Automations.

CONFIG = {
    "params": {"type": "object", "properties": {"day": {"type": "integer"}}},
    "steps": [{"key": "load", "uses": "noop"}],
}


def test_an_automation_is_made_shown_run_and_made_anew(client: FlaskClient) -> None:
    asked = {
        "name": "Invoice Export!", "config": CONFIG, "description": "of a day",
        "orchestratorType": "local", "triggerType": "webhook", "templateId": "t1", "more": 1,
    }  # fmt: skip
    made = body_of(client.post(AUTOMATIONS, json=asked))
    run = body_of(client.post(f"{AUTOMATIONS}/{made['id']}/runs", json={"input": {"day": 3}}))
    shown = body_of(client.get(f"{AUTOMATIONS}/{made['id']}"))
    next_one = body_of(client.post(AUTOMATIONS, json=asked | {"config": CONFIG | {"priority": 8}}))

    assert {name: made[name] for name in asked if name not in ("config", "more")} == {
        name: asked[name] for name in asked if name not in ("config", "more")
    }
    assert made["config"] == CONFIG | {"description": "of a day"}
    assert made["latestRun"] is None
    assert (run["automationId"], run["versionNumber"]) == (made["id"], 1)
    assert (run["orchestratorType"], run["triggerSourceType"]) == ("local", "api_key")
    assert shown["latestRun"] == {
        "id": run["id"], "status": "pending", "startedAt": None, "completedAt": None,
        "versionNumber": 1,
    }  # fmt: skip
    assert next_one["id"] == made["id"]
    assert next_one["versionsSummary"] == {"count": 2, "activeCount": 1, "hasDraft": False}


def test_automations_are_listed_newest_first_by_status(
    client: FlaskClient, database: Database
) -> None:
    for name in "abc":
        a_run(database, a_spec(name))

    page = body_of(client.get(f"{AUTOMATIONS}?limit=2&status=active"))
    rest = body_of(client.get(f"{AUTOMATIONS}?limit=2&offset=2"))

    assert [each["name"] for each in (*page["items"], *rest["items"])] == ["c", "b", "a"]
    assert page["total"] == rest["total"] == 3
    assert page["items"][0]["config"] == {"steps": [{"key": "s1", "uses": "noop"}]}
    for status in ("draft", "archived"):
        found = body_of(client.get(AUTOMATIONS, query_string={"status": status}))
        assert found == {"items": [], "total": 0}


WRONG_AUTOMATIONS: list[tuple[Any, list[Any], str]] = [
    ({"config": CONFIG}, ["body", "name"], "missing"),
    ({"name": "n"}, ["body", "config"], "missing"),
    ({"name": "", "config": CONFIG}, ["body", "name"], "string_too_short"),
    ({"name": "n" * 256, "config": CONFIG}, ["body", "name"], "string_too_long"),
    ({"name": 1, "config": CONFIG}, ["body", "name"], "string_type"),
    ({"name": "n", "config": []}, ["body", "config"], "dict_type"),
    ({"name": "n", "config": {}}, ["body", "config"], "value_error"),
    (
        {"name": "n", "config": {"steps": [{"key": "a"}]}},
        ["body", "config", "steps", 0],
        "value_error",
    ),
    (
        {"name": "n", "config": CONFIG, "orchestratorType": "x"},
        ["body", "orchestratorType"],
        "enum",
    ),
    ({"name": "n", "config": CONFIG, "triggerType": "x"}, ["body", "triggerType"], "enum"),
]


def test_a_wrong_automation_says_what_is_wrong_and_nothing_is_made(client: FlaskClient) -> None:
    for body, *wrong in WRONG_AUTOMATIONS:
        assert list(_mistake(client, "POST", AUTOMATIONS, json=body)) == wrong, body

    assert body_of(client.get(AUTOMATIONS))["total"] == 0


def test_two_names_that_would_be_one_workflow_are_a_conflict(client: FlaskClient) -> None:
    first = {"name": "Invoice Export", "config": CONFIG}
    made = body_of(client.post(AUTOMATIONS, json=first))

    second = client.post(AUTOMATIONS, json={"name": "invoice: export", "config": CONFIG})

    assert ADAPTER.refusal(second) == 409
    shown = body_of(client.get(f"{AUTOMATIONS}/{made['id']}"))
    assert (shown["name"], shown["versionsSummary"]["count"]) == ("Invoice Export", 1)
    for name in ("日本", "中国"):
        assert body_of(client.post(AUTOMATIONS, json=first | {"name": name}))["name"] == name


def test_a_wrong_input_says_what_is_wrong_and_starts_nothing(client: FlaskClient) -> None:
    made = body_of(client.post(AUTOMATIONS, json={"name": "n", "config": CONFIG}))
    path = f"{AUTOMATIONS}/{made['id']}/runs"

    wrong = _mistake(client, "POST", path, json={"input": {"day": "x"}})
    assert wrong == (["body", "input", "day"], "value_error")
    assert _mistake(client, "POST", path, json={"input": []}) == (["body", "input"], "dict_type")
    assert _mistake(client, "POST", path, json={"concurrencyKey": ""}) == (
        ["body", "concurrencyKey"], "string_too_short",
    )  # fmt: skip
    unknown = client.post(f"{AUTOMATIONS}/{NOBODY}/runs")
    assert (unknown.status_code, unknown.json) == (404, {"detail": "Automation not found"})
    assert body_of(client.get(RUNS))["total"] == 0


def test_runs_with_the_same_concurrency_key_go_one_after_the_other(
    client: FlaskClient, database: Database
) -> None:
    made = body_of(client.post(AUTOMATIONS, json={"name": "n", "config": CONFIG}))
    path, asked = f"{AUTOMATIONS}/{made['id']}/runs", {"concurrencyKey": "ledger"}
    first, second = (body_of(client.post(path, json=asked)) for _ in range(2))

    assert (first["concurrencyKey"], second["status"]) == ("ledger", "pending")
    assert first["externalJobId"] is not None
    assert second["externalJobId"] is None
    body_of(client.post(f"{RUNS}/{first['id']}/cancel"))
    with database.transaction() as session:
        assert runs.get(session, UUID(second["tenantId"]), UUID(second["id"])).due


# Events of the tenant.


def test_events_are_found_by_what_happened_to_what_and_when(
    client: FlaskClient, database: Database
) -> None:
    run, other = _failed(database), _completed(database)

    def found(**query: Any) -> list[tuple[str, str]]:
        page = body_of(client.get(EVENTS, query_string=query))
        assert page["total"] == len(page["events"])
        return [(event["eventType"], event["resourceId"]) for event in page["events"]]

    assert found(event_type="automation.failed") == [("automation.failed", str(run.id))]
    assert found(event_type="schedule.fired") == []
    assert found(resource_type="automation_run") == found()
    assert found(resource_type="schedule") == []
    assert found(resource_id=str(other.id))[0] == ("automation.completed", str(other.id))
    moment = other.created_at.isoformat().replace("+00:00", "Z")
    assert {each for _, each in found(**{"from": moment})} == {str(other.id)}
    assert {each for _, each in found(to=moment)} == {str(run.id)}


def test_events_come_in_pages_newest_first(client: FlaskClient, database: Database) -> None:
    _failed(database)
    whole = body_of(client.get(EVENTS))

    pages = [body_of(client.get(f"{EVENTS}?limit=3&offset={at}")) for at in (0, 3, 6)]

    assert [event for page in pages for event in page["events"]] == whole["events"]
    assert [page["hasNext"] for page in pages] == [True, True, False]
    assert {(page["limit"], page["total"]) for page in pages} == {(3, 8)}
    moments = [event["occurredAt"] for event in whole["events"]]
    assert moments == sorted(moments, reverse=True)


def test_the_document_has_every_address_with_its_refusals(client: FlaskClient) -> None:
    document: Any = client.get("/openapi/virtuousai.json").json

    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in ("get", "post")
    }
    assert sorted(operations) == sorted(
        [
            f"GET {RUNS}", f"GET {RUNS}/{{run_id}}", f"POST {RUNS}/{{run_id}}/cancel",
            f"GET {RUNS}/{{run_id}}/events", f"POST {RUNS}/{{run_id}}/retry",
            f"GET {RUNS}/{{run_id}}/steps", f"GET {AUTOMATIONS}", f"POST {AUTOMATIONS}",
            f"GET {AUTOMATIONS}/{{automation_id}}", f"POST {AUTOMATIONS}/{{automation_id}}/runs",
            f"GET {EVENTS}",
        ]
    )  # fmt: skip
    for operation in operations.values():
        shown = json.dumps(operation["responses"])
        assert "#/components/schemas/Unprocessable" in shown
        assert "#/components/schemas/Refused" in shown
        assert operation["summary"]
    retry = document["components"]["schemas"]["RetryAsked"]["properties"]
    assert sorted(retry) == ["mode", "stepKey"]
