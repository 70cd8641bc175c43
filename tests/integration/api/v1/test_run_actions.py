"""Actions on runs: cancel, retry, restart a step, change."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from werkzeug.test import TestResponse

from orchestrator import runs
from orchestrator.db.database import Database
from orchestrator.engine import attempts
from orchestrator.engine.claims import Claim
from orchestrator.engine.outcomes import Failed, Interrupted, Outcome, Succeeded
from orchestrator.maintenance import sweeps
from orchestrator.models import Run, Step
from orchestrator.states import FINAL_RUNS
from tests.support.factories import GRACE, KEY, a_claim, a_run, a_spec, the_events, the_run

RUNS = "/api/v1/runs"
NOBODY = "01890000-0000-7000-8000-000000000000"


def _claim(database: Database, run_id: UUID | str, key: str) -> Claim:
    """Claim a queued step as a worker does."""
    with database.transaction() as session:
        statement = select(Step.task_id).where(Step.run_id == UUID(str(run_id)), Step.key == key)
        task_id = session.scalars(statement).one()
    claim = a_claim(database, task_id or "")
    assert claim is not None
    return claim


def _record(database: Database, claim: Claim, outcome: Outcome) -> None:
    with database.transaction() as session:
        attempts.record_outcome(session, claim, outcome)


def _end(database: Database, run_id: UUID | str, key: str, outcome: Outcome) -> None:
    _record(database, _claim(database, run_id, key), outcome)


def _failed(database: Database, **options: Any) -> Run:
    """A run of three steps that succeeded, failed, and was skipped for that."""
    run = a_run(database, a_spec(steps=3, **options), tags=["t"], params={"n": 1})
    _end(database, run.id, "s1", Succeeded({"n": 1}))
    _end(database, run.id, "s2", Failed("no", ("ValueError",)))
    return run


def _ended(database: Database, state: str) -> Run:
    """A run of one step in one of the final states."""
    run = a_run(database, timeout=timedelta(microseconds=1) if state == "timed_out" else None)
    if state in ("succeeded", "failed"):
        _end(database, run.id, "s1", Succeeded() if state == "succeeded" else Failed("no"))
        return run
    claim = _claim(database, run.id, "s1")
    if state == "timed_out":
        assert sweeps.expire_timed_out(database, GRACE) == 1
    else:
        with database.transaction() as session:
            runs.cancel(session, run.tenant_id, run.id, grace=GRACE, reason="enough")
    _record(database, claim, Interrupted("told to"))
    return run


def _states(run: dict[str, Any]) -> list[str]:
    return [step["state"] for step in run["steps"]]


def _at_once(client: FlaskClient, address: str, body: dict[str, Any]) -> list[TestResponse]:
    """The replies to eight identical concurrent requests."""

    def send(_: int) -> TestResponse:
        other = client.application.test_client()
        return other.post(address, json=body, headers={"Authorization": f"Bearer {KEY}"})

    with ThreadPoolExecutor(8) as callers:
        return list(callers.map(send, range(8)))


def test_a_waiting_run_is_cancelled_in_the_answer(client: FlaskClient, database: Database) -> None:
    run = a_run(database, a_spec(steps=2))

    reply = client.post(f"{RUNS}/{run.id}/cancel", json={"reason": "not needed"})

    assert (reply.status_code, reply.json["state"]) == (200, "cancelled")
    assert _states(reply.json) == ["cancelled", "cancelled"]
    assert reply.json["cancel_reason"] == "not needed"
    assert reply.json["finished_at"] is not None


def test_a_run_for_later_is_cancelled_in_the_answer(
    client: FlaskClient, database: Database
) -> None:
    run = a_run(database, run_at=datetime.now(UTC) + timedelta(days=1))

    assert client.post(f"{RUNS}/{run.id}/cancel").json["state"] == "cancelled"


def test_a_cancelled_step_is_no_longer_claimed(client: FlaskClient, database: Database) -> None:
    run = a_run(database)
    (step,) = the_run(database, run).steps

    client.post(f"{RUNS}/{run.id}/cancel")

    assert a_claim(database, step.task_id or "") is None


def test_a_running_run_is_cancelled_when_its_step_lets_go(
    client: FlaskClient, database: Database
) -> None:
    run = a_run(database, a_spec(steps=2))
    claim = _claim(database, run.id, "s1")

    reply = client.post(f"{RUNS}/{run.id}/cancel", json={"reason": "stop"})

    assert (reply.status_code, reply.json["state"]) == (200, "cancelling")
    assert _states(reply.json) == ["running", "cancelled"]
    _record(database, claim, Interrupted("told to"))
    assert client.get(f"{RUNS}/{run.id}").json["state"] == "cancelled"


@pytest.mark.parametrize(
    ("body", "seconds"),
    [({}, 30), ({"grace": "2m"}, 120), ({"grace": 1}, 1), ({"force": True, "grace": 9}, 0)],
)
def test_a_cancel_says_how_long_running_steps_have(
    client: FlaskClient, database: Database, body: dict[str, Any], seconds: int
) -> None:
    run = a_run(database)
    _claim(database, run.id, "s1")

    client.post(f"{RUNS}/{run.id}/cancel", json=body)

    now = the_run(database, run)
    assert now.stop_by is not None
    assert now.cancel_requested_at is not None
    assert now.stop_by - now.cancel_requested_at == timedelta(seconds=seconds)


def test_a_second_cancel_may_shorten_the_grace_but_not_prolong_it(
    client: FlaskClient, database: Database
) -> None:
    run = a_run(database)
    _claim(database, run.id, "s1")
    address = f"{RUNS}/{run.id}/cancel"

    client.post(address, json={"grace": 60, "reason": "first"})
    first = the_run(database, run).stop_by
    client.post(address, json={"grace": 600, "reason": "second"})
    second = the_run(database, run).stop_by
    forced = client.post(address, json={"force": True})
    third = the_run(database, run).stop_by

    assert first is not None
    assert third is not None
    assert first == second > third
    assert (forced.json["state"], forced.json["cancel_reason"]) == ("cancelling", "first")


@pytest.mark.parametrize("state", sorted(FINAL_RUNS))
def test_a_run_that_has_ended_is_not_cancelled(
    client: FlaskClient, database: Database, state: str
) -> None:
    run = _ended(database, state)

    reply = client.post(f"{RUNS}/{run.id}/cancel", json={})

    assert (reply.status_code, reply.json["code"]) == (409, "invalid_transition")
    assert reply.content_type == "application/problem+json"
    assert f"is {state}" in reply.json["detail"]
    assert the_run(database, run).state == state


def test_only_one_of_many_cancels_a_waiting_run(client: FlaskClient, database: Database) -> None:
    run = a_run(database)

    replies = _at_once(client, f"{RUNS}/{run.id}/cancel", {})

    assert sorted(reply.status_code for reply in replies) == [200] + [409] * 7
    assert the_events(database, run).count("run.cancelled") == 1


def test_a_retry_keeps_what_succeeded_and_runs_the_rest(
    client: FlaskClient, database: Database
) -> None:
    run = _failed(database)
    before = client.get(f"{RUNS}/{run.id}").json

    reply = client.post(f"{RUNS}/{run.id}/retry")

    assert reply.status_code == 200
    now = reply.json
    assert (now["id"], now["state"], now["error"]) == (before["id"], "queued", None)
    assert (now["started_at"], now["finished_at"]) == (None, None)
    assert now["steps"][0] == before["steps"][0]
    assert _states(now) == ["succeeded", "queued", "pending"]
    assert (now["steps"][1]["error"], now["steps"][2]["skip_cause"]) == (None, None)


def test_a_retried_run_goes_on_to_its_end(client: FlaskClient, database: Database) -> None:
    run = _failed(database)
    client.post(f"{RUNS}/{run.id}/retry", json={"mode": "from_failed", "as": "same"})

    claim = _claim(database, run.id, "s2")
    _record(database, claim, Succeeded(2))
    _end(database, run.id, "s3", Succeeded(3))

    ended = client.get(f"{RUNS}/{run.id}").json
    assert (claim.results, claim.attempt) == ({"s1": {"n": 1}}, 2)
    assert (ended["state"], _states(ended)) == ("succeeded", ["succeeded"] * 3)
    assert [step["attempt"] for step in ended["steps"]] == [1, 2, 1]
    assert "run.reopened" in the_events(database, run)


def test_a_retry_as_new_copies_what_is_kept_and_names_the_old_run(
    client: FlaskClient, database: Database
) -> None:
    run = _failed(database)
    before = client.get(f"{RUNS}/{run.id}").json

    reply = client.post(f"{RUNS}/{run.id}/retry", json={"as": "new", "reason": "once more"})

    new = reply.json
    assert (reply.status_code, new["retry_of"]) == (200, str(run.id))
    assert new["id"] != str(run.id)
    assert (new["trigger"], new["reason"], new["state"]) == ("retry", "once more", "queued")
    assert (new["params"], new["tags"], new["version"]) == ({"n": 1}, ["t"], 1)
    assert _states(new) == ["succeeded", "queued", "pending"]
    assert new["steps"][0]["result"] == {"n": 1}
    assert client.get(f"{RUNS}/{run.id}").json == before


def test_a_run_made_by_a_retry_reads_the_kept_results(
    client: FlaskClient, database: Database
) -> None:
    run = _failed(database)
    new = client.post(f"{RUNS}/{run.id}/retry", json={"as": "new"}).json

    claim = _claim(database, new["id"], "s2")
    _record(database, claim, Succeeded())
    _end(database, new["id"], "s3", Succeeded())

    assert claim.results == {"s1": {"n": 1}}
    assert client.get(f"{RUNS}/{new['id']}").json["state"] == "succeeded"


def test_a_retry_as_new_keeps_to_the_version_of_the_old_run(
    client: FlaskClient, database: Database
) -> None:
    run = _failed(database)
    client.post("/api/v1/workflows", json=a_spec(steps=1))

    new = client.post(f"{RUNS}/{run.id}/retry", json={"as": "new"}).json

    assert (new["version"], len(new["steps"])) == (1, 3)


def test_a_retry_as_new_takes_the_latest_version_where_it_says_so(
    client: FlaskClient, database: Database
) -> None:
    old = a_run(database, a_spec(steps=2))
    _record(database, _claim(database, old.id, "s1"), Failed("no"))
    a_run(database, a_spec(steps=4))
    path = f"{RUNS}/{old.id}/retry"

    new = client.post(path, json={"mode": "full", "as": "new", "latest": True}).json

    assert new is not None
    assert (new["version"], new["retry_of"], len(new["steps"])) == (2, str(old.id), 4)
    for body in ({}, {"mode": "full"}, {"as": "new"}, {"mode": "from_failed", "as": "new"}):
        refused = client.post(path, json={**body, "latest": True})
        assert refused.status_code == 422
        assert refused.json is not None
        assert refused.json["errors"][0]["pointer"] == "/latest"


@pytest.mark.parametrize("where", ["same", "new"])
def test_a_full_retry_keeps_nothing(client: FlaskClient, database: Database, where: str) -> None:
    run = _failed(database)

    now = client.post(f"{RUNS}/{run.id}/retry", json={"mode": "full", "as": where}).json

    assert _states(now) == ["queued", "pending", "pending"]
    assert [step["result"] for step in now["steps"]] == [None] * 3


@pytest.mark.parametrize("where", ["same", "new"])
def test_a_retry_from_a_step_runs_all_that_needs_it(
    client: FlaskClient, database: Database, where: str
) -> None:
    branches = [
        {"key": "left", "uses": "noop"},
        {"key": "right", "uses": "noop", "needs": []},
        {"key": "join", "uses": "noop", "needs": ["left", "right"]},
    ]
    run = a_run(database, {"name": "join", "steps": branches})
    for key in ("left", "right", "join"):
        _end(database, run.id, key, Succeeded(key))

    body = {"mode": "from_step", "step": "right", "as": where}
    now = client.post(f"{RUNS}/{run.id}/retry", json=body).json

    assert _states(now) == ["succeeded", "queued", "pending"]
    assert [step["result"] for step in now["steps"]] == ["left", None, None]


@pytest.mark.parametrize("where", ["same", "new"])
def test_a_retry_may_change_params_and_priority(
    client: FlaskClient, database: Database, where: str
) -> None:
    run = _failed(database)

    body = {"params": {"n": 2}, "priority": 9, "as": where}
    now = client.post(f"{RUNS}/{run.id}/retry", json=body).json

    assert (now["params"], now["priority"]) == ({"n": 2}, 9)
    assert now["steps"][1]["priority"] == 9
    assert _claim(database, now["id"], "s2").params == {"n": 2}


@pytest.mark.parametrize("where", ["same", "new"])
def test_a_retry_with_params_that_do_not_fit_changes_nothing(
    client: FlaskClient, database: Database, where: str
) -> None:
    run = _failed(database, params={"properties": {"n": {"type": "integer"}}})

    reply = client.post(f"{RUNS}/{run.id}/retry", json={"params": {"n": "x"}, "as": where})

    assert (reply.status_code, reply.json["code"]) == (422, "invalid_params")
    assert reply.json["errors"][0]["pointer"] == "/params/n"
    assert [each["state"] for each in client.get(RUNS).json["items"]] == ["failed"]


@pytest.mark.parametrize("state", sorted(FINAL_RUNS))
@pytest.mark.parametrize("where", ["same", "new"])
def test_a_run_that_has_ended_somehow_runs_again(
    client: FlaskClient, database: Database, state: str, where: str
) -> None:
    run = _ended(database, state)

    now = client.post(f"{RUNS}/{run.id}/retry", json={"mode": "full", "as": where}).json
    _end(database, now["id"], "s1", Succeeded())

    ended = client.get(f"{RUNS}/{now['id']}").json
    assert (ended["state"], ended["cancel_reason"], ended["error"]) == ("succeeded", None, None)


@pytest.mark.parametrize("verb", ["retry", "steps/s1/restart"])
def test_a_run_that_has_not_ended_is_not_retried(
    client: FlaskClient, database: Database, verb: str
) -> None:
    run = a_run(database)
    _claim(database, run.id, "s1")

    reply = client.post(f"{RUNS}/{run.id}/{verb}", json={})

    assert (reply.status_code, reply.json["code"]) == (409, "invalid_transition")
    assert "is running" in reply.json["detail"]


def test_a_run_without_a_failure_is_not_retried_from_there(
    client: FlaskClient, database: Database
) -> None:
    run = _ended(database, "succeeded")

    reply = client.post(f"{RUNS}/{run.id}/retry", json={"mode": "from_failed"})

    assert (reply.status_code, reply.json["code"]) == (409, "invalid_transition")


def test_a_step_is_not_run_again_without_the_results_it_needs(
    client: FlaskClient, database: Database
) -> None:
    run = _failed(database)

    reply = client.post(f"{RUNS}/{run.id}/retry", json={"mode": "from_step", "step": "s3"})

    assert (reply.status_code, reply.json["code"]) == (409, "conflict")
    assert "'s2'" in reply.json["detail"]
    assert the_run(database, run).state == "failed"


@pytest.mark.parametrize(
    ("verb", "body"),
    [("retry", {"mode": "from_step", "step": "nope"}), ("steps/nope/restart", {})],
)
def test_a_step_that_is_not_there_is_not_restarted(
    client: FlaskClient, database: Database, verb: str, body: dict[str, Any]
) -> None:
    run = _failed(database)

    reply = client.post(f"{RUNS}/{run.id}/{verb}", json=body)

    assert reply.status_code == 404
    assert "'nope'" in reply.json["detail"]


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("steps/s2/restart", {}),
        ("retry", {"mode": "from_step", "step": "s2"}),
        ("retry", {"mode": "from_step", "step": "s2", "as": "new"}),
    ],
)
def test_a_disabled_step_is_not_restarted(
    client: FlaskClient, database: Database, verb: str, body: dict[str, Any]
) -> None:
    spec = a_spec(steps=2)
    spec["steps"][1]["enabled"] = False
    run = a_run(database, spec)
    _end(database, run.id, "s1", Succeeded())

    reply = client.post(f"{RUNS}/{run.id}/{verb}", json=body)

    assert (reply.status_code, reply.content_type) == (409, "application/problem+json")
    assert [each["state"] for each in client.get(RUNS).json["items"]] == ["succeeded"]


def test_only_one_of_many_reopens_a_run(client: FlaskClient, database: Database) -> None:
    run = _failed(database)

    replies = _at_once(client, f"{RUNS}/{run.id}/retry", {})

    assert sorted(reply.status_code for reply in replies) == [200] + [409] * 7
    assert the_events(database, run).count("run.reopened") == 1


def test_a_restarted_step_runs_again_and_all_that_needs_it(
    client: FlaskClient, database: Database
) -> None:
    run = a_run(database, a_spec(steps=3))
    for key in ("s1", "s2", "s3"):
        _end(database, run.id, key, Succeeded(key))

    body = {"params": {"n": 7}, "priority": 1, "reason": "wrong"}
    reply = client.post(f"{RUNS}/{run.id}/steps/s2/restart", json=body)

    now = reply.json
    assert (reply.status_code, now["id"]) == (200, str(run.id))
    assert (now["params"], now["priority"], now["reason"]) == ({"n": 7}, 1, "wrong")
    assert _states(now) == ["succeeded", "queued", "pending"]
    assert [step["result"] for step in now["steps"]] == ["s1", None, None]


def test_a_restart_needs_no_body(client: FlaskClient, database: Database) -> None:
    run = _ended(database, "succeeded")

    reply = client.post(f"{RUNS}/{run.id}/steps/s1/restart")

    assert (reply.status_code, reply.json["state"]) == (200, "queued")


def test_a_change_of_priority_reaches_the_steps_that_have_not_ended(
    client: FlaskClient, database: Database
) -> None:
    run = a_run(database, a_spec(steps=2), priority=4)
    _end(database, run.id, "s1", Succeeded())

    reply = client.patch(f"{RUNS}/{run.id}", json={"priority": 9})

    assert (reply.status_code, reply.json["priority"]) == (200, 9)
    assert [step["priority"] for step in reply.json["steps"]] == [4, 9]
    (event,) = [
        event
        for event in client.get(f"{RUNS}/{run.id}/events").json["items"]
        if event["type"] == "run.reprioritised"
    ]
    assert event["data"] == {"before": 4, "after": 9}


def test_a_change_replaces_the_tags(client: FlaskClient, database: Database) -> None:
    run = a_run(database, tags=["old"])

    reply = client.patch(f"{RUNS}/{run.id}", json={"tags": ["b", "a", "b", "50%"]})

    assert (reply.status_code, reply.json["tags"]) == (200, ["50%", "a", "b"])
    lists = {tag: client.get(RUNS, query_string={"tag": tag}).json["items"] for tag in ("old", "a")}
    assert {tag: len(items) for tag, items in lists.items()} == {"old": 0, "a": 1}
    assert client.patch(f"{RUNS}/{run.id}", json={"tags": []}).json["tags"] == []


def test_an_empty_change_changes_nothing(client: FlaskClient, database: Database) -> None:
    run = a_run(database, tags=["t"], priority=2)
    before = client.get(f"{RUNS}/{run.id}").json

    assert client.patch(f"{RUNS}/{run.id}", json={}).json == before


def test_tags_of_a_run_that_has_ended_may_change_its_priority_not(
    client: FlaskClient, database: Database
) -> None:
    run = _ended(database, "failed")

    tagged = client.patch(f"{RUNS}/{run.id}", json={"tags": ["seen"]})
    refused = client.patch(f"{RUNS}/{run.id}", json={"tags": ["lost"], "priority": 9})

    assert (tagged.status_code, tagged.json["tags"]) == (200, ["seen"])
    assert (refused.status_code, refused.json["code"]) == (409, "invalid_transition")
    assert "is failed" in refused.json["detail"]
    assert client.get(f"{RUNS}/{run.id}").json["tags"] == ["seen"]


@pytest.mark.parametrize(
    ("method", "address"),
    [
        ("PATCH", ""),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("POST", "/steps/s1/restart"),
    ],
)
def test_an_unknown_run_is_not_found(client: FlaskClient, method: str, address: str) -> None:
    reply = client.open(f"{RUNS}/{NOBODY}{address}", method=method, json={})

    assert (reply.status_code, reply.json["code"]) == (404, "not_found")
