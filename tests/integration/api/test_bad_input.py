"""Invalid requests are answered with a problem that has a pointer, and write nothing."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from api.app import create_app
from config.settings import Settings
from tests.conftest import Services, empty
from tests.support.factories import KEY, a_spec
from tests.support.routes import native

RUNS = "/api/v1/runs"
RUN = f"{RUNS}/{{run_id}}"
WORKFLOWS = "/api/v1/workflows"


def _served() -> list[tuple[str, str]]:
    """Every method and address of the API, so that a new route is tested here, too."""
    app = create_app(Settings(database_url="postgresql+psycopg2://", secret_key="of no use " * 4))
    return sorted(
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in native(app)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    )


ROUTES = _served()
# Bodies are checked after authentication: not with a wrong token.
CHANGES = [(method, address) for method, address in ROUTES if method not in ("GET", "DELETE")]
LISTS = [
    WORKFLOWS, f"{WORKFLOWS}/{{name}}/versions", RUNS, f"{RUN}/events", f"{RUN}/logs",
    *[f"/api/v1/{name}" for name in ("backfills", "deliveries", "runs/events", "keys", "projects",
                                     "queues", "schedules", "webhooks", "workers")],
]  # fmt: skip
WRITES = [
    ("POST", WORKFLOWS),
    ("POST", RUNS),
    ("PATCH", RUN),
    ("POST", f"{RUN}/cancel"),
    ("POST", f"{RUN}/retry"),
    ("POST", f"{RUN}/steps/{{key}}/restart"),
]
UNKNOWN = "5f0c0000-0000-4000-8000-000000000000"  # no id of anything

HOSTILE: dict[str, bytes] = {
    "truncated": b'{"workflow":',
    "trailing": b'{"workflow": "work"} x',
    "two documents": b'{"workflow": "work"}{"workflow": "work"}',
    "single quotes": b"{'workflow': 'work'}",
    "blank": b" \n",
    "null": b"null",
    "a list": b'[{"workflow": "work"}]',
    "a string": b'"work"',
    "a number": b"1",
    "NaN": b'{"workflow": "work", "name": "n", "params": {"a": NaN}}',
    "infinity": b'{"workflow": "work", "name": "n", "params": {"a": -Infinity}}',
    "an infinite float": b'{"workflow": "work", "name": "n", "params": {"a": 1e999}}',
    "5000 digits": b'{"workflow": "work", "params": {"a": ' + b"9" * 5000 + b"}}",
    "100 levels": b'{"workflow": "work", "params": {"a": ' + b"[" * 100 + b"]" * 100 + b"}}",
    "100 objects": b'{"workflow": "work", "params": ' + b'{"a":' * 100 + b"1" + b"}" * 101,
    "100,000 levels": b'{"workflow": "work", "params": {"a": ' + b"[" * 100_000,
    "NUL in a value": b'{"workflow": "work", "name": "n", "reason": "a\\u0000b"}',
    "NUL in a name": b'{"workflow": "work", "name": "n", "params": {"a\\u0000": 1}}',
    "raw NUL": b'{"workflow": "work\x00"}',
    "half a surrogate pair": b'{"workflow": "work", "name": "n", "reason": "\\ud800"}',
    "half a pair in a name": b'{"workflow": "work", "name": "n", "params": {"\\udfff": 1}}',
    "an encoded surrogate": b'{"workflow": "work", "name": "n", "reason": "\xed\xa0\x80"}',
    "not UTF-8": b'{"workflow": "work", "reason": "\xff"}',
    "UTF-16": '{"workflow": "work"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"workflow": "work"}',
    "an unknown field": b'{"workflow": "work", "name": "n", "nope": 1}',
}

WRONG: list[tuple[int, Any, str]] = [  # which of WRITES, a body, where it is wrong
    (1, {}, "/workflow"),
    (1, {"workflow": None}, "/workflow"),
    (1, {"workflow": 5}, "/workflow"),
    (1, {"workflow": ""}, "/workflow"),
    (1, {"workflow": "x" * 101}, "/workflow"),
    (1, {"version": "1"}, "/version"),
    (1, {"version": 0}, "/version"),
    (1, {"version": 1.5}, "/version"),
    (1, {"version": True}, "/version"),
    (1, {"version": 2**31}, "/version"),
    (1, {"version": 10**400}, "/version"),
    (1, {"params": None}, "/params"),
    (1, {"params": []}, "/params"),
    (1, {"params": "{}"}, "/params"),
    (1, {"priority": 10}, "/priority"),
    (1, {"priority": -1}, "/priority"),
    (1, {"priority": "4"}, "/priority"),
    (1, {"priority": 4.5}, "/priority"),
    (1, {"priority": True}, "/priority"),
    (1, {"priority": 10**400}, "/priority"),
    (1, {"run_at": 5}, "/run_at"),
    (1, {"run_at": ""}, "/run_at"),
    (1, {"run_at": "tomorrow"}, "/run_at"),
    (1, {"run_at": "2026-02-30T00:00:00Z"}, "/run_at"),
    (1, {"run_at": "10000-01-01T00:00:00Z"}, "/run_at"),
    (1, {"run_at": "9999-12-31T23:59:59-23:59"}, "/run_at"),
    (1, {"run_at": "0001-01-01T00:00:00+23:59"}, "/run_at"),
    (1, {"tags": None}, "/tags"),
    (1, {"tags": "a"}, "/tags"),
    (1, {"tags": {"a": 1}}, "/tags"),
    (1, {"tags": ["a", 1]}, "/tags/1"),
    (1, {"tags": [""]}, "/tags/0"),
    (1, {"tags": ["x" * 101]}, "/tags/0"),
    (1, {"tags": ["x"] * 51}, "/tags"),
    (1, {"reason": 5}, "/reason"),
    (1, {"reason": "x" * 1001}, "/reason"),
    (1, {"timeout": -1}, "/timeout"),
    (1, {"timeout": 0}, "/timeout"),
    (1, {"timeout": "0s"}, "/timeout"),
    (1, {"timeout": True}, "/timeout"),
    (1, {"timeout": []}, "/timeout"),
    (1, {"timeout": "soon"}, "/timeout"),
    (1, {"timeout": "99999999999h"}, "/timeout"),
    (1, {"timeout": "9" * 5000}, "/timeout"),
    (1, {"a/b~c": 1}, "/a~1b~0c"),
    (2, {"priority": None}, "/priority"),
    (2, {"priority": "high"}, "/priority"),
    (2, {"priority": 10}, "/priority"),
    (2, {"tags": None}, "/tags"),
    (2, {"tags": [[]]}, "/tags/0"),
    (2, {"state": "succeeded"}, "/state"),
    (3, {"force": "yes"}, "/force"),
    (3, {"force": None}, "/force"),
    (3, {"force": []}, "/force"),
    (3, {"grace": None}, "/grace"),
    (3, {"grace": -1}, "/grace"),
    (3, {"grace": "99999999999h"}, "/grace"),
    (3, {"reason": {}}, "/reason"),
    (4, {"mode": "some"}, "/mode"),
    (4, {"mode": []}, "/mode"),
    (4, {"mode": None}, "/mode"),
    (4, {"mode": "from_step"}, "/step"),
    (4, {"step": "s1"}, "/step"),
    (4, {"mode": "full", "step": "s1"}, "/step"),
    (4, {"mode": "from_step", "step": 1}, "/step"),
    (4, {"as": "old"}, "/as"),
    (4, {"where": "new"}, "/where"),
    (4, {"params": []}, "/params"),
    (4, {"priority": 10}, "/priority"),
    (5, {"mode": "full"}, "/mode"),
    (5, {"step": "s2"}, "/step"),
    (5, {"as": "new"}, "/as"),
    (5, {"params": 1}, "/params"),
    (5, {"priority": False}, "/priority"),
]

WRONG_QUERIES: list[tuple[str, str, str]] = [  # an address, a query, where it is wrong
    *[(address, f"limit={limit}", "limit") for address in LISTS for limit in ("0", "-1", "1001")],
    (RUNS, "limit=x", "limit"),
    (RUNS, "limit=1.0", "limit"),
    (RUNS, "limit=", "limit"),
    (RUNS, f"limit={'9' * 30}", "limit"),
    (RUNS, f"limit={'9' * 5000}", "limit"),
    (RUNS, "state=done", "state/0"),
    (RUNS, "state=queued&state=", "state/1"),
    (RUNS, "priority=10", "priority/0"),
    (RUNS, "priority=4&priority=x", "priority/1"),
    (RUNS, "sort=name", "sort"),
    (RUNS, "created_after=yesterday", "created_after"),
    (RUNS, "created_before=5", "created_before"),
    (RUNS, "created_after=9999-12-31T23:59:59-23:59", "created_after"),
    (RUNS, "created_before=0001-01-01T00:00:00%2B23:59", "created_before"),
    (RUN, "wait=-1", "wait"),
    (RUN, "wait=61", "wait"),
    (RUN, "wait=nan", "wait"),
    (RUN, "wait=inf", "wait"),
    (RUN, "wait=soon", "wait"),
]

CURSORS: dict[str, str] = {
    "empty": "",
    "text": "nope",
    "padding": "====",
    "not ASCII": "é",
    "long": "a" * 9000,
    **{
        f"of {json.dumps(position)[:20]}": base64.urlsafe_b64encode(json.dumps(position).encode())
        .decode()
        .rstrip("=")
        for position in (
            [], {}, None, [None], [True], [1.5], [[]], [{}], ["\x00"], ["\ud800"], [2**63],
            [10**400], [1, 2, 3], ["x", "y"], [1, "nope"], ["a" * 9000, 1],
        )
    },
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """An API with one workflow and one waiting run, which no test here may change."""

    client: FlaskClient
    run_id: str

    def at(self, address: str) -> str:
        """A route's address with this run, its first step and its workflow filled in."""
        known = {"run_id": self.run_id, "key": "s1", "name": "work", "token": "forged"}
        names = {name: known.get(name, UNKNOWN) for name in re.findall(r"{(\w+)}", address)}
        return address.format(**names)


@pytest.fixture(scope="module")
def target(
    services: Services, engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """Shared by all tests of this module: none of them writes anything."""
    settings = Settings(
        database_url=services.database_url,
        redis_url=services.redis_url,
        data_dir=tmp_path_factory.mktemp("bad_input"),
        connections=4,
    )
    app = create_app(settings)
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"
    client.post(WORKFLOWS, json=a_spec(steps=2))
    later = {"workflow": "work", "run_at": "2200-01-01T00:00:00Z"}
    yield Target(client, client.post(RUNS, json=later).json["id"])
    app.extensions["orchestrator"].database.engine.dispose()
    with engine.begin() as connection:
        empty(connection)


@pytest.fixture(autouse=True)
def _nothing_is_written(target: Target, engine: Engine) -> Iterator[None]:
    before = _written(engine)
    yield
    assert _written(engine) == before


def _written(engine: Engine) -> dict[str, tuple[int, str]]:
    """The number and a hash of the rows of each table."""
    tables = ("workflows", "versions", "queues", "runs", "steps", "events", "idempotency_keys")
    hashed = "SELECT count(*), md5(string_agg(row::text, ' ' ORDER BY row::text)) FROM {} row"
    with engine.connect() as connection:
        return {
            table: tuple(connection.execute(text(hashed.format(table))).one()) for table in tables
        }


def _refusal(reply: TestResponse) -> dict[str, Any]:
    """The problem of a 4xx response."""
    assert 400 <= reply.status_code < 500, reply.text
    assert reply.content_type == "application/problem+json"
    problem: dict[str, Any] = reply.json
    assert problem.keys() - {"errors"} == {"type", "title", "status", "code", "detail"}
    assert problem["status"] == reply.status_code
    assert all(problem.values())
    assert all(error.keys() == {"pointer", "detail"} for error in problem.get("errors", []))
    return problem


def _pointers(problem: dict[str, Any]) -> list[str]:
    return [error["pointer"] for error in problem.get("errors", [])]


@pytest.mark.parametrize(("method", "address"), CHANGES)
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_body_is_refused(target: Target, method: str, address: str, data: bytes) -> None:
    reply = target.client.open(
        target.at(address), method=method, data=data, content_type="application/json"
    )

    _refusal(reply)


@pytest.mark.parametrize(
    ("data", "pointer"),
    [
        (HOSTILE["NaN"], "/params/a"),
        (HOSTILE["an infinite float"], "/params/a"),
        (HOSTILE["NUL in a value"], "/reason"),
        (HOSTILE["NUL in a name"], "/params"),
        (HOSTILE["half a surrogate pair"], "/reason"),
        (HOSTILE["5000 digits"], "/params/a"),
        (HOSTILE["100 levels"], "/params/a" + "/0" * 63),
        (HOSTILE["an unknown field"], "/nope"),
    ],
)
def test_a_hostile_value_is_pointed_at(target: Target, data: bytes, pointer: str) -> None:
    reply = target.client.post(RUNS, data=data, content_type="application/json")

    assert pointer in _pointers(_refusal(reply))


@pytest.mark.parametrize(("method", "address"), CHANGES)
def test_a_body_of_10_megabytes_is_refused(target: Target, method: str, address: str) -> None:
    body = b'{"workflow": "work", "reason": "' + b"x" * 10 * 1024 * 1024 + b'"}'

    reply = target.client.open(
        target.at(address), method=method, data=body, content_type="application/json"
    )

    assert _refusal(reply)["status"] == (404 if "{token}" in address else 413)


def test_a_body_without_a_length_is_not_cut_off_and_taken_for_whole(target: Target) -> None:
    body = b'{"workflow": "work"}' + b" " * 5 * 1024 * 1024 + b"x"

    reply = target.client.post(
        RUNS,
        input_stream=BytesIO(body),
        content_type="application/json",
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},  # as gunicorn sets it
    )

    assert _refusal(reply)["status"] == 413


@pytest.mark.parametrize("data", [b'{"workflow":', b"\xff", b"{}" + b"9" * 5000])
def test_a_body_that_is_not_json_is_told_so(target: Target, data: bytes) -> None:
    reply = target.client.post(RUNS, data=data, content_type="application/json")

    problem = _refusal(reply)
    assert (problem["status"], _pointers(problem)) == (400, ["/"])
    assert "JSON" in reply.text


@pytest.mark.parametrize(("method", "address"), CHANGES)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_body_that_does_not_say_it_is_json_is_refused(
    target: Target, method: str, address: str, kind: str | None
) -> None:
    body = json.dumps({"workflow": "work"}).encode()

    reply = target.client.open(target.at(address), method=method, data=body, content_type=kind)

    assert _refusal(reply)["status"] == (404 if "{token}" in address else 415)


@pytest.mark.parametrize("address", [WORKFLOWS, RUNS])
def test_a_body_that_is_needed_is_missed(target: Target, address: str) -> None:
    assert _pointers(_refusal(target.client.post(address)))


@pytest.mark.parametrize(("which", "body", "pointer"), WRONG)
def test_a_wrong_field_is_pointed_at(
    target: Target, which: int, body: dict[str, Any], pointer: str
) -> None:
    method, address = WRITES[which]
    if address == RUNS and body and "workflow" not in body:
        body = {"workflow": "work", **body}

    problem = _refusal(target.client.open(target.at(address), method=method, json=body))

    assert (problem["status"], _pointers(problem)) == (422, [pointer])


def test_every_wrong_field_is_told_at_once(target: Target) -> None:
    body = {"priority": "high", "tags": 5, "nope": 1}

    problem = _refusal(target.client.post(RUNS, json=body))

    assert set(_pointers(problem)) == {"/workflow", "/priority", "/tags", "/nope"}


@pytest.mark.parametrize(("address", "query", "pointer"), WRONG_QUERIES)
def test_a_wrong_query_is_pointed_at(
    target: Target, address: str, query: str, pointer: str
) -> None:
    problem = _refusal(target.client.get(f"{target.at(address)}?{query}"))

    assert (problem["status"], _pointers(problem)) == (422, [f"/query/{pointer}"])


@pytest.mark.parametrize(("method", "address"), ROUTES)
def test_an_unknown_query_parameter_is_pointed_at(
    target: Target, method: str, address: str
) -> None:
    bodies = {WORKFLOWS: a_spec(steps=2), RUNS: {"workflow": "work"}}
    body = bodies.get(address, {})

    reply = target.client.open(f"{target.at(address)}?nope=1", method=method, json=body)

    assert "/query/nope" in _pointers(_refusal(reply))


@pytest.mark.parametrize("address", LISTS)
@pytest.mark.parametrize("cursor", CURSORS.values(), ids=CURSORS.keys())
def test_a_cursor_that_is_not_ours_is_refused(target: Target, address: str, cursor: str) -> None:
    problem = _refusal(target.client.get(target.at(address), query_string={"cursor": cursor}))

    assert _pointers(problem) == ["/query/cursor"]


def test_a_cursor_of_another_order_is_refused(target: Target) -> None:
    position = json.dumps([4, target.run_id]).encode()
    cursor = base64.urlsafe_b64encode(position).decode().rstrip("=")

    assert target.client.get(f"{RUNS}?sort=priority&cursor={cursor}").status_code == 200
    problem = _refusal(target.client.get(f"{RUNS}?sort=created_at&cursor={cursor}"))

    assert _pointers(problem) == ["/query/cursor"]


@pytest.mark.parametrize(("method", "address"), ROUTES)
def test_a_nul_in_the_query_is_refused(target: Target, method: str, address: str) -> None:
    for query in ("workflow=%00", "%00=1", "cursor=a%00b"):
        _refusal(target.client.open(f"{target.at(address)}?{query}", method=method, json={}))


@pytest.mark.parametrize(("method", "address"), [each for each in ROUTES if "{" in each[1]])
@pytest.mark.parametrize("part", ["%00", "a%00b", "%ff", "%ed%a0%80", "x" * 9000, "a%2Fb", "%0A"])
def test_a_hostile_part_of_the_path_is_refused(
    target: Target, method: str, address: str, part: str
) -> None:
    for name in re.findall(r"{(\w+)}", address):
        hostile = target.at(address.replace(f"{{{name}}}", part))

        _refusal(target.client.open(hostile, method=method, json={}))


@pytest.mark.parametrize(("method", "address"), [each for each in ROUTES if RUN in each[1]])
@pytest.mark.parametrize("run_id", ["nope", "1", "-1", "9" * 5000, "{}", "*"])
def test_a_run_id_that_is_no_uuid_is_not_found(
    target: Target, method: str, address: str, run_id: str
) -> None:
    hostile = address.replace("{run_id}", quote(run_id)).replace("{key}", "s1")

    problem = _refusal(target.client.open(hostile, method=method, json={}))

    assert problem["status"] == 404


@pytest.mark.parametrize("address", sorted({address for _, address in ROUTES}))
def test_a_method_that_is_not_allowed_is_refused_and_the_others_are_named(
    target: Target, address: str
) -> None:
    allowed = {method for method, each in ROUTES if each == address}

    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "NOPE"} - allowed:
        reply = target.client.open(target.at(address), method=method, json={})

        assert _refusal(reply)["status"] == 405
        assert allowed <= set(reply.headers["Allow"].split(", "))


@pytest.mark.parametrize("address", ["/nope", "/api/v1/nope", "/api/v2/runs", f"{RUNS}/", "/docsx"])
def test_an_address_that_leads_nowhere_is_not_found(target: Target, address: str) -> None:
    assert _refusal(target.client.get(address))["status"] == 404


@pytest.mark.parametrize("key", ["", "x" * 256, "\x00", "a\x00b"])
def test_a_bad_idempotency_key_is_pointed_at(target: Target, key: str) -> None:
    headers = {"Idempotency-Key": key}

    problem = _refusal(target.client.post(RUNS, json={"workflow": "work"}, headers=headers))

    assert _pointers(problem) == ["/headers/Idempotency-Key"]


@pytest.mark.parametrize("query", ["created_after=0001-01-01", "created_before=9999-12-31"])
def test_a_time_at_the_end_of_time_is_a_time(target: Target, query: str) -> None:
    items = target.client.get(f"{RUNS}?{query}T23:59:59Z").json["items"]

    assert target.run_id in [run["id"] for run in items]
