"""Pages, orders, projections, groups and values."""

import csv
import io
import json
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

from api.contracts.opendatadsl.surface import TOTAL
from orchestrator.db.database import Database
from tests.contracts.adapters.opendatadsl import ROOT
from tests.contracts.opendatadsl.helpers import NAMES, execute, search
from tests.support import reference_tenant
from tests.support.factories import a_run
from tests.support.statement_recorder import recorded_statements


@pytest.mark.row("`_limit`, `_skip`, `_sort`, `_project`")
def test_pages_orders_and_projections(reference_client: FlaskClient) -> None:
    newest = ["running", "failed", "succeeded", "cancelled", "pending"]
    orders = {
        "-start": newest,
        "start": ["succeeded", "failed", "running", "pending", "cancelled"],
        '{"start": -1}': newest,
        "name,_id": list(reference_tenant.RUNS),
        "status,-end": ["cancelled", "failed", "running", "succeeded", "pending"],
        '{"end":1,"_id":-1}': ["succeeded", "failed", "cancelled", "running", "pending"],
    }

    for order, names in orders.items():
        assert [NAMES[each["_id"]] for each in search(reference_client, _sort=order).json] == names
    assert [
        NAMES[each["_id"]] for each in search(reference_client, _limit=2, _skip=1).json
    ] == newest[1:3]
    assert search(reference_client, _limit=0).json == []
    assert len(search(reference_client, _limit=-1).json) == 5
    projected = search(
        reference_client, _project="status, end", name="invoice_export", _sort="start"
    ).json
    assert set(projected[0]) == {"_id", "status", "end"}
    assert set(projected[-1]) <= {"_id", "status", "end"}
    assert set(reference_client.get(f"{ROOT}/{reference_tenant.RUN}?_project=name").json) == {
        "_id",
        "name",
    }


@pytest.mark.row("`GET /v1`: the latest `start` first; those that never started come last")
def test_what_never_started_comes_last_on_pages_of_any_size(
    client: FlaskClient, database: Database, engine: Engine
) -> None:
    ids = [str(a_run(database).id) for _ in range(7)]
    started = [ids[place] for place in (5, 0, 3, 1)]  # the latest first
    for hours, each in enumerate(started):
        sql = "UPDATE runs SET started_at = now() - make_interval(hours => :hours) WHERE id = :id"
        execute(engine, sql, hours=hours, id=each)
    never = [each for each in reversed(ids) if each not in started]

    for order in ({}, {"_sort": "-start"}, {"_sort": '{"start": -1, "_id": -1}'}):
        for limit in (1, 2, 3, 4, 5, 7, 100):
            pages = [
                [each["_id"] for each in search(client, _limit=limit, _skip=skip, **order).json]
                for skip in range(0, 7, limit)
            ]
            assert [each for page in pages for each in page] == [*started, *never], (order, limit)
        assert search(client, _skip=7, **order).json == []
        assert search(client, _limit=2, _skip=3, name="work", **order).headers[TOTAL] == "7"


@pytest.mark.row("`_aggregate`")
def test_a_pipeline_groups_sorts_and_shows(reference_client: FlaskClient) -> None:
    def aggregate(*stages: Any, **more: Any) -> Any:
        return search(reference_client, _aggregate=json.dumps(stages), **more).json

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
    assert plain == [{"_id": str(reference_tenant.RUNS["succeeded"]), "status": "success"}]


@pytest.mark.row("`Accept: text/csv`: the list as CSV")
def test_a_list_is_given_as_csv(reference_client: FlaskClient) -> None:
    def lines(accept: str, **query: str) -> list[list[str]]:
        answer = reference_client.get(ROOT, query_string=query, headers={"Accept": accept})
        assert answer.content_type == "text/csv; charset=utf-8", answer.text
        return list(csv.reader(io.StringIO(answer.text)))

    whole = lines("text/csv", status="failed")
    logs = search(reference_client, status="failed").json
    assert whole[0][:3] == ["_id", "service", "name"]
    assert [line[0] for line in whole[1:]] == [each["_id"] for each in logs]
    assert json.loads(whole[1][whole[0].index("phases")]) == logs[0]["phases"]
    some = lines("text/csv, application/json;q=0.5", _project="status,phases.name", _limit="1")
    assert some[0] == ["_id", "status", "phases"]
    assert lines("text/csv", name="other", _project="status") == [["_id", "status"]]
    assert lines("text/csv", _distinct="name") == [["_id"], ["invoice_export"]]
    assert lines("text/csv", _fieldinfo="name")[0] == ["_id", "count", "filter"]
    for accept in ("*/*", "application/json, text/csv", "text/html"):
        answer = reference_client.get(ROOT, headers={"Accept": accept})
        assert (answer.mimetype, answer.headers[TOTAL]) == ("application/json", "5")


@pytest.mark.row("`_distinct`, `_fieldinfo`")
def test_values_of_a_field(reference_client: FlaskClient) -> None:
    assert search(reference_client, _distinct="name").json == ["invoice_export"]
    assert len(search(reference_client, _distinct="start", status="failed").json) == 1
    assert search(reference_client, _fieldinfo="message", status="success").json == [
        {
            "_id": "Completed Successfully",
            "count": 1,
            "filter": {"message": "Completed Successfully"},
        }
    ]


def test_a_page_asks_a_fixed_number_of_questions(reference_client: FlaskClient) -> None:
    with recorded_statements(reference_client) as few:
        search(reference_client, name="invoice_export")
    for _ in range(3):
        reference_client.post(ROOT, json={"name": "invoice_export"})
    with recorded_statements(reference_client) as more:
        search(reference_client, name="invoice_export")

    assert len(more) == len(few) < 20
