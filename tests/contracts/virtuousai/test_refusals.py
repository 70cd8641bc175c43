"""VirtuousAI's automation runs: errors and authorization."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from orchestrator.db.database import Database
from orchestrator.states import RunState
from tests.contracts.adapters.virtuousai import ADAPTER, AUTOMATIONS, RUNS
from tests.contracts.virtuousai.helpers import EVENTS, NOBODY, a_failed_run, mistake_of
from tests.support.api_keys import a_key, with_key
from tests.support.factories import KEY, a_spec, the_run

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
    (f"{RUNS}/%00", ["path", "run_id"], "value_error"),
    (f"{RUNS}?status=%00", ["query", "status"], "value_error"),
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


@pytest.mark.row("VirtuousAI every query and path: 422 with loc, msg and type")
def test_a_wrong_address_says_what_is_wrong(client: FlaskClient) -> None:
    for path, *wrong in WRONG_ADDRESSES:
        assert list(mistake_of(client, "GET", path)) == wrong, path


WRONG_RETRIES = [
    (b'{"mode":', ["body"], "json_invalid"),
    (b"[]", ["body"], "dict_type"),
    (b"null", ["body"], "missing"),
    (b" null\n", ["body"], "missing"),
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
    (b'{"query": {"limit": "\\u0000"}}', ["body", "query", "limit"], "value_error"),
    (b'{"path": "\\u0000", "headers": 1}', ["body", "path"], "value_error"),
    (b'{"x": {"0": "\\u0000"}}', ["body", "x", "0"], "value_error"),
    (b'{"x": [1, {"y": NaN}]}', ["body", "x", 1, "y"], "value_error"),
]


@pytest.mark.row("VirtuousAI POST automation-runs/{id}/retry: null is refused, no body is not")
def test_a_wrong_retry_says_what_is_wrong_and_changes_nothing(
    client: FlaskClient, database: Database
) -> None:
    run = a_failed_run(database)

    for body, loc, kind in WRONG_RETRIES:
        where, what = mistake_of(client, "POST", f"{RUNS}/{run.id}/retry", data=body)
        assert (where[: len(loc)], what) == (loc, kind), body

    assert the_run(database, run).state == RunState.FAILED


def test_an_unknown_address_and_a_wrong_method_are_refused_in_its_form(
    client: FlaskClient,
) -> None:
    assert ADAPTER.refusal(client.get(f"{RUNS}/{NOBODY}/x")) == 404
    assert ADAPTER.refusal(client.delete(AUTOMATIONS)) == 405
    wrong: Any = client.get(f"{RUNS}/{NOBODY}/cancel")
    assert wrong.allow == {"POST", "OPTIONS"}
    assert wrong.json["detail"].endswith("Use OPTIONS, POST.")
    assert client.get(f"{RUNS}x").json["code"] == "not_found"  # type: ignore[index] # not its own


def test_what_says_that_it_is_no_json_or_is_too_large_is_refused(
    client: FlaskClient, database: Database
) -> None:
    path = f"{RUNS}/{a_failed_run(database).id}/retry"
    wrong = client.post(path, data=b"<mode/>", content_type="application/xml")
    large = client.post(path, data=b" " * 30_000_000, content_type="application/json")

    assert [ADAPTER.refusal(answer) for answer in (wrong, large)] == [415, 413]


@pytest.mark.row("VirtuousAI every address: authorization, X-API-Key, vai_token")
def test_any_one_valid_credential_is_enough(client: FlaskClient) -> None:
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
        assert stranger.post(f"{RUNS}/{NOBODY}/cancel", headers=headers).status_code == 404


def test_the_cookie_changes_nothing_for_another_sites_page(client: FlaskClient) -> None:
    browser = client.application.test_client()
    browser.set_cookie("vai_token", KEY)

    def status(**headers: str) -> int:
        return ADAPTER.refusal(browser.post(f"{RUNS}/{NOBODY}/cancel", headers=headers))

    assert status(**{"Sec-Fetch-Site": "cross-site"}) == 401
    assert status(Origin="http://evil.example") == status(Origin="null") == 401
    assert status(Origin="http://localhost") == status() == 404


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
    run = a_failed_run(database)
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
