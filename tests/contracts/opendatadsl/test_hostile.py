"""Hostile queries are refused with the parameter at fault."""

from urllib.parse import urlencode

import pytest
from flask.testing import FlaskClient

from tests.contracts.adapters.opendatadsl import ROOT, refused
from tests.contracts.opendatadsl.helpers import FORM

HOSTILE = [
    {"_filter": "(" * 100_000},
    {"_filter": "a" * 1_000_000},
    {"_filter": "name=x or " * 390 + "name=x"},
    {"_filter": "name='" + "\\" * 3900},
    {"_filter": "message=regex(a.*b) or " * 80 + "name=x"},
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
    {"start": "10000-01-01"},
    {"start": "range(2021-01-01,9999-13-31)"},
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


def test_a_hostile_query_is_refused_with_its_place(reference_client: FlaskClient) -> None:
    for query in HOSTILE:
        ((name, _),) = query.items()
        answer = reference_client.get(ROOT, data=urlencode(query), content_type=FORM)
        assert refused(answer) == 400, query
        error = answer.headers["x-odsl-error"]
        assert f"/query/{name}" in error or "/query the query has at most" in error
    assert refused(reference_client.get(ROOT, query_string=HOSTILE[0])) == 400


def test_a_search_that_takes_too_long_is_refused(
    reference_client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.search.queries.MAX_SECONDS", "1ms")
    tests = " or ".join(f"message=regex(a.*{each})" for each in range(10))

    answer = reference_client.get(ROOT, query_string={"_filter": tests})

    assert refused(answer) == 400
    assert "takes too long" in answer.headers["x-odsl-error"]


def test_a_form_with_a_nul_is_refused(reference_client: FlaskClient) -> None:
    assert refused(reference_client.get(f"{ROOT}?name=%00")) == 400
    for body in ("name=%00", b"name=\xff", "a=b&" * 300):
        assert refused(reference_client.get(ROOT, data=body, content_type=FORM)) == 400
