"""The query language: the matches of every function, expression and operator."""

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.engine import attempts
from orchestrator.engine.outcomes import Failed, Succeeded
from orchestrator.outputs.writer import write_output
from orchestrator.sdk.context import StepContext
from orchestrator.sdk.recorder import Recorder
from tests.contracts.adapters.opendatadsl import ROOT, refused
from tests.contracts.opendatadsl.helpers import NAMES, matches, search
from tests.support import reference_tenant
from tests.support.factories import a_claim, a_run, a_spec, messages_in

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
    ({"start": "range(2021-01-01,9999-12-31)"}, STARTED),
    ({"start": "range(0001-01-01,9999-12-31T23:59:59.999999Z)"}, STARTED),
    ({"start": "range(0001-01-01T00:00+14:00,9999-12-31T23:59-14:00)"}, STARTED),
    ({"start": "lte(9999-12-31)"}, STARTED),
    ({"start": "gt(9999-12-31)"}, set()),
    ({"start": "gte(0001-01-01)"}, STARTED),
    ({"start": "lt(0001-01-01)"}, set()),
    ({"start": "9999-12-31"}, set()),
    ({"start": "ne(9999-12-31)"}, ALL),
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


@pytest.mark.row("filters of any field, `range`, `gt` … `regex`, `_filter`, `_search`")
def test_a_filter_finds_what_it_says_and_nothing_else(reference_client: FlaskClient) -> None:
    assert [(query, matches(reference_client, query)) for query, _ in FILTERS] == FILTERS


@pytest.mark.row("every field that is shown is one to filter by")
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


@pytest.mark.row("a `+` of a query that was not encoded is a plus or a blank, as it fits")
@pytest.mark.parametrize(
    ("query", "runs"),
    [
        ("start=2026-04-02T10:00:01.120+02:00", {"failed"}),
        ("start=gt(2026-04-02T10:00:01.120+02:00)", {"running"}),
        ("start=range(2026-04-02T08:00+00:00,2026-04-02T08:01:30+00:00)", {"failed"}),
        ("start=2026-04-02+08:00:01.120", {"failed"}),
        ("_filter=start=gt(2026-04-02T10:00:01.120+02:00)+and+status=running", {"running"}),
        ("reason=month+end+check", ALL),
        ("reason=ne(month+end+check)", set()),
        ("reason=in(other,+month+end+check)", ALL),
        ("name=regex(^invo+ice_)", ALL),
        ("reason=regex(month+end)", ALL),
        ("name=ne(a+b)", ALL),
        ("name=a+b", set()),
        ("_search=invoice+export", ALL),
        ("_sort=+name,-start", ALL),
        ("start=2026-04-02T10:00:01.120%2B02:00", {"failed"}),
        ("start=2026-04-02T10:00:01.120%20%2B02:00", None),
        ('_filter={"start":+{"$gt":+"2026-04-02T08:00:01.120Z"}}', {"running"}),
    ],
)
def test_a_raw_plus_is_read_as_it_fits(
    reference_client: FlaskClient, query: str, runs: set[str] | None
) -> None:
    if runs is None:
        assert refused(reference_client.get(f"{ROOT}?{query}")) == 400
    else:
        assert matches(reference_client, query) == runs


@pytest.mark.row("`loaderMessage`: of the last step that loaded, and a field to filter by")
def test_the_message_of_the_loader_is_shown_and_searched(
    client: FlaskClient, database: Database, sent: list[Outbound]
) -> None:
    steps = [{"key": key, "uses": "noop"} for key in ("EXTRACT", "STORE", "LOAD", "REPORT")]
    run = a_run(database, a_spec("ecb") | {"steps": steps})
    shown = []
    for message in (None, "Updated 3 series", None, None):
        claim = next(
            claim for each in messages_in(sent) if (claim := a_claim(database, each.task_id))
        )
        recorder = Recorder()
        if message:
            context = StepContext(recorder=recorder)
            context.data(series={"2026-04-01": ["A", "B"]}, message=message)
            with database.transaction() as session:
                write_output(session, claim.source, recorder.drain())
        shown.append(client.get(f"{ROOT}/{run.id}").json.get("loaderMessage"))
        with database.transaction() as session:
            attempts.record_outcome(session, claim, Succeeded())
    shown.append(client.get(f"{ROOT}/{run.id}").json.get("loaderMessage"))

    assert shown == [None, "Updated 3 series", "Running LOAD", "Completed LOAD", "Completed LOAD"]
    for query, total in (
        ("Completed LOAD", 1),
        ("regex(^Completed)", 1),
        ("ne(null)", 1),
        ("null", 0),
        ("ne(Completed LOAD)", 0),
        ("Updated 3 series", 0),
    ):
        assert len(search(client, loaderMessage=query).json) == total, query
    (listed,) = search(client, _project="loaderMessage", _sort="-loaderMessage").json
    assert listed == {"_id": str(run.id), "loaderMessage": "Completed LOAD"}
    assert search(client, _distinct="loaderMessage").json == ["Completed LOAD"]


def test_a_loader_that_failed_says_why(
    client: FlaskClient, database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database, a_spec() | {"steps": [{"key": "load", "uses": "noop"}]})
    claim = a_claim(database, messages_in(sent)[-1].task_id)
    assert claim is not None
    with database.transaction() as session:
        attempts.record_outcome(session, claim, Failed("no such table", ("E",)))

    assert client.get(f"{ROOT}/{run.id}").json["loaderMessage"] == "no such table"
    plain = a_run(database)
    assert "loaderMessage" not in client.get(f"{ROOT}/{plain.id}").json
