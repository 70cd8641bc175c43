"""OpenDataDSL process execution, as its documentation and its clients have it."""

import base64
import json
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, event, text
from werkzeug.test import TestResponse

from api.contracts.opendatadsl import schemas
from api.contracts.opendatadsl.views import DETAILED
from orchestrator.db import Database
from orchestrator.models import Run
from orchestrator.states import FINAL_RUNS, RunState, StepState
from tests import reference
from tests.factories import KEY, a_run, a_spec
from tests.integration.contracts.conftest import Golden
from tests.integration.contracts.opendatadsl_adapter import ADAPTER, ROOT, refused
from tests.keys import a_key, with_key

FORM = "application/x-www-form-urlencoded"
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
NAMES = {str(run_id): name for name, run_id in reference.RUNS.items()}


@pytest.fixture
def api(reference_api: FlaskClient) -> FlaskClient:
    """The reference tenant, asked with its key."""
    reference_api.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {reference.SECRET}"
    return reference_api


def _ask(api: FlaskClient, **query: Any) -> TestResponse:
    answer = api.get(ROOT, query_string=query)
    assert answer.status_code == 200, answer.headers.get("x-odsl-error")
    return answer


def _found(api: FlaskClient, query: Any) -> set[str]:
    given = query if isinstance(query, str) else urlencode(query)
    answer = api.get(f"{ROOT}?_project=_id&{given}")
    assert answer.status_code == 200, (query, answer.headers.get("x-odsl-error"))
    found = {NAMES[each["_id"]] for each in answer.json}
    assert int(answer.headers["x-total-count"]) == len(found)
    return found


def _put(engine: Engine, sql: str, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(text(sql), values)


# --- every endpoint, byte for byte


ADDRESSES = [
    ("list", "/api/process-exec/v1"),
    ("list_projected", "/api/process-exec/v1/private?_project=name,status,phases.name"),
    ("execution", f"/api/process-exec/v1/{reference.RUN}"),
    ("public", "/api/process-exec/v1/public"),
    ("distinct", "/api/process-exec/v1?_distinct=status"),
    ("fieldinfo", "/api/process-exec/v1?_fieldinfo=status"),
    (
        "aggregate",
        '/api/process-exec/v1?_aggregate=[{"$group":{"_id":"$status","count":{"$sum":1}}}]',
    ),
    ("processes", "/api/process/v1"),
    ("process", "/api/process/v1/invoice_export"),
    ("process_version", "/api/process/v1/private/invoice_export/3"),
    ("process_versions", "/api/process/v1/invoice_export/*"),
]


def test_what_every_address_gives(api: FlaskClient, golden: Golden) -> None:
    for name, address in ADDRESSES:
        answer = api.get(address)
        assert answer.status_code == 200
        assert answer.mimetype == "application/json"
        golden(f"opendatadsl/{name}", answer.json)


def test_the_bare_base_gives_build_information(api: FlaskClient, golden: Golden) -> None:
    for service in ("process-exec", "process", "process-exec"):
        prefix = "service" if service == "process" else "api"
        told = api.get(f"/{prefix}/{service}/").json
        assert INSTANT.fullmatch(told["timestamp"])
        assert told["build"]
        golden(f"opendatadsl/build_{service}", {**told, "timestamp": "…", "build": "…"})


def test_a_trigger_gives_the_new_execution(api: FlaskClient, golden: Golden) -> None:
    answer = api.post(
        "/api/process-exec/v1?_reason=month%20end%20check&_delay=5000",
        json={"name": "invoice_export", "body": {"day": "2026-03-31"}},
    )

    assert answer.status_code == 200
    assert UUID(answer.json["_id"])
    golden("opendatadsl/triggered", {**answer.json, "_id": "…"})


def test_the_documents_have_every_member_that_is_shown(api: FlaskClient) -> None:
    log = api.get(f"{ROOT}/{reference.RUN}").json

    assert set(log) <= set(schemas.Execution().fields)
    assert set(log["phases"][0]) == set(schemas.Phase().fields)
    document = api.get("/openapi/opendatadsl.json").json
    listed = document["paths"]["/api/process-exec/v1"]["get"]["parameters"]
    assert {"_filter", "_search", "_limit"} <= {each["name"] for each in listed}


def test_an_unknown_execution_is_refused_as_published(api: FlaskClient) -> None:
    answer = api.get(f"{ROOT}/5f0c0000-0000-4000-8000-000000000000")

    assert refused(answer) == 404
    assert answer.text == "Not Found"
    told = "[1004] No process execution with id 5f0c0000-0000-4000-8000-000000000000"
    assert answer.headers["x-odsl-error"] == told


# --- hidden traps


def test_trap_1_private_is_a_source_and_not_a_key(api: FlaskClient) -> None:
    assert len(api.get(f"{ROOT}/private").json) == 5
    assert api.get(f"{ROOT}/private/").json == api.get(ROOT).json
    assert api.get(f"{ROOT}/private/{reference.RUN}").json["_id"] == str(reference.RUN)
    assert api.get(f"{ROOT}/public").json == []
    assert refused(api.get(f"{ROOT}/public/{reference.RUN}")) == 404


def test_trap_2_a_list_is_a_bare_array(api: FlaskClient) -> None:
    answer = api.get(ROOT)

    assert isinstance(answer.json, list)
    assert answer.headers["x-total-count"] == "5"


def test_trap_3_any_other_name_is_a_field(api: FlaskClient) -> None:
    assert _found(api, "colour=green") == set()
    assert _found(api, "colour=null") == set(reference.RUNS)
    assert _found(api, "colour=ne(green)") == set(reference.RUNS)
    assert refused(api.get(f"{ROOT}?_colour=green")) == 400
    assert refused(api.get(f"{ROOT}?_start=5")) == 400


def test_trap_4_a_key_may_have_any_character(api: FlaskClient) -> None:
    for key in ("#ECB.FX:SPOT", "a:b", "a/b", "ä.b", "a b"):
        answer = api.get(f"{ROOT}/private/{quote(key, safe='')}")
        assert refused(answer) == 404
        named = key.replace("ä", "\xe4")
        assert answer.headers["x-odsl-error"] == f"[1004] No process execution with id {named}"


def test_trap_5_the_query_may_be_the_body_of_a_get(api: FlaskClient) -> None:
    long = ", ".join(f"name{number}" for number in range(300))
    query = {"name": f"in({long}, invoice_export)", "status": "failed", "_limit": "1"}

    answer = api.get(
        f"{ROOT}/private",
        data=urlencode(query),
        content_type=FORM,
    )

    assert len(answer.json) == 1
    assert answer.headers["x-total-count"] == "2"
    answer = api.get(f"{ROOT}?status=running", data="_limit=%00", content_type="text/plain")
    assert len(answer.json) == 1


def test_trap_6_a_trigger_answers_json(api: FlaskClient) -> None:
    for address in ("", "/v1", "/v1/private", "/v1/", "/"):
        answer = api.post(f"/api/process-exec{address}", json={"name": "invoice_export"})
        assert answer.status_code == 200
        assert json.loads(answer.text)["status"] == "triggered"


def test_trap_7_every_refusal_says_why_in_its_header(api: FlaskClient) -> None:
    refusals = {
        401: api.get(ROOT, headers={"Authorization": "Bearer wrong"}),
        400: api.get(f"{ROOT}?start=gt(yesterday)"),
        404: api.get("/api/process-exec/v2/somewhere"),
        405: api.delete(f"{ROOT}/{reference.RUN}"),
        415: api.post(ROOT, data="<a/>", content_type="application/xml"),
    }

    assert {status: refused(answer) for status, answer in refusals.items()} == {
        status: status for status in refusals
    }
    assert "WWW-Authenticate" in refusals[401].headers
    assert "Allow" in refusals[405].headers


def test_trap_8_the_total_does_not_depend_on_the_page(api: FlaskClient) -> None:
    for query in ({}, {"status": "failed"}, {"start": "range(2026-04-02,2026-04-02)"}):
        totals = {
            api.head(ROOT, query_string={**query, "_limit": limit}).headers["x-total-count"]
            for limit in (0, 1, 100, -1)
        }
        assert totals == {str(len(api.get(ROOT, query_string=query).json))}


# --- searching

ALL = set(reference.RUNS)
STARTED = {"succeeded", "failed", "running"}
FILTERS: list[tuple[Any, set[str]]] = [
    ({"name": "invoice_export"}, ALL),
    ({"name": "other"}, set()),
    ({"status": "failed"}, {"failed", "cancelled"}),
    ({"status": "triggered"}, {"pending"}),
    ({"status": "ne(failed)"}, ALL - {"failed", "cancelled"}),
    ({"status": "in(success, running)"}, {"succeeded", "running"}),
    ({"status": "regex(^(suc|run).*)"}, {"succeeded", "running"}),
    ({"status": "gt(running)"}, {"succeeded", "pending"}),
    ({"status": "cancelled"}, set()),
    ({"start": "range(2026-04-01,2026-04-02)"}, STARTED),
    ({"start": "range(2026-04-03,2026-04-04)"}, set()),
    ({"start": "2026-04-02"}, STARTED),
    ({"start": "2026-04-02T08:00:01.120Z"}, {"failed"}),
    ({"start": "2026-04-02T10:00:01.120+02:00"}, {"failed"}),
    ({"start": "gt(2026-04-02T08:00:01.120Z)"}, {"running"}),
    ({"start": "gte(2026-04-02T08:00:01.120Z)"}, {"running", "failed"}),
    ({"start": "lt(2026-04-02T08:00:01.120Z)"}, {"succeeded"}),
    ({"start": "lte(2026-04-02T08:00:01.120Z)"}, {"succeeded", "failed"}),
    ({"start": "gt(2026-04-02)"}, set()),
    ({"start": "ne(null)"}, STARTED),
    ({"start": "null"}, {"pending", "cancelled"}),
    ({"start": "regex(T08:)"}, {"failed", "running"}),
    ([("start", "gte(2026-04-02T08:00)"), ("start", "lt(2026-04-02T08:02)")], {"failed"}),
    ({"_id": str(reference.RUN)}, {"failed"}),
    ({"_id": "no id"}, set()),
    ({"_id": f"regex({str(reference.RUN)[-4:]}$)"}, {"failed"}),
    ({"runAs": "ledger", "environment": "production", "service": "ETL"}, ALL),
    ({"message": "regex(HTTP 503)"}, {"failed"}),
    ({"message": "in(Completed Successfully, Waiting for a worker)"}, {"succeeded", "pending"}),
    ({"trigger": "manual", "reason": "month end check"}, ALL),
    ({"trigger": "scheduled"}, set()),
    ({"phases.status": "failed"}, {"failed"}),
    ({"phases.status": "ne(success)"}, {"pending", "cancelled"}),
    ({"phases.name": "regex(^push$)"}, STARTED),
    ({"phases.message": "HTTP 503 from target"}, {"failed"}),
    ({"phases.start": "range(2026-04-02T08:02,2026-04-02T08:03)"}, {"running"}),
    ({"phases.log": "regex(came twice)"}, {"failed"}),
    ({"phases.colour": "red"}, set()),
    ({"data.series": "INVOICES:EUR"}, {"failed"}),
    ({"data.series.2026-04-01": "regex(^INV)"}, {"failed"}),
    ({"data.series.2026-04-02": "ne(null)"}, set()),
    ({"data.curves": "ne(null)"}, {"failed"}),
    ({"data": "null"}, ALL - {"failed"}),
    ({"data.name": "x"}, set()),
    ({"_filter": "(status=failed or status=running) and name=invoice_export"},
     {"failed", "cancelled", "running"}),
    ({"_filter": "message='Completed Successfully' OR phases.name=regex((N|n)otify)"},
     {"succeeded"}),
    ({"_filter": "name=in(a, invoice_export) and start=range(2026-04-01, 2026-04-30)"}, STARTED),
    ({"_filter": '{"status": "failed", "start": {"$gte": "2026-04-02"}}'}, {"failed"}),
    ({"_filter": '{"$or": [{"status": {"$in": ["running"]}}, {"end": {"$exists": false}}]}'},
     {"running", "pending"}),
    ({"_filter": '{"status": {"$nin": ["failed"]}, "name": {"$regex": "^INV", "$options": "i"}}'},
     ALL - {"failed", "cancelled"}),
    ({"_filter": '{"start": {"$lt": {"$date": "2026-04-02T08:00:00Z"}}}'}, {"succeeded"}),
    ({"_filter": '{"name": {"$not": {"$eq": "invoice_export"}}}'}, set()),
    ({"_search": "INVOICE"}, ALL),
    ({"_search": "invoice -claims"}, set()),
    ({"_search": "(nothing | quarter) export"}, ALL),
    ({"_search": "status==failed"}, {"failed", "cancelled"}),
    ({"_search": 'status=FAIL|"first quarter" status=run'}, {"failed", "cancelled", "running"}),
    ({"_search": "invoice", "_filter": "status=success", "start": "2026-04-02"}, {"succeeded"}),
    ({"name": "'invoice_export'"}, ALL),
    ({"name": "x' OR '1'='1"}, set()),
    ({"_search": "%"}, set()),
    ({"name": "regex(;|--|\\$1|%s|:x)"}, set()),
]  # fmt: skip


def test_a_filter_finds_what_it_says_and_nothing_else(api: FlaskClient) -> None:
    found = [(query, _found(api, query)) for query, _ in FILTERS]

    assert found == FILTERS


def test_every_member_that_is_shown_can_be_filtered_by(api: FlaskClient) -> None:
    for log in api.get(ROOT).json:
        shown = {name: each for name, each in log.items() if isinstance(each, str)}
        phases = {f"phases.{name}": each for name, each in (log["phases"] or [{}])[0].items()}
        phases.pop("phases.log", None)

        assert NAMES[log["_id"]] in _found(api, shown | phases)
        for name, value in (shown | phases).items():
            assert NAMES[log["_id"]] not in _found(api, {name: f"ne({value})"}), name


HOSTILE = [
    {"_filter": "(" * 100_000},
    {"_filter": "a" * 1_000_000},
    {"_filter": "name=x or " * 390 + "name=x"},
    {"_filter": "name='" + "\\" * 3900},
    {"_filter": "name=regex((a+)+$)"},
    {"_filter": "name=regex((((((((((((((((((((((a)))))))))))))))))))))))"},
    {"_filter": '{"$or":[' * 200 + "{}" + "]}" * 200},
    {"_filter": '{"name": "\\ud800"}'},
    {"_filter": '{"$where": "sleep(1000)"}'},
    {"_filter": '{"name": {"$gt": {"a": 1}}}'},
    {"_filter": "[" * 3900},
    {"_filter": "name=x; DROP TABLE runs"},
    {"_filter": "name"},
    {"_filter": ""},
    {"_search": "(a|" * 300},
    {"_search": "a " * 490},
    {"_search": "(.*)*x"},
    {"_search": "|"},
    {"name": "regex((?=x))"},
    {"name": "regex(\\1)"},
    {"name": "regex(" + "a{100}" * 60 + ")"},
    {"name": "regex([z-a])"},
    {"name": "regex([)"},
    {"name": "in(" + "x," * 100_000 + ")"},
    {"name": "gt(1,2)"},
    {"start": "range(2026-01-01)"},
    {"start": "range(2026-13-01,2026-14-01)"},
    {"start": "0000-00-00"},
    {"start": "9999-12-31"},
    {"_limit": "1e3"},
    {"_limit": "-2"},
    {"_limit": "9" * 5000},
    {"_skip": "-1"},
    {"_skip": "99999999999"},
    {"_sort": "phases.name"},
    {"_sort": '{"name": 2}'},
    {"_sort": "colour"},
    {"_distinct": "data.series"},
    {"_fieldinfo": "phases"},
    {"_aggregate": "[]"},
    {"_aggregate": '[{"$lookup": {}}]'},
    {"_aggregate": '[{"$group": {"_id": "$status"}}, {"$match": {}}]'},
    {"_aggregate": '[{"$limit": 1}, {"$sort": {"name": 1}}]'},
    {"_aggregate": '[{"$group": {"_id": "$status", "x": {"$push": "$name"}}}]'},
    {"_aggregate": '[{"$match": {}}]' * 2},
]  # fmt: skip


def test_a_hostile_query_is_refused_with_its_place(api: FlaskClient) -> None:
    for query in HOSTILE:
        ((name, _),) = query.items()
        answer = api.get(ROOT, data=urlencode(query), content_type=FORM)
        assert refused(answer) == 400, query
        told = answer.headers["x-odsl-error"]
        assert f"/query/{name}" in told or "/query the query has at most" in told
    assert refused(api.get(ROOT, query_string=HOSTILE[0])) == 400


def test_a_search_that_takes_too_long_is_refused(
    api: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.searching.LONGEST", "1ms")

    tests = " or ".join(f"message=regex(a.*{each})" for each in range(90))

    answer = api.get(ROOT, query_string={"_filter": tests})

    assert refused(answer) == 400
    assert "takes too long" in answer.headers["x-odsl-error"]


def test_a_form_with_a_nul_is_refused(api: FlaskClient) -> None:
    assert refused(api.get(f"{ROOT}?name=%00")) == 400
    for body in ("name=%00", b"name=\xff", "a=b&" * 300):
        assert refused(api.get(ROOT, data=body, content_type=FORM)) == 400


def test_pages_orders_and_projections(api: FlaskClient) -> None:
    newest = ["cancelled", "pending", "running", "failed", "succeeded"]
    orders = {
        "-start": newest,
        "start": newest[::-1],
        '{"start": -1}': newest,
        "name,_id": list(reference.RUNS),
        "status,-end": ["cancelled", "failed", "running", "succeeded", "pending"],
        '{"end":1,"_id":-1}': ["succeeded", "failed", "cancelled", "running", "pending"],
    }

    for order, names in orders.items():
        assert [NAMES[each["_id"]] for each in _ask(api, _sort=order).json] == names
    assert [NAMES[each["_id"]] for each in _ask(api, _limit=2, _skip=1).json] == newest[1:3]
    assert _ask(api, _limit=0).json == []
    assert len(_ask(api, _limit=-1).json) == 5
    projected = _ask(api, _project="status, end", name="invoice_export", _sort="start").json
    assert set(projected[0]) == {"_id", "status", "end"}
    assert set(projected[-1]) <= {"_id", "status", "end"}
    assert set(api.get(f"{ROOT}/{reference.RUN}?_project=name").json) == {"_id", "name"}


def test_a_pipeline_groups_sorts_and_shows(api: FlaskClient) -> None:
    def aggregate(*stages: Any, **more: Any) -> Any:
        return _ask(api, _aggregate=json.dumps(stages), **more).json

    by_status = {"$group": {"_id": "$status", "n": {"$sum": 2}, "last": {"$max": "$start"}}}
    assert aggregate(
        {"$match": {"status": {"$ne": "triggered"}}}, by_status, {"$sort": {"n": -1, "_id": -1}},
        {"$limit": 2}, {"$project": {"last": 0}},
    ) == [{"_id": "failed", "n": 4}, {"_id": "success", "n": 2}]  # fmt: skip
    everything = {"$group": {"_id": None, "n": {"$sum": 1}, "mean": {"$avg": "$start"}}}
    assert aggregate(everything) == [{"_id": None, "n": 5, "mean": None}]
    assert aggregate(everything, name="other") == []
    pairs = {"$group": {"_id": {"s": "$status", "p": "$name"}, "first": {"$min": "$start"}}}
    assert aggregate(pairs, status="running") == [
        {"_id": {"s": "running", "p": "invoice_export"}, "first": "2026-04-02T08:02:01.120Z"}
    ]
    plain = aggregate({"$sort": {"start": 1}}, {"$limit": 1}, {"$project": {"status": 1}})
    assert plain == [{"_id": str(reference.RUNS["succeeded"]), "status": "success"}]


def test_values_of_a_field(api: FlaskClient) -> None:
    assert _ask(api, _distinct="name").json == ["invoice_export"]
    assert len(_ask(api, _distinct="start", status="failed").json) == 1
    assert _ask(api, _fieldinfo="message", status="success").json == [
        {
            "_id": "Completed Successfully",
            "count": 1,
            "filter": {"message": "Completed Successfully"},
        }
    ]


def test_a_page_asks_a_fixed_number_of_questions(api: FlaskClient) -> None:
    asked: list[str] = []
    engine = api.application.extensions["orchestrator"].database.engine
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append(given[2]))

    def questions() -> int:
        asked.clear()
        _ask(api, name="invoice_export")
        return len(asked)

    questions()  # prepares what is prepared once
    few = questions()
    for _ in range(3):
        api.post(ROOT, json={"name": "invoice_export"})

    assert questions() == few < 20


# --- states


def _end(database: Database, run: Run, state: RunState, **values: Any) -> None:
    given = {"state": state.value, "id": run.id, **values}
    if state in FINAL_RUNS:
        given["finished_at"] = datetime.now(UTC)
    columns = ", ".join(f"{name} = :{name}" for name in given if name != "id")
    _put(database.engine, f"UPDATE runs SET {columns} WHERE id = :id", **given)


def test_every_state_has_its_word_and_its_message(client: FlaskClient, database: Database) -> None:
    messages = {
        RunState.PENDING: "Waiting for a worker",
        RunState.QUEUED: "Waiting for a worker",
        RunState.RUNNING: "Running",
        RunState.CANCELLING: "Cancelling",
        RunState.SUCCEEDED: "Completed Successfully",
        RunState.FAILED: "Failed",
        RunState.TIMED_OUT: "Timed out: after 5 s",
        RunState.CANCELLED: "Cancelled: no more",
    }
    error = '{"message": "after 5 s"}'
    made = {state: a_run(database) for state in messages}
    for state, run in made.items():
        more = {"error": error} if state == RunState.TIMED_OUT else {}
        _end(database, run, state, cancel_reason="no more", **more)

    listed = {each["_id"]: each for each in client.get(ROOT).json}

    for state, run in made.items():
        shown = listed[str(run.id)]
        assert (shown["status"], shown["message"]) == (ADAPTER.states[state], messages[state])
    for wire in set(ADAPTER.states.values()):
        ids = {str(run.id) for state, run in made.items() if ADAPTER.states[state] == wire}
        found = client.get(f"{ROOT}?status={wire}")
        assert {each["_id"] for each in found.json} == ids
        assert found.headers["x-total-count"] == str(len(ids))
        others = client.get(f"{ROOT}?status=ne({wire})&_limit=1")
        assert others.headers["x-total-count"] == str(len(made) - len(ids))


def test_a_run_with_warnings_ends_with_a_warning(client: FlaskClient, database: Database) -> None:
    for warnings in (0, 3):
        _end(database, a_run(database), RunState.SUCCEEDED, warnings=warnings)

    for wire in ("success", "warning"):
        answer = client.get(f"{ROOT}?status={wire}&name=work")
        assert [each["status"] for each in answer.json] == [wire]
        assert answer.headers["x-total-count"] == "1"
    assert client.get(f"{ROOT}?status=in(warning,success)").headers["x-total-count"] == "2"
    assert client.get(f"{ROOT}?_distinct=status").json == ["success", "warning"]


def test_a_phase_appears_when_its_step_has_begun(client: FlaskClient, database: Database) -> None:
    run = a_run(database)
    assert client.get(f"{ROOT}/{run.id}").json["phases"] == []
    begun = "UPDATE steps SET state = :state, started_at = now() WHERE run_id = :id"

    for state in StepState:
        _put(database.engine, begun, state=state.value, id=run.id)
        shown = ADAPTER.steps(client, run.tenant_id, str(run.id))
        wire = ADAPTER.step_states.get(state)  # none for one that was skipped
        assert list(shown.values()) == [wire] * (wire is not None)
    (phase,) = client.get(f"{ROOT}/{run.id}").json["phases"]
    assert phase["message"] == "Cancelled s1"


def test_a_tenant_may_ask_for_all_words_of_a_status(
    client: FlaskClient, database: Database
) -> None:
    words = {
        "reschedule": "UPDATE steps SET forgiven = 1 WHERE run_id = :id",
        "retrying": "UPDATE steps SET state = 'running', attempt = 2 WHERE run_id = :id",
        "waiting": "UPDATE steps SET state = 'waiting', attempt = 1 WHERE run_id = :id",
    }
    for word, change in words.items():
        run = a_run(database)
        state = "pending" if word == "reschedule" else "running"
        _put(database.engine, "UPDATE runs SET state = :s WHERE id = :id", s=state, id=run.id)
        _put(database.engine, change, id=run.id)

    plain = {each["status"] for each in client.get(ROOT).json}
    settings = "UPDATE tenants SET settings = CAST(:settings AS jsonb) WHERE name = 'default'"
    _put(database.engine, settings, settings=json.dumps({DETAILED: True}))
    try:
        detailed = {each["status"] for each in client.get(ROOT).json}
        found = {word: client.get(f"{ROOT}?status={word}").headers["x-total-count"]
                 for word in (*words, "running")}  # fmt: skip
    finally:
        _put(database.engine, settings, settings="{}")

    assert plain == {"triggered", "running"}
    assert detailed == set(words)
    assert found == {**dict.fromkeys(words, "1"), "running": "0"}


def test_a_run_of_a_schedule_says_so_as_published(client: FlaskClient, database: Database) -> None:
    run = a_run(database, a_spec("ECB_FX"))
    _put(
        database.engine,
        "UPDATE runs SET trigger = 'schedule', reason = 'cron(30 16 * * *)',"
        " logical_date = '2021-07-01T16:30:00Z', submitted_by = 'schedule'",
    )

    found = client.get(f"{ROOT}?trigger=scheduled&reason=regex(^crontab)").json[0]

    assert found["_id"] == str(run.id)
    crontab = "crontab(ECB_FX,Thu Jul 01 2021 16:30:00 GMT+0000 (Greenwich Mean Time))"
    assert found["reason"] == crontab
    assert found["triggerTime"] == "2021-07-01T16:30:00.000Z"
    _put(database.engine, "UPDATE runs SET trigger = 'event', reason = NULL, run_as = NULL")
    found = client.get(f"{ROOT}/{run.id}").json
    assert (found["trigger"], found["reason"], found["runAs"]) == (
        "subscription", "subscription", "schedule",
    )  # fmt: skip


# --- triggering


def test_parameters_of_the_body_go_over_those_of_the_input(
    client: FlaskClient, database: Database
) -> None:
    a_run(database, a_spec("P"))

    made = client.post(
        f"{ROOT}?_reason=why",
        json={"name": "P", "input": {"a": 1, "b": 1}, "body": {"b": 2}, "colour": "green"},
    ).json

    run = client.get(f"/api/v1/runs/{made['_id']}").json
    assert run["params"] == {"a": 1, "b": 2}
    assert (run["reason"], run["trigger"], run["run_at"]) == ("why", "manual", None)
    assert run["state"] == "queued"


def test_a_delay_is_waited_for(client: FlaskClient, database: Database) -> None:
    a_run(database, a_spec("P"))

    made = client.post(f"{ROOT}?_delay=60000", json={"name": "P"}).json

    run = client.get(f"/api/v1/runs/{made['_id']}").json
    assert run["run_at"] is not None
    assert run["state"] == "pending"


UNUSABLE: list[tuple[str, Any, int]] = [
    ("", {}, 400),
    ("", {"name": 5}, 400),
    ("", {"name": None}, 400),
    ("", [], 400),
    ("", "x", 400),
    ("", {"name": "P", "body": []}, 400),
    ("", {"name": "P", "input": "x"}, 400),
    ("", {"name": "P\x00"}, 400),
    ("", {"name": "unknown"}, 404),
    ("?_delay=soon", {"name": "P"}, 400),
    ("?_delay=-1", {"name": "P"}, 400),
    ("?_delay=" + "9" * 30, {"name": "P"}, 400),
    ("?_reason=" + "x" * 5000, {"name": "P"}, 400),
    ("", {"name": "P", "body": {"day": 5}}, 400),
]


def test_a_trigger_that_cannot_be_used_is_refused_and_leaves_nothing(
    client: FlaskClient, database: Database
) -> None:
    params = {"type": "object", "properties": {"day": {"type": "string"}}}
    a_run(database, a_spec("P", params=params))

    for address, body, status in UNUSABLE:
        assert refused(client.post(f"{ROOT}{address}", json=body)) == status, (address, body)

    assert client.get(ROOT).headers["x-total-count"] == "1"


def test_a_trigger_without_a_body_or_with_a_wrong_type_is_understood(
    client: FlaskClient, database: Database
) -> None:
    a_run(database, a_spec("P"))

    assert refused(client.post(ROOT, content_type="application/json")) == 400
    assert refused(client.post(ROOT, data="{", content_type="application/json")) == 400
    assert client.post(ROOT, data='{"name": "P"}').status_code == 200
    assert client.post(ROOT, data='{"name": "P"}', content_type="text/plain").status_code == 200


def test_executions_belong_to_an_environment(client: FlaskClient, database: Database) -> None:
    a_run(database, a_spec("P"))
    staging = {"x-odsl-environment": "staging"}

    made = client.post(ROOT, json={"name": "P"}, headers=staging).json

    assert made["environment"] == "staging"
    listed = client.get(ROOT, headers=staging)
    assert [each["_id"] for each in listed.json] == [made["_id"]]
    assert listed.headers["x-total-count"] == "1"
    for query in ("", "?name=P", "?status=triggered", "?_limit=1"):
        answer = client.get(f"{ROOT}{query}")
        assert [each["environment"] for each in answer.json] == ["production"]
        assert answer.headers["x-total-count"] == "1"
    assert client.get(f"{ROOT}/{made['_id']}").json["environment"] == "staging"
    long = {"x-odsl-environment": "x" * 101}
    assert refused(client.get(ROOT, headers=long)) == 400


# --- who may ask


def test_a_key_is_taken_in_three_forms(client: FlaskClient) -> None:
    bare = client.application.test_client()
    basic = base64.b64encode(f"ops@acme.example:{KEY}".encode()).decode()
    forms = (
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"Basic {basic}"},
        {"x-odsl-email": "ops@acme.example", "x-odsl-key": KEY},
    )

    assert [bare.get(ROOT, headers=form).status_code for form in forms] == [200] * 3
    for form in ({}, {"x-odsl-email": "ops@acme.example"}, {"Authorization": "Basic x"}):
        for address in ("", "/v1", "/v1/x", "/nowhere"):
            assert refused(bare.get(f"/api/process-exec{address}", headers=form)) == 401


@pytest.mark.usefixtures("no_keys_left")
def test_the_user_of_a_key_runs_what_it_triggers(client: FlaskClient, database: Database) -> None:
    a_run(database, a_spec("P"))
    secret = a_key(client, "operator", user="ops@acme.example")["key"]
    bare = client.application.test_client()
    mine = {"x-odsl-email": "ops@acme.example", "x-odsl-key": secret}

    made = bare.post(ROOT, json={"name": "P"}, headers=mine)

    assert made.json["runAs"] == "ops@acme.example"
    assert refused(bare.get(ROOT, headers={**mine, "x-odsl-email": "eve@acme.example"})) == 401


@pytest.mark.usefixtures("no_keys_left")
def test_a_role_or_scope_that_does_not_reach_is_refused(
    client: FlaskClient, database: Database
) -> None:
    a_run(database, a_spec("P"))
    viewer = with_key(client, a_key(client, "viewer")["key"])
    workflows = with_key(client, a_key(client, "admin", scopes=["workflows:read"])["key"])

    assert refused(viewer.post(ROOT, json={"name": "P"})) == 403
    assert viewer.get(ROOT).status_code == 200
    assert refused(workflows.get(ROOT)) == 403
    assert workflows.get("/api/process/v1").status_code == 200
    assert refused(workflows.post(ROOT, json={"name": "P"})) == 403


# --- processes


def test_processes_can_be_looked_at(client: FlaskClient, database: Database) -> None:
    for steps in (1, 2):
        a_run(database, a_spec("P", steps=steps, service="ETL", tags=["nightly"]))
    a_run(database, a_spec("A"))

    listed = client.get("/api/process/v1/private?_limit=1&_skip=1")

    assert [each["_id"] for each in listed.json] == ["P"]
    assert listed.headers["x-total-count"] == "2"
    assert listed.json[0]["tags"] == ["nightly"]
    assert [each["_version"] for each in client.get("/api/process/v1/P/*").json] == [2, 1]
    assert client.get("/api/process/v1/private/P/1").json["_version"] == 1
    assert client.get("/service/process/v1/P").json["_version"] == 2
    for address in ("X", "P/3", "P/0", "P/PROD", "P/" + "9" * 30, "X/*", "public/P"):
        assert refused(client.get(f"/api/process/v1/{address}")) == 404, address
    assert client.get("/api/process/v1/public").json == []


def test_the_old_prefix_still_works(client: FlaskClient, database: Database) -> None:
    run = a_run(database)

    assert client.get(f"/service/process-exec/v1/{run.id}").json["_id"] == str(run.id)
    assert client.get("/service/process-execution/v1").status_code == 404
