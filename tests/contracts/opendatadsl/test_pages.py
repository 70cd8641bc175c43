"""Pages, orders, projections, groups and values."""

import json
from typing import Any

from flask.testing import FlaskClient

from tests.contracts.adapters.opendatadsl import ROOT
from tests.contracts.opendatadsl.helpers import NAMES, search
from tests.support import reference_tenant
from tests.support.statement_recorder import recorded_statements


def test_pages_orders_and_projections(reference_client: FlaskClient) -> None:
    newest = ["cancelled", "pending", "running", "failed", "succeeded"]
    orders = {
        "-start": newest,
        "start": newest[::-1],
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
