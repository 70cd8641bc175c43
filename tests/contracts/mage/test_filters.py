"""Filters of Mage's lists of runs, and the statements of a page."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text, update

from orchestrator.db.database import Database
from orchestrator.engine.outcomes import Failed, Succeeded
from orchestrator.models import Run
from orchestrator.states import RunState
from tests.contracts.mage.helpers import (
    PIPELINE,
    RUNS,
    a_trigger,
    answered,
    listed,
    play,
    put,
    refused,
    shown,
    started,
)
from tests.support.factories import a_run, a_spec
from tests.support.statement_recorder import recorded_statements


@pytest.mark.row("GET /api/pipeline_runs: filters by status, pipeline, tag, time and backfill")
def test_filters_choose_runs(client: FlaskClient, database: Database) -> None:
    waits = a_run(database, a_spec("load", tags=["nightly"]), start=False)
    queued = a_run(database, a_spec("push", tags=["hourly"]))
    ended = a_run(database, a_spec("push"), logical_date=datetime(2020, 1, 1, tzinfo=UTC))
    put(client, ended.number, status="cancelled")
    begin, end = waits.created_at.timestamp(), queued.created_at.timestamp()

    ids: dict[str, list[int]] = {
        str(query): listed(client, **query)
        for query in (
            {},
            {"status": "initial"},
            {"status[]": "initial,cancelled"},
            {"status[]": ["initial", "cancelled"]},
            {"pipeline_uuid": "push"},
            {"pipeline_uuid[]": "push,load", "status": "running"},
            {"pipeline_tag[]": "nightly,none"},
            {"pipeline_tag[]": "nightly,hourly", "pipeline_uuid": "load"},
            {"pipeline_tag[]": "none"},
            {"_limit": "", "backfill_id": "", "start_timestamp": "", "pipeline_tag[]": ""},
            {"start_timestamp": f"{begin:.6f}", "end_timestamp": f"{end:.6f}"},
            {"order_by[]": "created_at desc,id asc"},
            {"order_by[]": "id asc"},
            {"backfill_id": 12},
            {"disable_retries_grouping": "true", "include_pipeline_type": 1, "no_name": 1},
        )
    }

    first, second, third = (run.number for run in (waits, queued, ended))
    assert list(ids.values()) == [
        [second, first, third],  # the third stands for the earliest date
        [first],
        [first, third],
        [first, third],
        [second, third],
        [second],
        [first],
        [first],
        [],
        [second, first, third],
        [second, first],
        [third, second, first],
        [first, second, third],
        [],
        [second, first, third],
    ]


@pytest.mark.row("order_by[]: every column that a list shows of a run, several of them in turn")
def test_a_list_is_in_the_order_of_any_column(client: FlaskClient, database: Database) -> None:
    trigger = a_trigger(client, database, name="b")
    first, second = (started(client, trigger)["id"] for _ in range(2))
    other = started(client, a_trigger(client, database, name="a"))["id"]
    alone = a_run(database, a_spec("alone"), start=False).number
    play(database, first, Failed("no"))
    play(database, second, Succeeded())

    for column, ids in (
        ("execution_date", [first, second, other, alone]),
        ("id", [first, second, other, alone]),
        ("created_at", [first, second, other, alone]),
        ("updated_at", [other, alone, first, second]),
        ("started_at", [first, second, other, alone]),
        ("completed_at", [first, second, other, alone]),
        ("status", [alone, second, other, first]),
        ("pipeline_uuid", [alone, first, second, other]),
        ("pipeline_schedule_id", [first, second, other, alone]),
        ("pipeline_schedule_name", [other, first, second, alone]),
        ("pipeline_schedule_type", [first, second, other, alone]),
        ("backfill_id", [first, second, other, alone]),
        ("passed_sla", [first, second, other, alone]),
        ("block_runs_count", [alone, first, second, other]),
        ("completed_block_runs_count", [first, other, alone, second]),
    ):
        up = listed(client, **{"order_by[]": f"{column} asc,id asc"})
        down = listed(client, **{"order_by[]": f"{column} desc,id desc"})
        assert [number for number in up if number in ids] == ids, column
        assert down == up[::-1]
    pages = [
        listed(client, **{"order_by[]": "status", "_limit": 2, "_offset": at}) for at in (0, 2)
    ]
    assert pages[0][0] == alone
    assert not {*pages[0]} & {*pages[1]}
    assert listed(client, **{"order_by[]": ["status desc", "id"]})[0] == first
    for wrong in ("variables", "nope asc", "id up", "id asc nulls first", "id;"):
        reply = client.get(RUNS, query_string={"order_by[]": wrong})
        (line,) = refused(reply, 400, "record_invalid")["errors"]
        assert line.startswith("/query/order_by[]: ")


@pytest.mark.row("GET /api/pipeline_runs `status=last_run_failed`: the last run of a date")
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


@pytest.mark.row("settings.timeout, timeout_status: how a run ends that takes too long")
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


def test_a_page_takes_the_same_number_of_statements_however_long_it_is(
    client: FlaskClient, database: Database
) -> None:
    trigger = a_trigger(client, database)
    for path in (RUNS, f"{RUNS}?status=failed", "/api/pipeline_schedules"):
        play(database, started(client, trigger)["id"], Failed("no"))
        with recorded_statements(client) as before:
            answered(client.get(path))
        play(database, started(client, trigger)["id"], Failed("no"))
        a_trigger(client, database)
        with recorded_statements(client) as statements:
            answered(client.get(path))
        assert len(statements) == len(before)
        own = [sql for sql in statements if "FROM tallies" not in sql]  # those count live runs only
        assert not any(re.search(r"count\(.*FROM runs", sql, re.DOTALL) for sql in own)
