"""The query language: the matches of every function, expression and operator."""

import json
from typing import Any

from flask.testing import FlaskClient

from tests.contracts.adapters.opendatadsl import ROOT
from tests.contracts.opendatadsl.helpers import NAMES, matches
from tests.support import reference_tenant

ALL = set(reference_tenant.RUNS)
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
    ({"_id": str(reference_tenant.RUN)}, {"failed"}),
    ({"_id": "no id"}, set()),
    ({"_id": f"regex({str(reference_tenant.RUN)[-4:]}$)"}, {"failed"}),
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
    ({"name": "in('a, b', \"invoice_export\")"}, ALL),
    ({"_filter": "status=failed and name=other or status=running"}, {"running"}),
    ({"_filter": "status=running or status=failed and name=other"}, {"running"}),
    ({"_filter": "(status=running or status=failed) and name=other"}, set()),
    ({"name": "x' OR '1'='1"}, set()),
    ({"_search": "%"}, set()),
    ({"name": "regex(;|--|\\$1|%s|:x)"}, set()),
]  # fmt: skip


def test_a_filter_finds_what_it_says_and_nothing_else(reference_client: FlaskClient) -> None:
    assert [(query, matches(reference_client, query)) for query, _ in FILTERS] == FILTERS


def test_every_member_that_is_shown_can_be_filtered_by(reference_client: FlaskClient) -> None:
    for log in reference_client.get(ROOT).json:
        shown = {name: each for name, each in log.items() if isinstance(each, str)}
        phases = {f"phases.{name}": each for name, each in (log["phases"] or [{}])[0].items()}
        phases.pop("phases.log", None)

        assert NAMES[log["_id"]] in matches(reference_client, shown | phases)
        others = [{name: {"$ne": value}} for name, value in (shown | phases).items()]
        assert NAMES[log["_id"]] not in matches(
            reference_client, {"_filter": json.dumps({"$or": others})}
        )
