"""Mage's pipeline runs: the published samples, what clients rely on, and its refusals."""

import json
import re
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import event, text, update

from api.contracts.mage import place, shapes
from api.problems import Problem
from orchestrator.db import Database
from orchestrator.models import Run
from orchestrator.outcomes import Failed, Succeeded
from orchestrator.states import RunState
from tests.factories import KEY, a_run, a_spec
from tests.integration.contracts.mage_tools import (
    PIPELINE,
    RUNS,
    SPEC,
    a_trigger,
    address,
    answered,
    listed,
    play,
    put,
    refused,
    shown,
    started,
)
from tests.keys import a_key, with_key

MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{6})?\+00:00")
RECORD_NOT_FOUND = {"code": 404, "message": "Record not found.", "type": "record_not_found"}
CANCEL = {"pipeline_run": {"status": "cancelled"}}


@pytest.fixture
def nobody(client: FlaskClient) -> FlaskClient:
    """A client without a key."""
    return client.application.test_client(use_cookies=False)


def test_a_trigger_starts_a_run(
    client: FlaskClient, database: Database, nobody: FlaskClient
) -> None:
    trigger = a_trigger(client, database)
    body = {"pipeline_run": {"variables": {"day": "2026-04-01"}}, "source": "billing"}

    reply = nobody.post(address(trigger), data=json.dumps(body))

    (run,) = answered(reply).values()  # no metadata
    times = [run.pop(name) for name in ("created_at", "updated_at", "execution_date")]
    assert all(MOMENT.fullmatch(time) for time in times)
    assert isinstance(run.pop("id"), int)
    assert run == {
        "pipeline_schedule_id": trigger["id"],
        "pipeline_uuid": PIPELINE,
        "status": "running",
        "started_at": None,
        "completed_at": None,
        "variables": {"day": "2026-04-01"},
        "passed_sla": False,
        "event_variables": {"source": "billing"},
        "metrics": None,
        "backfill_id": None,
        "executor_type": "local_python",
    }


def test_the_other_trigger_address_takes_the_token_as_bearer(
    client: FlaskClient, database: Database, nobody: FlaskClient
) -> None:
    trigger = a_trigger(client, database)
    path = f"/api/pipeline_schedules/{trigger['id']}/api_trigger"

    reply = nobody.post(path, headers={"Authorization": f"Bearer {trigger['token']}"})

    run = answered(reply)["pipeline_run"]
    assert (run["variables"], run["event_variables"]) == ({}, {})
    wrong: Any = nobody.post(path).json
    assert wrong["url_parameters"] == {"pipeline_schedule_id": str(trigger["id"])}


def test_the_runs_of_a_trigger_are_listed(client: FlaskClient, database: Database) -> None:
    trigger = a_trigger(client, database)
    first, second = (started(client, trigger)["id"] for _ in range(2))

    path = f"/api/pipeline_schedules/{trigger['id']}/pipeline_runs"
    page = answered(client.get(path, query_string={"_limit": 1, "_offset": 0}))

    assert page["metadata"] == {"count": 2, "next": True}
    (run,) = page["pipeline_runs"]
    assert run["id"] == second
    assert [block["block_uuid"] for block in run["block_runs"]] == ["s1", "s2", "s3"]
    assert {block["pipeline_run_id"] for block in run["block_runs"]} == {second}
    assert (run["block_runs_count"], run["completed_block_runs_count"]) == (3, 0)
    assert run["pipeline_schedule_name"] == "invoices by API"
    assert run["pipeline_schedule_token"] == trigger["token"]
    assert run["pipeline_schedule_type"] == "api"
    assert listed(client, path, _limit=1, _offset=1) == [first]


def test_a_cancel_of_a_finished_run_does_nothing(client: FlaskClient, database: Database) -> None:
    number = started(client, a_trigger(client, database))["id"]
    play(database, number, Succeeded(), Succeeded(), Succeeded())
    before = shown(client, number)
    del before["block_runs"]

    reply = client.put(f"{RUNS}/{number}", json=CANCEL)

    assert answered(reply) == {"pipeline_run": before, "metadata": None}
    assert before["status"] == "completed"
    assert MOMENT.fullmatch(before["completed_at"])


def test_errors_have_real_codes_only_when_asked_for(client: FlaskClient) -> None:
    plain, real = client.get(f"{RUNS}/999999"), client.get(f"{RUNS}/999999?_http_error_codes=1")

    assert (plain.status_code, real.status_code) == (200, 404)
    assert plain.json == {"error": RECORD_NOT_FOUND, "status": 200}
    assert real.json == {"error": RECORD_NOT_FOUND, "status": 404}


def test_trap_1_a_trigger_reads_json_whatever_it_is_called(
    client: FlaskClient, database: Database, nobody: FlaskClient
) -> None:
    path = address(a_trigger(client, database))

    for kind in ("application/x-www-form-urlencoded", "", "text/plain", "a/b"):
        headers = {"Content-Type": kind} if kind else {}
        run = answered(nobody.post(path, data='{"n": 1}', headers=headers))["pipeline_run"]
        assert run["event_variables"] == {"n": 1}


def test_trap_2_errors_are_told_with_200(client: FlaskClient) -> None:
    replies = [
        client.get(f"{RUNS}/nope"),
        client.get(RUNS, query_string={"_limit": "x"}),
        client.put(f"{RUNS}/1", json={}),
        client.delete(f"{RUNS}/1"),
        client.post("/api/pipeline_schedules/1/pipeline_runs/x"),
    ]

    assert {reply.status_code for reply in replies} == {200}
    assert all("error" in (reply.json or {}) for reply in replies)


def test_trap_3_a_queued_run_is_running(client: FlaskClient, database: Database) -> None:
    run = started(client, a_trigger(client, database))

    with database.transaction() as session:
        state = session.execute(text("SELECT state FROM runs WHERE number = :id"), run).scalar()
    assert (state, run["status"], run["started_at"]) == ("queued", "running", None)


def test_trap_4_cancelled_has_two_ls(client: FlaskClient, database: Database) -> None:
    number = started(client, a_trigger(client, database))["id"]

    run = answered(put(client, number, status="cancelled"))["pipeline_run"]

    assert (run["status"], run["completed_at"]) == ("cancelled", None)
    assert {block["status"] for block in shown(client, number)["block_runs"]} == {"cancelled"}
    refused(put(client, number, status="canceled"), 400, "record_invalid")


def test_trap_5_ids_are_integers(client: FlaskClient, database: Database) -> None:
    a_run(database, SPEC)  # without a trigger

    (run,) = answered(client.get(RUNS))["pipeline_runs"]

    (trigger, *blocks) = run["pipeline_schedule_id"], *run["block_runs"]
    assert trigger == 0
    ids = [run["id"], trigger, *(block["id"] for block in blocks)]
    assert all(type(each) is int for each in ids)


def test_trap_6_dates_are_as_python_writes_them(client: FlaskClient, database: Database) -> None:
    number = a_run(database).number
    whole, part = datetime(2023, 3, 1, 22, 4, tzinfo=UTC), timedelta(microseconds=43)
    with database.transaction() as session:
        dates = {"logical_date": whole, "created_at": whole + part}
        session.execute(update(Run).where(Run.number == number).values(dates))

    run = shown(client, number)

    assert run["execution_date"] == "2023-03-01 22:04:00+00:00"
    assert run["created_at"] == "2023-03-01 22:04:00.000043+00:00"


def test_trap_7_creates_answer_200(client: FlaskClient, database: Database) -> None:
    trigger = a_trigger(client, database)

    reply = client.post(f"/api/pipeline_schedules/{trigger['id']}/pipeline_runs", json={})

    assert reply.status_code == 200
    assert answered(reply)["metadata"] is None


def test_trap_8_count_is_of_all_pages_and_next_of_one_more_row(
    client: FlaskClient, database: Database
) -> None:
    for _ in range(3):
        a_run(database)

    for limit, offset, rows, more in ((2, 0, 2, True), (2, 1, 2, False), (0, 0, 0, True)):
        page = answered(client.get(RUNS, query_string={"_limit": limit, "_offset": offset}))
        assert page["metadata"] == {"count": 3, "next": more}
        assert len(page["pipeline_runs"]) == rows


def test_trap_9_a_key_in_the_body_is_no_event_variable(
    client: FlaskClient, database: Database, nobody: FlaskClient
) -> None:
    trigger = a_trigger(client, database)
    body = json.dumps({"api_key": KEY, "source": "billing"})

    by_token = answered(nobody.post(address(trigger), data=body))["pipeline_run"]
    by_key = nobody.post(f"/api/pipeline_schedules/{trigger['id']}/pipeline_runs", data=body)

    assert by_token["event_variables"] == {"source": "billing"}
    assert answered(by_key)["pipeline_run"]["event_variables"] == {}


def test_every_state_has_its_word(client: FlaskClient, database: Database) -> None:
    number = a_run(database).number
    words = {}
    for state in RunState:
        with database.transaction() as session:
            session.execute(update(Run).where(Run.number == number).values(state=state))
        words[state.value] = shown(client, number)["status"]

    assert words == {
        "pending": "initial",
        "queued": "running",
        "running": "running",
        "succeeded": "completed",
        "failed": "failed",
        "timed_out": "failed",
        "cancelling": "cancelled",
        "cancelled": "cancelled",
    }


def test_blocks_tell_how_they_ended(client: FlaskClient, database: Database) -> None:
    spec = {
        "name": "branches",
        "steps": [
            {"key": "load", "uses": "noop"},
            {"key": "fail", "uses": "noop", "needs": ["load"]},
            {"key": "after", "uses": "noop", "needs": ["fail"]},
            {"key": "off", "uses": "noop", "needs": [], "enabled": False},
        ],
    }
    number = a_run(database, spec).number
    failed = Failed("HTTP 503 from target", ("HTTPError",), traceback="Traceback:\n  push()")
    play(database, number, Succeeded(), failed)

    run = shown(client, number)

    assert run["status"] == "failed"
    assert MOMENT.fullmatch(run["completed_at"])
    blocks = {block["block_uuid"]: block for block in run["block_runs"]}
    assert {key: block["status"] for key, block in blocks.items()} == {
        "load": "completed",
        "fail": "failed",
        "after": "upstream_failed",
        "off": "condition_failed",
    }
    assert blocks["load"]["metrics"] is None
    assert blocks["fail"]["metrics"] == {
        "error": {
            "error": "HTTP 503 from target",
            "errors": ["Traceback:", "  push()"],
            "message": "Traceback:\n  push()",
        }
    }
    assert {block["pipeline_schedule_id"] for block in blocks.values()} == {0}


def test_retry_blocks_runs_again_in_the_same_run(client: FlaskClient, database: Database) -> None:
    number = started(client, a_trigger(client, database))["id"]
    play(database, number, Succeeded(), Failed("no"))

    run = answered(put(client, number, pipeline_run_action="retry_blocks"))["pipeline_run"]

    assert (run["id"], run["status"], run["completed_at"]) == (number, "running", None)
    play(database, number, Succeeded(), Succeeded())
    assert shown(client, number)["status"] == "completed"


def test_retry_blocks_of_a_completed_run_needs_a_block(
    client: FlaskClient, database: Database
) -> None:
    number = started(client, a_trigger(client, database))["id"]
    play(database, number, *[Succeeded()] * 3)
    action = {"pipeline_run_action": "retry_blocks"}

    unchanged = answered(put(client, number, **action))["pipeline_run"]
    again = answered(put(client, number, **action, from_block_uuid="s2"))["pipeline_run"]

    assert (unchanged["status"], again["status"]) == ("completed", "running")
    statuses = [block["status"] for block in shown(client, number)["block_runs"]]
    assert statuses == ["completed", "queued", "initial"]
    refused(put(client, number, **action), 400, "api_resource_error")  # it goes on
    play(database, number, *[Succeeded()] * 2)
    unknown = put(client, number, **action, from_block_uuid="nope")
    (told,) = refused(unknown, 400, "record_invalid")["errors"]
    assert told.startswith("/pipeline_run/from_block_uuid: ")


def test_a_run_is_deleted_once_it_has_ended(client: FlaskClient, database: Database) -> None:
    number = a_run(database, SPEC).number
    told = refused(client.delete(f"{RUNS}/{number}"), 400, "api_resource_error")
    assert "cancel it first" in told["message"]
    put(client, number, status="cancelled")

    gone = answered(client.delete(f"{RUNS}/{number}"))

    assert (gone["pipeline_run"]["id"], gone["metadata"]) == (number, None)
    refused(client.get(f"{RUNS}/{number}"), 404, "record_not_found")
    assert answered(client.get(RUNS))["metadata"] == {"count": 0, "next": False}


def test_block_runs_are_listed(client: FlaskClient, database: Database) -> None:
    number = a_run(database, SPEC).number

    page = answered(client.get(f"{RUNS}/{number}/block_runs?_limit=2"))
    other = answered(client.get(f"/api/block_runs?pipeline_run_id={number}&_offset=2"))

    assert page["metadata"] == {"count": 3, "next": True}
    assert other["metadata"] == {"count": 3, "next": False}
    found = [*page["block_runs"], *other["block_runs"]]
    assert [block["block_uuid"] for block in found] == ["s1", "s2", "s3"]
    refused(client.get("/api/block_runs"), 400, "record_invalid")


def test_filters_choose_runs(client: FlaskClient, database: Database) -> None:
    waits = a_run(database, a_spec("load", tags=["nightly"]), start=False)
    queued = a_run(database, a_spec("push", tags=["hourly"]))
    ended = a_run(database, a_spec("push"), logical_date=datetime(2020, 1, 1, tzinfo=UTC))
    put(client, ended.number, status="cancelled")
    begin, end = waits.created_at.timestamp(), queued.created_at.timestamp()

    found: dict[str, list[int]] = {
        str(query): listed(client, **query)
        for query in (
            {},
            {"status": "initial"},
            {"status[]": "initial,cancelled"},
            {"status[]": ["initial", "cancelled"]},
            {"pipeline_uuid": "push"},
            {"pipeline_uuid[]": "push,load", "status": "running"},
            {"pipeline_tag[]": "nightly,none"},
            {"start_timestamp": f"{begin:.6f}", "end_timestamp": f"{end:.6f}"},
            {"order_by[]": "created_at desc,id asc"},
            {"order_by[]": "id asc"},
            {"backfill_id": 12},
            {"disable_retries_grouping": "true", "include_pipeline_type": 1, "no_name": 1},
        )
    }

    first, second, third = (run.number for run in (waits, queued, ended))
    assert list(found.values()) == [
        [second, first, third],  # the third stands for the earliest date
        [first],
        [first, third],
        [first, third],
        [second, third],
        [second],
        [first],
        [second, first],
        [third, second, first],
        [first, second, third],
        [],
        [second, first, third],
    ]


def test_the_last_failed_run_of_a_date_is_the_last_one_of_it(
    client: FlaskClient, database: Database
) -> None:
    trigger = a_trigger(client, database)
    repaired, broken = (started(client, trigger)["id"] for _ in range(2))
    for number in (repaired, broken):
        play(database, number, Failed("no"))
    body = {"pipeline": {"status": "retry", "pipeline_runs": [shown(client, repaired)]}}
    answered(client.put(f"/api/pipelines/{PIPELINE}", json=body))

    again = max(listed(client))
    assert shown(client, again)["execution_date"] == shown(client, repaired)["execution_date"]
    assert listed(client, status="last_run_failed") == [broken]
    assert listed(client, status="failed") == [broken, repaired]


def test_a_trigger_may_call_cancelled_what_ran_too_long(
    client: FlaskClient, database: Database
) -> None:
    settings = {"timeout": 60, "timeout_status": "cancelled"}
    odd = started(client, a_trigger(client, database, settings=settings))["id"]
    plain = started(client, a_trigger(client, database))["id"]
    with database.transaction() as session:
        late = update(Run).where(Run.number.in_([odd, plain]))
        session.execute(late.values(state=RunState.TIMED_OUT))
        timeout = session.execute(text("SELECT timeout FROM runs WHERE number = :n"), {"n": odd})
        assert timeout.scalar() == timedelta(seconds=60)

    assert (shown(client, odd)["status"], shown(client, plain)["status"]) == ("cancelled", "failed")
    assert listed(client, status="cancelled") == [odd]
    assert listed(client, status="failed") == [plain]
    assert len(listed(client, **{"status[]": "failed,cancelled"})) == 2


def _keys(secret: str) -> list[dict[str, Any]]:
    return [
        {"headers": {"Authorization": f"Bearer {secret}"}},
        {"headers": {"X-API-KEY": secret}},
        {"headers": {"OAUTH-TOKEN": secret}},
        {"headers": {"Cookie": f"oauth_token={secret}"}},
        {"query_string": {"api_key": secret}},
        {"data": json.dumps({"api_key": secret})},
    ]


def test_a_key_comes_in_many_ways(nobody: FlaskClient) -> None:
    for number, (right, wrong) in enumerate(zip(_keys(KEY), _keys("wrong"), strict=True)):
        assert nobody.get(RUNS, **right).status_code == 200
        reply = nobody.get(RUNS, **wrong)
        kind = "invalid_api_key" if number in (1, 4, 5) else "invalid_oauth_token"
        assert refused(reply, 401, kind)["message"].startswith("Invalid ")
        assert reply.json is not None
        assert (reply.status_code, reply.json["status"]) == (401, 200)


def test_a_wrong_key_is_refused_as_published(nobody: FlaskClient) -> None:
    error = {"code": 401, "message": "Invalid API key.", "type": "invalid_api_key"}

    assert nobody.get(RUNS).json == {"error": error, "status": 200}
    real = nobody.get(f"{RUNS}?_http_error_codes=1")
    assert real.json == {"error": error, "status": 401}


@pytest.mark.usefixtures("no_keys_left")
def test_a_viewer_reads_and_changes_nothing(client: FlaskClient, database: Database) -> None:
    trigger = a_trigger(client, database)
    number = started(client, trigger)["id"]
    viewer = with_key(client, a_key(client, "viewer")["key"])
    pipeline, schedules = f"/api/pipelines/{PIPELINE}", f"/api/pipeline_schedules/{trigger['id']}"

    (run, _) = answered(viewer.get(RUNS))["pipeline_runs"]
    assert run["pipeline_schedule_token"] == shapes.HIDDEN
    assert answered(viewer.get(schedules))["pipeline_schedule"]["token"] == shapes.HIDDEN
    for reply in (
        viewer.put(f"{RUNS}/{number}", json=CANCEL),
        viewer.delete(f"{RUNS}/{number}"),
        viewer.post(f"{schedules}/pipeline_runs", json={}),
        viewer.put(pipeline, json={"pipeline": {"status": "cancelled"}}),
        viewer.post(f"{pipeline}/pipeline_schedules", json={"pipeline_schedule": {}}),
        viewer.put(schedules, json={"pipeline_schedule": {}}),
        viewer.delete(schedules),
    ):
        refused(reply, 403, "unauthorized_access")


@pytest.mark.usefixtures("no_keys_left")
def test_scopes_hold(client: FlaskClient) -> None:
    of_runs = with_key(client, a_key(client, scopes=["runs"])["key"])
    of_triggers = with_key(client, a_key(client, scopes=["schedules:read"])["key"])

    refused(of_runs.get("/api/pipeline_schedules"), 403, "unauthorized_access")
    refused(of_triggers.get(RUNS), 403, "unauthorized_access")
    answered(of_runs.get(RUNS))
    answered(of_triggers.get("/api/pipeline_schedules"))


def test_an_address_that_is_not_there_is_told_by_http_too(client: FlaskClient) -> None:
    for method, path, code in (
        ("GET", "/api/pipeline_runs/1/nothing", 404),
        ("GET", "/api/pipelines", 404),
        ("GET", "/api/pipeline_schedules/71/pipeline_runs/0f3b", 405),
        ("POST", "/api/pipeline_runs", 405),
    ):
        reply = client.open(path, method=method)
        refused(reply, code, "record_not_found" if code == 404 else "api_resource_error")
        assert reply.json is not None
        assert (reply.status_code, reply.json["status"]) == (code, code)
        assert ("Allow" in reply.headers) == (code == 405)


def test_paths_that_only_begin_alike_are_somebody_elses(client: FlaskClient) -> None:
    assert client.get("/api/pipelines_x").content_type == "application/problem+json"


def test_a_token_is_of_one_trigger_of_type_api(
    client: FlaskClient, database: Database, nobody: FlaskClient
) -> None:
    by_clock = a_trigger(client, database, schedule_type="time", schedule_interval="@daily")
    by_token = a_trigger(client, database) | {"token": "0" * 32}

    for trigger in (by_clock, by_token, {"id": "nope", "token": "é"}):
        reply = nobody.post(address(trigger), json={})
        told = f"Invalid token for pipeline schedule ID {trigger['id']}."
        assert reply.status_code == 200
        assert reply.json == {
            "error": {"code": 500, "errors": [told], "exception": told, "message": told},
            "url_parameters": {"pipeline_schedule_id": str(trigger["id"]), "token": "********"},
        }


def test_a_payload_that_cannot_be_used_is_refused(
    client: FlaskClient, database: Database, nobody: FlaskClient
) -> None:
    trigger = a_trigger(client, database)

    for body, pointer in (
        ("[]", "/: "),
        ('"x"', "/: "),
        ("{", "/: "),
        ('{"pipeline_run": 1}', "/pipeline_run: "),
        ('{"pipeline_run": {"variables": []}}', "/pipeline_run/variables: "),
        ('{"a": "\\u0000"}', "/a: "),
        ("[" * 100_000, "/: "),
    ):
        reply = nobody.post(address(trigger), data=body)
        assert reply.status_code == 200
        assert reply.json is not None
        assert reply.json["error"]["code"] == 500
        assert reply.json["error"]["errors"][0].startswith(pointer)
    assert listed(client, f"/api/pipeline_schedules/{trigger['id']}/pipeline_runs") == []


def test_variables_that_do_not_fit_are_refused_with_their_place(
    client: FlaskClient, database: Database
) -> None:
    params = {"type": "object", "properties": {"n": {"type": "integer"}}}
    trigger = a_trigger(client, database)
    a_run(database, a_spec(PIPELINE, steps=3, params=params))
    asked = {"pipeline_run": {"variables": {"n": "many"}}}

    by_token: Any = client.post(address(trigger), json=asked).json
    path = f"/api/pipeline_schedules/{trigger['id']}/pipeline_runs"
    by_key = refused(client.post(path, json=asked), 400, "record_invalid")

    for error in (by_token["error"], by_key):
        assert error["errors"][0].startswith("/pipeline_run/variables/n: ")


def test_a_page_asks_the_same_number_of_questions_however_long_it_is(
    client: FlaskClient, database: Database
) -> None:
    trigger = a_trigger(client, database)
    engine = client.application.extensions["orchestrator"].database.engine
    asked: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append(given[2]))

    def questions(path: str) -> int:
        asked.clear()
        answered(client.get(path))
        return len(asked)

    for path in (RUNS, f"{RUNS}?status=failed", "/api/pipeline_schedules"):
        play(database, started(client, trigger)["id"], Failed("no"))
        questions(path)  # the first one prepares
        few = questions(path)
        play(database, started(client, trigger)["id"], Failed("no"))
        a_trigger(client, database)
        assert questions(path) == few
        assert not any(re.search(r"count\(.*FROM runs", sql, re.DOTALL) for sql in asked)


def test_what_passes_by_itself_is_told_by_http_too(client: FlaskClient) -> None:
    app, trigger = client.application, "/api/pipeline_schedules/71/pipeline_runs/secret"
    for status in (429, 500, 503):
        told = Problem(
            status=HTTPStatus(status), code="x", detail="later", headers={"Retry-After": "2"}
        )
        with app.test_request_context(RUNS):
            generic: Any = place.render(told)
        with app.test_request_context(trigger, method="POST"):
            of_trigger: Any = place.render(told)
        error = {"code": status, "message": "later", "type": "api_resource_error"}
        assert generic.json == {"error": error, "status": status}
        assert of_trigger.json["error"]["code"] == 500
        assert b"secret" not in of_trigger.data
        for reply in (generic, of_trigger):
            assert (reply.status_code, reply.headers["Retry-After"]) == (status, "2")


BAD: list[tuple[str, str, Any]] = [
    ("GET", f"{RUNS}?_limit=-1", None),
    ("GET", f"{RUNS}?_limit=1001", None),
    ("GET", f"{RUNS}?_offset=9999999999999999999999", None),
    ("GET", f"{RUNS}?status=canceled", None),
    ("GET", f"{RUNS}?start_timestamp=yesterday", None),
    ("GET", f"{RUNS}?start_timestamp=nan", None),
    ("GET", f"{RUNS}?end_timestamp=1e300", None),
    ("GET", f"{RUNS}?order_by[]=status desc", None),
    ("GET", f"{RUNS}?order_by[]=id down", None),
    ("GET", f"{RUNS}?backfill_id=x", None),
    ("PUT", f"{RUNS}/1", {"pipeline_run": 1}),
    ("PUT", f"{RUNS}/1", {"pipeline_run": {"status": 1}}),
    ("PUT", f"{RUNS}/1", []),
    ("PUT", "/api/pipelines/x", {"pipeline": {"status": "no"}}),
    ("PUT", "/api/pipelines/x", {"pipeline": {"status": "retry", "pipeline_runs": [1] * 101}}),
    ("PUT", "/api/pipelines/x", {"pipeline": {"status": "retry"}}),
    ("POST", "/api/pipeline_schedules/1/pipeline_runs", {"pipeline_run": {"variables": 1}}),
    (
        "POST",
        "/api/pipeline_schedules/1/pipeline_runs",
        {"pipeline_run": {"execution_date": "now"}},
    ),
    ("POST", "/api/pipelines/x/pipeline_schedules", {"pipeline_schedule": {"sla": -1}}),
]


def test_bad_input_is_refused_with_where_and_why(client: FlaskClient) -> None:
    for method, path, body in BAD:
        reply = client.open(path, method=method, json=body)
        assert refused(reply, 400, "record_invalid")["errors"][0].startswith("/")


def test_what_is_no_json_is_refused(client: FlaskClient) -> None:
    (told,) = refused(client.put(f"{RUNS}/1", data="{"), 400, "api_resource_error")["errors"]
    assert told == "/: not JSON"
    xml = client.put(f"{RUNS}/1", data="<a/>", content_type="application/xml")
    refused(xml, 415, "api_resource_error")
    large = client.put(f"{RUNS}/1", data=b" " * (4 * 1024 * 1024 + 1))
    refused(large, 413, "api_resource_error")
    assert large.status_code == 200
    refused(client.get(f"{RUNS}/a%00b"), 400, "api_resource_error")
