"""A hostile body is refused soon, with few mistakes and few statements."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from marshmallow import Schema, fields

from api.toolkit.fields import MAX_ITEMS, BoundedDict, BoundedList
from api.toolkit.json_bodies import _count_values
from orchestrator.errors import MAX_MISTAKES
from tests.support.factories import a_spec
from tests.support.statement_recorder import recorded_statements

RUNS, BATCH, SCHEDULES = "/api/v1/runs", "/api/v1/runs/batch", "/api/v1/schedules"
MORE = "there are more mistakes; correct these first"


@contextmanager
def soon(seconds: float = 3.0) -> Iterator[None]:
    """Within so much processor time."""
    start = time.thread_time()
    yield
    assert time.thread_time() - start < seconds


def numbers(count: int) -> bytes:
    return b"[" + b"1," * (count - 1) + b"1]"


@pytest.mark.parametrize(
    "body",
    [
        numbers(2_000_000),
        b"[" + b'"",' * 1_000_000 + b"1]",
        b"[" + b'{"":1},' * 500_000 + b"1]",
        b"[" + b"[],[" * 400_000,
        b'{"a":' + numbers(1_000_000) + b"}",
        b'["' + b'\\",' * 10 + b'",' + numbers(1_000_000) + b"]",
    ],
    ids=["numbers", "texts", "objects", "lists", "member", "escapes"],
)
@pytest.mark.parametrize(
    "address", [RUNS, BATCH, "/api/v1/workflows", f"{RUNS}/bulk/cancel", "/oauth/token"]
)
def test_a_body_has_a_largest_number_of_values(
    client: FlaskClient, address: str, body: bytes
) -> None:
    with soon():
        refused = client.post(address, data=body, content_type="application/json")
    assert refused.status_code == 413
    assert len(refused.data) < 1000
    if not address.startswith("/oauth"):
        assert refused.get_json()["detail"] == "a body of at most 400,000 JSON values is taken"


@pytest.mark.parametrize(
    "address",
    [
        "/api/pipeline_schedules/1/pipeline_runs",
        "/api/default/default/execution/job",
        "/api/v1/automations",
        "/api/v1/requests",
        "/api/process-exec/v1",
    ],
    ids=["mage", "mindzie", "virtuousai", "solvexia", "opendatadsl"],
)
def test_every_contract_has_that_limit(client: FlaskClient, address: str) -> None:
    with soon():
        refused = client.post(address, data=numbers(2_000_000), content_type="application/json")
    assert refused.status_code < 500
    assert len(refused.data) < 1000


@pytest.mark.parametrize(
    ("document", "count"),
    [
        ([], 1),
        ({"a": 1, "b": [1, 2]}, 6),
        ({"text": 'a,b:[{"c"},' * 50_000}, 2),
        ({"text": "\\" * 5 + '",' * 200_000}, 2),
    ],
)
def test_signs_in_texts_are_no_values(document: Any, count: int) -> None:
    text = json.dumps(document, separators=(",", ":")).encode()
    assert _count_values(text) == count or text.count(b",") < 400_000


def test_a_text_full_of_signs_is_taken(client: FlaskClient) -> None:
    client.post("/api/v1/workflows", json=a_spec())
    body = {"workflow": "work", "start": False, "params": {"csv": '1,"x":[{,' * 100_000}}
    assert client.post(RUNS, json=body).status_code == 201


@pytest.mark.parametrize(
    ("address", "body", "pointer"),
    [
        (f"{RUNS}/bulk/cancel", {"filter": {"priority": [1] * 150_000}}, "/filter/priority"),
        (f"{RUNS}/bulk/cancel", {"filter": {"priority": ["x"] * 900}}, "/filter/priority/0"),
        (f"{RUNS}/bulk/cancel", {"filter": {"state": ["x"] * 150_000}}, "/filter/state"),
        (RUNS, {"workflow": "work", "tags": [1] * 150_000}, "/tags"),
        (RUNS, {"workflow": "work", "params": {f"p{n}": 1 for n in range(10_001)}}, "/params"),
        (RUNS, {f"member_{n}": 1 for n in range(150_000)}, "/"),
        (RUNS, {f"member_{n}": 1 for n in range(900)}, None),
        (BATCH, {"runs": [{"workflow": n} for n in range(10_000)]}, "/runs/0/workflow"),
        (BATCH, {"runs": [{"workflow": "work", "tags": ["x"] * 900}] * 50}, "/runs/0/tags"),
        (BATCH, {"runs": [{"workflow": "work", "k" * 10_000: 1}] * 200}, None),
        (RUNS, {"workflow": "work", "timeout": "1s" * 1_000_000}, "/timeout"),
        (RUNS, {"k" * 3_000_000: 1}, None),
        (SCHEDULES, {"cron": "* " * 1_000_000}, "/cron"),
    ],
)
def test_mistakes_are_few_and_short(
    client: FlaskClient, address: str, body: dict[str, Any], pointer: str | None
) -> None:
    client.post("/api/v1/workflows", json=a_spec())
    with soon():
        refused = client.post(address, json=body)
    assert refused.status_code == 422
    mistakes = refused.get_json()["errors"]
    assert len(mistakes) <= MAX_MISTAKES + 1
    assert len(refused.data) < 200_000
    assert pointer is None or pointer in {each["pointer"] for each in mistakes}


@pytest.mark.parametrize(
    "runs",
    [
        [{"workflow": f"unknown-{n}"} for n in range(10_000)],
        [{"workflow": "work", "version": n + 2} for n in range(10_000)],
        [{"workflow": f"unknown-{n}", "version": 1} for n in range(10_000)],
        [
            {"workflow": "work", "params": {"n": "x"}, "concurrency_key": f"{n}"}
            for n in range(9_999)
        ],
    ],
    ids=["workflows", "versions", "both", "params"],
)
def test_a_batch_of_mistakes_takes_a_few_statements(
    client: FlaskClient, runs: list[dict[str, Any]]
) -> None:
    params = {"properties": {"n": {"type": "integer"}}}
    client.post("/api/v1/workflows", json=a_spec(params=params))
    with recorded_statements(client) as statements, soon():
        refused = client.post(BATCH, json={"runs": runs})
    assert refused.status_code == 422
    assert len(statements) < 12
    mistakes = refused.get_json()["errors"]
    assert [each["pointer"] for each in mistakes[:2]] in (
        ["/runs/0/workflow", "/runs/1/workflow"], ["/runs/0/params/n", "/runs/1/params/n"],
    )  # fmt: skip
    assert (len(mistakes), mistakes[-1]["detail"]) == (MAX_MISTAKES + 1, MORE)


def test_a_batch_of_many_workflows_and_versions_takes_a_few_statements(
    client: FlaskClient,
) -> None:
    for n in range(20):
        for description in ("first", "second"):
            client.post("/api/v1/workflows", json=a_spec(f"w{n}", description=description))
    runs = [
        {"workflow": f"w{n}", "start": False, **({"version": version} if version else {})}
        for n in range(20)
        for version in (None, 1, 2)
    ]
    with recorded_statements(client) as statements:
        answer = client.post(BATCH, json={"runs": runs})
    assert answer.status_code == 201
    assert len(statements) < 15
    first = [client.get(f"{RUNS}/{each['id']}").get_json() for each in answer.get_json()["items"]]
    assert [(run["workflow"], run["version"]) for run in first[:3]] == [
        ("w0", 2), ("w0", 1), ("w0", 2),
    ]  # fmt: skip


def _request_fields(app: Flask) -> Iterator[tuple[str, fields.Field[Any]]]:
    """Every field, of any depth, of the schemas of requests."""
    pending: list[Schema] = [
        schema() for schema in _subclasses(Schema) if schema.__module__.endswith(".requests")
    ]
    while pending:
        schema = pending.pop()
        for name, field in schema.load_fields.items():
            inner = field.inner if isinstance(field, fields.List) else field
            if isinstance(inner, fields.Nested):
                pending.append(inner.schema)
            yield f"{type(schema).__module__}.{type(schema).__name__}.{name}", field


def _subclasses(of: type) -> Iterator[type]:
    for each in of.__subclasses__():
        yield each
        yield from _subclasses(each)


def test_every_list_and_object_of_a_request_is_bounded(app: Flask) -> None:
    unbounded = {
        name
        for name, field in _request_fields(app)
        if isinstance(field, fields.List | fields.Dict)
        and not isinstance(field, BoundedList | BoundedDict)
    }
    assert unbounded == set()
    assert MAX_ITEMS == 1000


QUERY = "/api/process-exec/v1"


@pytest.mark.parametrize(
    "text",
    [
        "name=regex((a+)+$)",
        "name=regex(" + "(a|" * 18 + ")" * 18 + ")",
        "name=" + "in(" + "a," * 1900 + "a)",
        " or ".join(["name=a"] * 300),
        "(" * 3000,
        "name='" + "\\'" * 1900,
        "name=regex(" + "[" * 1900 + ")",
        "name=in(" + ",".join(["'a'"] * 900) + ")",
        "=" * 3900,
        "message=regex((a*){1,100})",
    ],
)
def test_a_query_is_parsed_soon(client: FlaskClient, text: str) -> None:
    with soon():
        answer = client.get(QUERY, query_string={"_filter": text})
    assert answer.status_code < 500
