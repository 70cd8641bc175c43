"""Bodies that are no JSON are refused with the place, repeated members with the pointer."""

import gzip
import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.support.factories import a_spec

RUNS = "/api/v1/runs"
UUID = "5f0c0000-0000-4000-8000-000000000000"
WRONG = {  # a body, and what is said of it
    "trailing comma in an object": (
        b'{"workflow": "work",\n "params": {},\n}',
        "line 2, column 14",
    ),
    "trailing comma in a list": (b'{"tags": ["a",]}', "line 1, column 14"),
    "nothing": (b'{"a":\n  }', "line 2, column 3"),
    "truncated": (b'{"workflow": "wo', "line 1, column 14"),
    "two documents": (b"{}\n{}", "line 2, column 1"),
    "a raw NUL": (b'{"workflow": "work\x00"}', "line 1, column 19"),
    "a raw line break": (b'{"workflow": "a\nb"}', "line 1, column 16"),
    "not UTF-8": ('{"é": 1,\n"b": "'.encode() + b'\xff"}', "line 2, column 7: a byte that is not"),
    "Latin-1": ('{"é": 1}'.encode("latin-1"), "line 1, column 3: a byte that is not UTF-8"),
    "a byte order mark": (b'\xef\xbb\xbf{"workflow": "work"}', "column 1: a byte order mark"),
    "UTF-16": ('{"workflow": "work"}'.encode("utf-16"), "column 1: encoded in UTF-16; send UTF-8"),
    "UTF-16-LE": ('{"workflow": "work"}'.encode("utf-16-le"), "column 1: encoded in UTF-16-LE"),
    "UTF-16-BE": ('{"workflow": "work"}'.encode("utf-16-be"), "column 1: encoded in UTF-16-BE"),
    "UTF-32": ('{"workflow": "work"}'.encode("utf-32"), "column 1: encoded in UTF-32; send UTF-8"),
    "gzip": (gzip.compress(b"{}"), "column 1: compressed with gzip; send it uncompressed"),
    "single quotes": (b"{'a': 1}", "line 1, column 2"),
    "a comment": (b"// what\n{}", "line 1, column 1"),
    "a form": (b"workflow=work", "line 1, column 1"),
}
REPEATED = {  # a body, and the pointer
    "at the root": (b'{"workflow": "a", "workflow": "work"}', "/workflow"),
    "the same value": (b'{"workflow": "work", "workflow": "work"}', "/workflow"),
    "escaped": (b'{"workflow": "work", "work\\u0066low": "work"}', "/workflow"),
    "inside": (b'{"workflow": "work", "params": {"a": [{"b/c": 1, "d": 2, "b/c": 3}]}}',
               "/params/a/0/b~1c"),
    "three times": (b'{"params": {"x": 1, "y": 2, "x": 3, "x": 4}}', "/params/x"),
    "the empty name": (b'{"params": {"": 1, "": 2}}', "/params/"),
}  # fmt: skip
INTEGERS = {
    "5,000 digits": b"9" * 5000,
    "negative": b"-" + b"9" * 5000,
    "100,000 digits": b"1" * 100_000,
    "4,300 digits": b"9" * 4300,
}
# An address of each contract that takes a body, and where the reply has its text.
CONTRACTS = [
    ("PUT", "/api/pipelines/x"),
    ("POST", "/api/pipeline_schedules/1/pipeline_runs"),
    ("POST", "/api/v1/requests"),
    ("POST", f"/api/v1/automations/{UUID}/runs"),
    ("POST", "/api/process-exec/v1"),
    ("POST", f"/api/TENANT/{UUID}/execution/job"),
]


def _post(client: FlaskClient, data: bytes, **options: Any) -> Any:
    return client.post(RUNS, data=data, content_type="application/json", **options)


@pytest.mark.parametrize(("body", "place"), WRONG.values(), ids=WRONG.keys())
def test_a_body_that_is_no_json_is_refused_with_the_place(
    client: FlaskClient, body: bytes, place: str
) -> None:
    reply = _post(client, body)

    (error,) = reply.json["errors"]
    assert (reply.status_code, error["pointer"]) == (400, "/")
    assert error["detail"].startswith("not JSON: ")
    assert place in error["detail"]


@pytest.mark.parametrize(("body", "pointer"), REPEATED.values(), ids=REPEATED.keys())
def test_a_repeated_member_is_pointed_at(client: FlaskClient, body: bytes, pointer: str) -> None:
    reply = _post(client, body)

    assert reply.status_code == 422
    assert reply.json["errors"] == [{"pointer": pointer, "detail": "this member is there twice"}]


@pytest.mark.parametrize("digits", INTEGERS.values(), ids=INTEGERS.keys())
def test_an_integer_that_is_too_long_is_pointed_at(client: FlaskClient, digits: bytes) -> None:
    reply = _post(client, b'{"workflow": "work", "params": {"a": [0, ' + digits + b"]}}")

    assert reply.status_code == 422
    (error,) = reply.json["errors"]
    assert (error["pointer"], error["detail"]) == (
        "/params/a/1", "an integer this long cannot be written"
    )  # fmt: skip


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "x-gzip", "gzip, gzip"])
def test_a_compressed_body_is_refused_by_its_header(client: FlaskClient, encoding: str) -> None:
    body = gzip.compress(json.dumps(a_spec()).encode())

    reply = _post(client, body, headers={"Content-Encoding": encoding})

    assert reply.status_code == 415
    assert encoding in reply.json["detail"]


@pytest.mark.parametrize(("method", "path"), CONTRACTS)
@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"a": 1,}', "line 1, column "),
        (b"\xef\xbb\xbf{}", "a byte order mark"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "is there twice"),
    ],
)
def test_the_contracts_say_it_too(
    client: FlaskClient, tenant_id: Any, method: str, path: str, body: bytes, text: str
) -> None:
    reply = client.open(
        path.replace("TENANT", str(tenant_id)),
        method=method,
        data=body,
        content_type="application/json",
    )

    assert reply.status_code < 500
    assert text in f"{reply.text} {reply.headers.get('x-odsl-error')}"


@pytest.mark.parametrize(
    ("body", "text"),
    [(b"{", "line 1, column 2"), (b'{"scope": "a", "scope": "b"}', "each parameter once")],
)
def test_oauth_says_it_too(client: FlaskClient, body: bytes, text: str) -> None:
    reply = client.post("/oauth/token", data=body, content_type="application/json")

    assert (reply.status_code, reply.json["error"]) == (400, "invalid_request")
    assert text in reply.json["error_description"]


def test_a_query_in_json_says_it_too(client: FlaskClient) -> None:
    for query, text in (('{"name":}', "line 1, column 9"), ('{"a":1,"a":2}', "there twice")):
        reply = client.get("/api/process-exec/v1", query_string={"_filter": query})
        assert reply.status_code == 400
        assert text in reply.headers["x-odsl-error"]


def test_many_repeated_members_are_refused_soon(client: FlaskClient) -> None:
    names = ",".join(f'"{n}": 1' for n in range(100_000))

    reply = _post(client, f'{{"params": {{{names}, "99999": 2}}}}'.encode())

    assert reply.json["errors"][0]["pointer"] == "/params/99999"
