"""Each hidden trap of Mage's API, by its number."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text, update

from orchestrator.db.database import Database
from orchestrator.models import Run
from tests.contracts.mage.helpers import (
    RUNS,
    SPEC,
    a_trigger,
    address,
    answered,
    put,
    refused,
    shown,
    started,
)
from tests.support.factories import KEY, a_run


@pytest.mark.row("POST with a token: the body is JSON of any content type")
def test_trap_1_a_trigger_reads_json_whatever_it_is_called(
    client: FlaskClient, database: Database, nobody: FlaskClient
) -> None:
    path = address(a_trigger(client, database))

    for kind in ("application/x-www-form-urlencoded", "", "text/plain", "a/b"):
        headers = {"Content-Type": kind} if kind else {}
        run = answered(nobody.post(path, data='{"n": 1}', headers=headers))["pipeline_run"]
        assert run["event_variables"] == {"n": 1}


def test_trap_2_errors_have_status_200(client: FlaskClient) -> None:
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


@pytest.mark.row("`id`, `pipeline_schedule_id`, block runs' `id`: integers")
def test_trap_5_ids_are_integers(client: FlaskClient, database: Database) -> None:
    a_run(database, SPEC)  # without a trigger

    (run,) = answered(client.get(RUNS))["pipeline_runs"]

    (trigger, *blocks) = run["pipeline_schedule_id"], *run["block_runs"]
    assert trigger == 0
    ids = [run["id"], trigger, *(block["id"] for block in blocks)]
    assert all(type(each) is int for each in ids)


@pytest.mark.row("dates: `2023-02-16 06:40:43.575738+00:00`, no fraction when it is zero")
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
