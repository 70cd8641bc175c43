"""Traps for clients of the published API."""

import json
from urllib.parse import quote, urlencode

import pytest
from flask.testing import FlaskClient

from tests.contracts.adapters.opendatadsl import ROOT, refused
from tests.contracts.opendatadsl.helpers import FORM, matches
from tests.support import reference_tenant


def test_trap_1_private_is_a_source_and_not_a_key(reference_client: FlaskClient) -> None:
    assert len(reference_client.get(f"{ROOT}/private").json) == 5
    assert reference_client.get(f"{ROOT}/private/").json == reference_client.get(ROOT).json
    assert reference_client.get(f"{ROOT}/private/{reference_tenant.RUN}").json["_id"] == str(
        reference_tenant.RUN
    )
    assert reference_client.get(f"{ROOT}/public").json == []
    assert refused(reference_client.get(f"{ROOT}/public/{reference_tenant.RUN}")) == 404
    assert len(reference_client.get("/api/process-exec//v1//private").json) == 5


def test_trap_2_a_list_is_a_bare_array(reference_client: FlaskClient) -> None:
    answer = reference_client.get(ROOT)

    assert isinstance(answer.json, list)
    assert answer.headers["x-total-count"] == "5"


def test_trap_3_any_other_name_is_a_field(reference_client: FlaskClient) -> None:
    assert matches(reference_client, "colour=green") == set()
    assert matches(reference_client, "colour=null") == set(reference_tenant.RUNS)
    assert matches(reference_client, "colour=ne(green)") == set(reference_tenant.RUNS)
    assert refused(reference_client.get(f"{ROOT}?_colour=green")) == 400
    assert refused(reference_client.get(f"{ROOT}?_start=5")) == 400


def test_trap_4_a_key_may_have_any_character(reference_client: FlaskClient) -> None:
    for key in ("#ECB.FX:SPOT", "a:b", "a/b", "ä.b", "a b"):
        answer = reference_client.get(f"{ROOT}/private/{quote(key, safe='')}")
        assert refused(answer) == 404
        named = key.replace("ä", "\xe4")
        assert answer.headers["x-odsl-error"] == f"[1004] No process execution with id {named}"


@pytest.mark.row("a query in the body of a `GET`")
def test_trap_5_the_query_may_be_the_body_of_a_get(reference_client: FlaskClient) -> None:
    long = ", ".join(f"name{number}" for number in range(300))
    query = {"name": f"in({long}, invoice_export)", "status": "failed", "_limit": "1"}

    answer = reference_client.get(
        f"{ROOT}/private",
        data=urlencode(query),
        content_type=FORM,
    )

    assert len(answer.json) == 1
    assert answer.headers["x-total-count"] == "2"
    answer = reference_client.get(
        f"{ROOT}?status=running", data="_limit=%00", content_type="text/plain"
    )
    assert len(answer.json) == 1


def test_trap_6_a_trigger_answers_json(reference_client: FlaskClient) -> None:
    for address in ("", "/v1", "/v1/private", "/v1/", "/"):
        answer = reference_client.post(
            f"/api/process-exec{address}", json={"name": "invoice_export"}
        )
        assert answer.status_code == 200
        assert json.loads(answer.text)["status"] == "triggered"


def test_trap_7_every_refusal_says_why_in_its_header(reference_client: FlaskClient) -> None:
    refusals = {
        401: reference_client.get(ROOT, headers={"Authorization": "Bearer wrong"}),
        400: reference_client.get(f"{ROOT}?start=gt(yesterday)"),
        404: reference_client.get("/api/process-exec/v2/somewhere"),
        405: reference_client.delete(f"{ROOT}/{reference_tenant.RUN}"),
        415: reference_client.post(ROOT, data="<a/>", content_type="application/xml"),
    }

    assert {status: refused(answer) for status, answer in refusals.items()} == {
        status: status for status in refusals
    }
    assert "WWW-Authenticate" in refusals[401].headers
    assert "Allow" in refusals[405].headers


@pytest.mark.row("the header `x-total-count`")
def test_trap_8_the_total_does_not_depend_on_the_page(reference_client: FlaskClient) -> None:
    for query in ({}, {"status": "failed"}, {"start": "range(2026-04-02,2026-04-02)"}):
        totals = {
            reference_client.head(ROOT, query_string={**query, "_limit": limit}).headers[
                "x-total-count"
            ]
            for limit in (0, 1, 100, -1)
        }
        assert totals == {str(len(reference_client.get(ROOT, query_string=query).json))}
