"""Refusals in the published form, with advice."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from orchestrator.db.database import Database
from tests.contracts.adapters.solvexia import PROCESSES, RUNS
from tests.contracts.solvexia.helpers import (
    DAY,
    V1,
    created,
    properties,
    refused,
    register,
    steps_of,
)
from tests.support.factories import a_run, a_spec


@pytest.mark.row("an unknown id: 404 with `message` and `supportId`")
def test_what_is_not_there_or_no_id_is_not_found(client: FlaskClient) -> None:
    paths = {
        "pr": ["/processruns/{}", "/processruns/{}/runstatus", "/processruns/{}/steps"],
        "p": ["/processes/{}", "/processes/{}/steps", "/processes/{}/processruns"],
        "ds": ["/steps/{}", "/steps/{}/properties", "/steps/{}/properties/dsprop-1"],
        "f": ["/files/{}", "/files/{}/metadata"],
    }
    wrong = ["999999999", "x", "-1", "9" * 40, "\u0661", "%E2%82%AC", "a" * 300, "000"]
    for prefix, of_kind in paths.items():
        ids = [f"{prefix}-{each}" for each in wrong] + ["1", "u-1", "ds-9000000000001"]
        for place, wire in enumerate(ids):
            refused(client.get(V1 + of_kind[place % len(of_kind)].format(wire)), 404)
    refused(client.get(f"{RUNS}/{'pr-9' * 20}/steps/ds-1/runstatus"), 404)
    command = {"request": "ProcessRun_CancelRq", "processRunId": "p-1"}
    refused(client.post(f"{V1}/requests", json=command), 404, "its id looks like pr-123")


def test_a_step_of_another_run_is_not_found(client: FlaskClient, database: Database) -> None:
    one, other = a_run(database), a_run(database)
    step = steps_of(client, f"pr-{other.number}")[0]

    refused(client.get(f"{RUNS}/pr-{one.number}/steps/{step}/runstatus"), 404)
    refused(client.post(f"{RUNS}/pr-{one.number}/steps/{step}/restartfromhere"), 404)
    refused(client.get(f"{V1}/steps/{step}/properties/dsprop-1"), 404)


def test_unknown_addresses_and_methods_are_refused(client: FlaskClient) -> None:
    for path in (
        "/processruns",
        "/processruns/pr-1/x",
        "/steps",
        "/files",
        "/logs/1",
        "/requests/",
    ):
        refused(client.get(V1 + path), 404, "there is nothing at this address")
    for path in ("/processruns/pr-1", "/requests", "/files/f-1", "/logs"):
        for method in ("PUT", "DELETE", "PATCH", "TRACE", "ODD"):
            refused(client.open(V1 + path, method=method), 405, f"{method} is not taken here; use")


def test_a_wrong_command_is_refused(client: FlaskClient) -> None:
    commands = "send ProcessRun_StartRq or ProcessRun_CancelRq"
    for body, pointer in (
        (None, f"/request: {commands}"),
        ({}, f"/request: {commands}"),
        ({"request": "ProcessRun_StartRq"}, "/processRunId: send the id of a process run"),
        ({"request": "Start", "processRunId": "pr-1"}, "/request"),
        ({"request": 1, "processRunId": "pr-1"}, "/request"),
        ({"request": "ProcessRun_StartRq", "processRunId": 1}, "/processRunId"),
        ({"request": "ProcessRun_StartRq", "processRunId": "pr-1\x00"}, "/processRunId"),
        ({"request": None, "processRunId": ["pr-1"]}, "/request"),
        ([], "/: send a JSON object"),
        ("x", "/: send a JSON object"),
    ):
        refused(client.post(f"{V1}/requests", json=body), 400, pointer)


def test_a_wrong_query_is_refused(client: FlaskClient) -> None:
    for query, pointer in (
        ("/processes?dateCreatedStart=yesterday", "/query/dateCreatedStart"),
        ("/processes?dateCreatedEnd=9999-99-99", "/query/dateCreatedEnd"),
        ("/processes?name=%00", "NUL"),
        ("/logs?startDate=1", "/query/startDate"),
        ("/logs?endDate=0001-01-01T00:00:00%2B23:00", "/query/endDate"),
    ):
        refused(client.get(V1 + query), 400, pointer)


def test_a_wrong_value_of_a_property_is_refused(client: FlaskClient) -> None:
    made = created(client, DAY)
    step = steps_of(client, made["id"])[1]
    limit = properties(client, step)["limit"]
    path = f"{V1}/steps/{step}/properties/{limit['id']}"
    wrong = (
        b"", b"[]", b'"x"', b"{}", b'{"value":null}', b'{"value":[1]}', b'{"value":1.5}',
        b'{"value":true}', b'{"value":1e400}', b'{"value":NaN}', b'{"value":"\\u0000"}',
        b'{"value":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"\xff", b'{"file":"f-1"}',
    )  # fmt: skip

    for data in wrong:
        refused(client.post(path, data=data, content_type="application/json"), 400, "; /")
    assert client.get(path).json == limit


def test_a_wrong_body_makes_no_run(client: FlaskClient) -> None:
    path = f"{PROCESSES}/{register(client, a_spec())}/processruns"
    wrong: list[dict[str, Any]] = [
        {"data": b"{", "content_type": "application/json"},
        {"data": b"[" * 100_000, "content_type": "application/json"},
        {"data": b"\xff\xfe", "content_type": "application/json"},
        {"data": b"<a/>", "content_type": "application/xml"},
        {"json": {"namePrefix": 1}},
        {"json": {"namePrefix": "x" * 201}},
        {"json": {"namePrefix": "a\x00"}},
        {"json": {"namePrefix": "\ud800"}},
        {"json": ["namePrefix"]},
        {"json": {"namePrefix": "x" * 5_000_000}},
    ]

    for each in wrong:
        refused(client.post(path, **each), 400)
    assert client.get(path).json == []


def test_native_addresses_are_not_touched(client: FlaskClient) -> None:
    assert client.get(f"{V1}/runs").json == {"items": [], "next_cursor": None}
    assert client.get(f"{V1}/runs/x").json["type"] == "urn:orchestrator:problem:not_found"
    assert client.get(f"{V1}/Runs").status_code == 404
    assert client.get(f"{V1}/logsx").json["type"] == "urn:orchestrator:problem:not_found"
