"""`/api/v1/runs`: submit, read and list runs."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from werkzeug.test import TestResponse

from api.app import create_app
from config.settings import Settings
from orchestrator.db.database import Database
from orchestrator.engine import attempts
from orchestrator.engine.outcomes import Failed, Outcome, Succeeded
from orchestrator.models import Step
from orchestrator.spec.durations import parse_duration
from tests.support.factories import KEY, a_claim, a_run, a_spec, eventually

RUNS = "/api/v1/runs"
WORKFLOWS = "/api/v1/workflows"
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


@pytest.fixture
def workflow(client: FlaskClient) -> str:
    """A workflow of two steps that takes a parameter."""
    amount = {"type": "integer", "default": 3}
    params = {"properties": {"amount": amount}, "additionalProperties": False}
    client.post(WORKFLOWS, json=a_spec(steps=2, params=params, tags=["nightly"], priority=6))
    return "work"


def _post(client: FlaskClient, body: dict[str, Any], **headers: str) -> TestResponse:
    """Submit from another thread than the client's own."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    other = client.application.test_client()
    return other.post(RUNS, json=body, headers={"Authorization": f"Bearer {KEY}", **named})


def _end(database: Database, run_id: str, key: str, outcome: Outcome) -> None:
    """Claim a queued step and record its outcome, as a worker does."""
    with database.transaction() as session:
        statement = select(Step.task_id).where(Step.run_id == UUID(run_id), Step.key == key)
        task_id = session.scalars(statement).one()
    claim = a_claim(database, task_id or "")
    assert claim is not None
    with database.transaction() as session:
        attempts.record_outcome(session, claim, outcome)


def _pages(client: FlaskClient, address: str, **query: Any) -> Iterator[list[dict[str, Any]]]:
    while True:
        page = client.get(address, query_string=query).json
        yield page["items"]
        if page["next_cursor"] is None:
            return
        query["cursor"] = page["next_cursor"]


def _count(client: FlaskClient) -> int:
    return len(client.get(RUNS).json["items"])


def test_a_submitted_run_is_answered_whole(client: FlaskClient, workflow: str) -> None:
    fields = {"tags": ["b", "a"], "reason": "a test", "timeout": "90m", "params": {"amount": 5}}

    reply = client.post(RUNS, json={"workflow": workflow, **fields})

    assert reply.status_code == 201
    run = reply.json
    assert run.keys() >= {
        "id", "number", "workflow", "version", "state", "priority", "queue", "params", "tags",
        "trigger", "reason", "error", "created_at", "queued_at", "started_at", "finished_at",
        "duration_seconds", "retry_of", "steps",
    }  # fmt: skip
    assert (run["workflow"], run["version"], run["state"]) == ("work", 1, "queued")
    assert (run["priority"], run["queue"], run["trigger"]) == (6, "default", "manual")
    assert (run["tags"], run["params"]) == (["a", "b", "nightly"], {"amount": 5})
    assert (run["reason"], run["timeout"], run["retry_of"]) == ("a test", "1h30m", None)
    assert (run["error"], run["started_at"], run["finished_at"]) == (None, None, None)
    assert UUID(run["id"]).version == 7
    assert isinstance(run["number"], int)


def test_a_submitted_run_shows_its_steps_in_order(client: FlaskClient, workflow: str) -> None:
    first, second = client.post(RUNS, json={"workflow": workflow}).json["steps"]

    assert first.keys() >= {
        "id", "number", "key", "name", "uses", "needs", "state", "attempt", "max_attempts", "queue",
        "worker", "result", "error", "started_at", "finished_at", "duration_seconds",
    }  # fmt: skip
    assert (first["key"], first["state"], first["needs"]) == ("s1", "queued", [])
    assert (second["key"], second["state"], second["needs"]) == ("s2", "pending", ["s1"])
    assert (first["attempt"], first["max_attempts"], first["worker"]) == (0, 1, None)


def test_the_location_of_a_submitted_run_leads_to_it(client: FlaskClient, workflow: str) -> None:
    reply = client.post(RUNS, json={"workflow": workflow})

    assert client.get(reply.headers["Location"]).json == reply.json


def test_numbers_count_up_and_ids_are_in_the_order_of_time(
    client: FlaskClient, workflow: str
) -> None:
    runs = [client.post(RUNS, json={"workflow": workflow}).json for _ in range(3)]

    assert sorted(runs, key=lambda run: run["number"]) == runs
    assert sorted(runs, key=lambda run: run["id"]) == runs


def test_defaults_come_from_the_workflow(client: FlaskClient, workflow: str) -> None:
    run = client.post(RUNS, json={"workflow": workflow, "priority": None, "reason": None}).json

    assert (run["params"], run["tags"], run["priority"]) == ({"amount": 3}, ["nightly"], 6)


def test_params_that_do_not_fit_are_refused_with_their_places(
    client: FlaskClient, workflow: str
) -> None:
    body = {"workflow": workflow, "params": {"amount": "much", "colour": "red"}}

    reply = client.post(RUNS, json=body)

    assert (reply.status_code, reply.json["code"]) == (422, "invalid_params")
    places = {error["pointer"] for error in reply.json["errors"]}
    assert places == {"/params/amount", "/params/colour"}
    assert _count(client) == 0


def test_a_run_keeps_to_the_version_it_asked_for(client: FlaskClient, workflow: str) -> None:
    client.post(WORKFLOWS, json=a_spec(steps=1))

    old = client.post(RUNS, json={"workflow": workflow, "version": 1}).json
    new = client.post(RUNS, json={"workflow": workflow}).json

    assert (old["version"], len(old["steps"])) == (1, 2)
    assert (new["version"], len(new["steps"])) == (2, 1)


@pytest.mark.parametrize("body", [{"workflow": "nope"}, {"workflow": "work", "version": 2}])
def test_an_unknown_workflow_or_version_is_not_found(
    client: FlaskClient, workflow: str, body: dict[str, Any]
) -> None:
    reply = client.post(RUNS, json=body)

    assert (reply.status_code, reply.json["code"]) == (404, "not_found")
    assert _count(client) == 0


def test_a_run_for_later_waits(client: FlaskClient, workflow: str) -> None:
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()

    run = client.post(RUNS, json={"workflow": workflow, "run_at": later}).json

    assert (run["state"], run["queued_at"]) == ("pending", None)
    assert [step["state"] for step in run["steps"]] == ["pending", "pending"]


@pytest.mark.parametrize("when", ["2020-02-29T12:00:00Z", "0001-01-01T00:00:00Z"])
def test_a_run_for_a_time_that_is_over_starts_at_once(
    client: FlaskClient, workflow: str, when: str
) -> None:
    run = client.post(RUNS, json={"workflow": workflow, "run_at": when}).json

    assert run["state"] == "queued"
    assert run["run_at"] == when.replace("Z", ".000000Z")


def test_a_time_with_an_offset_is_shown_in_utc(client: FlaskClient, workflow: str) -> None:
    body = {"workflow": workflow, "run_at": "2100-01-01T00:30:00.25+02:00"}

    run = client.post(RUNS, json=body).json

    assert run["run_at"] == "2099-12-31T22:30:00.250000Z"


@pytest.mark.parametrize("timeout", [6, "6s", "500ms", "1h30m", "59.123456s", "1h0m0.000001s"])
def test_a_timeout_is_shown_as_it_could_be_given(
    client: FlaskClient, workflow: str, timeout: str | int
) -> None:
    run = client.post(RUNS, json={"workflow": workflow, "timeout": timeout}).json

    assert parse_duration(run["timeout"]) == parse_duration(timeout)


def test_any_text_survives_the_way_through_the_database(client: FlaskClient, workflow: str) -> None:
    tags = sorted(["50%", "%(x)s", "a,b", '"', "\\", "{}", "é", "日本", "😀", " "])
    client.post(WORKFLOWS, json=a_spec("free"))
    params = {"a:b": ":c %s", "": None, "deep": [[{"x": 1.5}]], "big": 10**300}
    body = {"workflow": "free", "tags": tags, "reason": "%s :x '; --", "params": params}

    run = client.post(RUNS, json=body).json

    assert (run["tags"], run["reason"], run["params"]) == (tags, "%s :x '; --", params)


def test_a_run_is_accepted_while_the_broker_is_away(
    settings: Settings, client: FlaskClient, workflow: str
) -> None:
    app = create_app(replace(settings, redis_url="redis://127.0.0.1:1/0"))
    headers = {"Authorization": f"Bearer {KEY}"}

    reply = app.test_client().post(RUNS, json={"workflow": workflow}, headers=headers)
    app.extensions["orchestrator"].database.engine.dispose()

    assert (reply.status_code, reply.json["state"]) == (201, "queued")
    assert _count(client) == 1


def test_the_same_key_and_request_give_the_same_run(client: FlaskClient, workflow: str) -> None:
    first = _post(client, {"workflow": workflow, "tags": ["a"]}, Idempotency_Key="k")

    again = _post(client, {"tags": ["a"], "workflow": workflow}, Idempotency_Key="k")

    assert (again.status_code, again.json) == (201, first.json)
    assert again.headers["Location"] == first.headers["Location"]
    assert _count(client) == 1


def test_the_same_key_with_another_request_is_refused(client: FlaskClient, workflow: str) -> None:
    _post(client, {"workflow": workflow}, Idempotency_Key="k")

    reply = _post(client, {"workflow": workflow, "priority": 1}, Idempotency_Key="k")

    assert (reply.status_code, reply.json["code"]) == (422, "idempotency_mismatch")
    assert reply.json["errors"][0]["pointer"] == "/headers/Idempotency-Key"
    assert _count(client) == 1


def test_another_key_is_another_run(client: FlaskClient, workflow: str) -> None:
    ids = {
        _post(client, {"workflow": workflow}, Idempotency_Key=key).json["id"] for key in ("a", "b")
    }

    assert len(ids) == 2


def test_a_refused_request_does_not_use_its_key_up(client: FlaskClient, workflow: str) -> None:
    refused = _post(client, {"workflow": "nope"}, Idempotency_Key="k")

    reply = _post(client, {"workflow": workflow}, Idempotency_Key="k")

    assert (refused.status_code, reply.status_code) == (404, 201)


def test_a_key_still_answers_with_its_run_when_the_workflow_has_changed(
    client: FlaskClient, workflow: str
) -> None:
    first = _post(client, {"workflow": workflow}, Idempotency_Key="k").json
    client.post(WORKFLOWS, json=a_spec(steps=1))

    assert _post(client, {"workflow": workflow}, Idempotency_Key="k").json == first


def test_many_who_race_with_one_key_get_one_run(client: FlaskClient, workflow: str) -> None:
    with ThreadPoolExecutor(8) as callers:
        replies = list(
            callers.map(
                lambda _: _post(client, {"workflow": workflow}, Idempotency_Key="k"), range(8)
            )
        )

    assert {reply.status_code for reply in replies} == {201}
    assert len({reply.json["id"] for reply in replies}) == 1
    assert _count(client) == 1


def test_only_one_of_many_different_requests_gets_a_key(client: FlaskClient, workflow: str) -> None:
    with ThreadPoolExecutor(8) as callers:
        replies = list(
            callers.map(
                lambda at: _post(
                    client, {"workflow": workflow, "priority": at}, Idempotency_Key="k"
                ),
                range(8),
            )
        )

    assert sorted(reply.status_code for reply in replies) == [201] + [422] * 7
    assert _count(client) == 1


def test_a_submit_that_waits_answers_when_the_run_has_ended(
    client: FlaskClient, database: Database
) -> None:
    client.post(WORKFLOWS, json=a_spec())
    other = client.application.test_client()
    headers = {"Authorization": f"Bearer {KEY}"}

    with ThreadPoolExecutor(1) as caller:
        answer = caller.submit(
            other.post, f"{RUNS}?wait=10", json={"workflow": "work"}, headers=headers
        )
        (run,) = eventually(lambda: client.get(RUNS).json["items"])
        _end(database, run["id"], "s1", Succeeded({"n": 1}))

    assert answer.result().status_code == 201
    assert answer.result().json["state"] == "succeeded"
    assert answer.result().json["steps"][0]["result"] == {"n": 1}


def test_waiting_for_a_run_ends_with_the_time_it_was_given(
    client: FlaskClient, workflow: str
) -> None:
    address = client.post(f"{RUNS}?wait=0.05", json={"workflow": workflow}).headers["Location"]

    assert client.get(f"{address}?wait=0.05").json["state"] == "queued"


@pytest.fixture
def three(client: FlaskClient, database: Database) -> dict[str, dict[str, Any]]:
    """Three different runs by their `reason`."""
    alpha, beta = a_spec("alpha"), a_spec("beta")
    a_run(database, alpha, reason="a", tags=["red"], priority=2)
    a_run(database, alpha, reason="b", tags=["red", "50%"], priority=4, trigger="schedule")
    gone = a_run(database, beta, reason="c", tags=["50%"], priority=8)
    client.post(f"{RUNS}/{gone.id}/cancel")
    return {run["reason"]: run for run in client.get(RUNS).json["items"]}


def _reasons(client: FlaskClient, **query: Any) -> str:
    """The reasons of the listed runs, in order."""
    page = client.get(RUNS, query_string=query).json
    return "".join(run["reason"] for run in page["items"])


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("query", "reasons"),
    [
        ({}, "cba"),
        ({"workflow": "alpha"}, "ba"),
        ({"workflow": ["alpha", "beta"]}, "cba"),
        ({"workflow": "nope"}, ""),
        ({"state": "cancelled"}, "c"),
        ({"state": ["queued", "cancelled"]}, "cba"),
        ({"tag": "red"}, "ba"),
        ({"tag": ["red", "50%"]}, "b"),
        ({"tag": "re"}, ""),
        ({"priority": [8, 2]}, "ca"),
        ({"trigger": "schedule"}, "b"),
        ({"trigger": ["schedule", "manual"]}, "cba"),
        ({"workflow": "alpha", "priority": 4}, "b"),
        ({"workflow": "alpha", "state": "cancelled"}, ""),
        ({"sort": "-created_at"}, "cba"),
        ({"sort": "created_at"}, "abc"),
        ({"sort": "priority"}, "abc"),
        ({"sort": "-priority"}, "cba"),
        ({"created_after": "2020-01-01T00:00:00Z"}, "cba"),
        ({"created_after": "2200-01-01T00:00:00Z"}, ""),
        ({"created_after": "0001-01-01T00:00:00Z"}, "cba"),
        ({"created_before": "0001-01-01T00:00:00Z"}, ""),
        ({"created_before": "9999-12-31T23:59:59Z"}, "cba"),
    ],
)
def test_runs_are_found_by_what_they_are(
    client: FlaskClient, query: dict[str, Any], reasons: str
) -> None:
    assert _reasons(client, **query) == reasons


def test_runs_are_found_by_when_they_were_made(
    client: FlaskClient, three: dict[str, dict[str, Any]]
) -> None:
    when = three["b"]["created_at"]

    assert _reasons(client, created_after=when) == "c"
    assert _reasons(client, created_before=when) == "a"
    edges = {name: three[name]["created_at"] for name in "ac"}
    assert _reasons(client, created_after=edges["a"], created_before=edges["c"]) == "b"


def test_a_list_leaves_the_steps_out(client: FlaskClient, three: dict[str, dict[str, Any]]) -> None:
    whole = client.get(f"{RUNS}/{three['a']['id']}").json

    listed = {name: value for name, value in whole.items() if name in three["a"]}

    assert len(whole["steps"]) == 1
    assert "steps" not in three["a"]
    assert three["a"] == listed


@pytest.mark.parametrize("sort", ["-created_at", "created_at", "-priority", "priority"])
def test_pages_have_no_gaps_and_no_doubles_while_runs_are_added(
    client: FlaskClient, database: Database, sort: str
) -> None:
    before = [str(a_run(database, priority=at % 3).id) for at in range(7)]

    seen = []
    for at, page in enumerate(_pages(client, RUNS, sort=sort, limit=2)):
        seen += [run["id"] for run in page]
        if at < 4:
            a_run(database, priority=at % 3)

    assert len(seen) == len(set(seen))
    assert set(before) <= set(seen)


@pytest.mark.parametrize("sort", ["-created_at", "created_at", "-priority", "priority"])
def test_pages_put_together_are_the_list(
    client: FlaskClient, database: Database, sort: str
) -> None:
    for at in range(6):
        a_run(database, priority=at % 2)
    whole = client.get(RUNS, query_string={"sort": sort}).json

    pages = list(_pages(client, RUNS, sort=sort, limit=2))

    assert [len(page) for page in pages] == [2, 2, 2]
    assert [run for page in pages for run in page] == whole["items"]
    assert whole["next_cursor"] is None


def test_pages_keep_to_their_filter(client: FlaskClient, database: Database) -> None:
    for at in range(6):
        a_run(database, a_spec(("odd", "even")[at % 2]), tags=["t"])

    pages = _pages(client, RUNS, workflow="odd", limit=2)

    assert [[run["workflow"] for run in page] for page in pages] == [["odd"] * 2, ["odd"]]


def test_steps_are_shown_one_by_one_as_in_their_run(client: FlaskClient, workflow: str) -> None:
    run = client.post(RUNS, json={"workflow": workflow}).json
    address = f"{RUNS}/{run['id']}"

    assert client.get(address).json == run
    assert client.get(f"{address}/steps").json == run["steps"]
    assert client.get(f"{address}/steps/s2").json == run["steps"][1]
    assert client.get(f"{address}/steps/s2/attempts").json == []


def test_every_try_of_a_step_is_kept(client: FlaskClient, database: Database) -> None:
    run_id = str(a_run(database).id)
    _end(database, run_id, "s1", Failed("it broke", ("ValueError",)))
    client.post(f"{RUNS}/{run_id}/retry")
    _end(database, run_id, "s1", Succeeded())

    first, second = client.get(f"{RUNS}/{run_id}/steps/s1/attempts").json

    assert (first["number"], first["outcome"], first["worker"]) == (1, "failed", "w1")
    assert first["error"] == {"message": "it broke", "kind": "ValueError"}
    assert (second["number"], second["outcome"], second["error"]) == (2, "succeeded", None)


def test_a_run_that_has_ended_shows_how_and_when(client: FlaskClient, database: Database) -> None:
    run_id = str(a_run(database).id)

    _end(database, run_id, "s1", Failed("it broke", ("ValueError",)))

    run = client.get(f"{RUNS}/{run_id}").json
    (step,) = run["steps"]
    assert (run["state"], step["state"], step["worker"]) == ("failed", "failed", "w1")
    assert run["error"] == {"step": "s1", "message": "it broke", "kind": "ValueError"}
    assert step["error"] == {"message": "it broke", "kind": "ValueError"}
    for each in (run, step):
        times = [each["queued_at"], each["started_at"], each["finished_at"]]
        assert all(RFC3339.fullmatch(time) for time in times)
        assert times == sorted(times)
        start, end = (datetime.fromisoformat(time) for time in times[1:])
        assert each["duration_seconds"] == (end - start).total_seconds()


@pytest.mark.parametrize("address", ["", "/steps", "/steps/s1", "/steps/s1/attempts", "/events"])
def test_an_unknown_run_is_not_found(client: FlaskClient, address: str) -> None:
    reply = client.get(f"{RUNS}/01890000-0000-7000-8000-000000000000{address}")

    assert (reply.status_code, reply.json["code"]) == (404, "not_found")
    assert "01890000-0000-7000-8000-000000000000" in reply.json["detail"]


@pytest.mark.parametrize("address", ["/steps/nope", "/steps/nope/attempts"])
def test_an_unknown_step_is_not_found(
    client: FlaskClient, database: Database, address: str
) -> None:
    reply = client.get(f"{RUNS}/{a_run(database).id}{address}")

    assert reply.status_code == 404
    assert "'nope'" in reply.json["detail"]


def test_events_tell_what_happened_in_order(client: FlaskClient, database: Database) -> None:
    run_id = str(a_run(database).id)
    _end(database, run_id, "s1", Succeeded())

    page = client.get(f"{RUNS}/{run_id}/events").json

    assert page["next_cursor"] is None
    assert [event["seq"] for event in page["items"]] == list(range(1, 8))
    assert [event["type"] for event in page["items"]] == [
        "run.created", "run.queued", "step.queued", "run.started", "step.started",
        "step.succeeded", "run.succeeded",
    ]  # fmt: skip
    started = page["items"][4]
    assert started.keys() == {"seq", "type", "step", "attempt", "data", "occurred_at"}
    assert (started["step"], started["attempt"]) == ("s1", 1)
    assert RFC3339.fullmatch(started["occurred_at"])


def test_pages_of_events_have_no_gaps_while_events_are_added(
    client: FlaskClient, database: Database
) -> None:
    run_id = str(a_run(database, a_spec(steps=2)).id)

    seen = []
    for page in _pages(client, f"{RUNS}/{run_id}/events", limit=2):
        if not seen:
            _end(database, run_id, "s1", Succeeded())
        seen += [event["seq"] for event in page]

    assert seen == list(range(1, 8))
