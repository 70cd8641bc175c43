"""One hostile request delays nobody: `/healthz` answers while the API refuses it or does it."""

import json
import threading
import time
from typing import Any
from uuid import uuid4

import pytest
import requests

from orchestrator.local.stack import Stack
from tests.support.health_probe import assert_answered, probed

SECONDS = 60  # of a whole attack, on a machine with other work
WORKFLOWS, RUNS = "/api/v1/workflows", "/api/v1/runs"


def a_key(stack: Stack, role: str) -> str:
    headers = {"Authorization": f"Bearer {stack.key}"}
    body = {"name": f"bounds-{uuid4()}", "role": role}
    answer = requests.post(f"{stack.url}/api/v1/keys", json=body, headers=headers, timeout=60)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["key"])


@pytest.fixture(scope="module")
def keys(stack: Stack) -> dict[str, str]:
    return {role: a_key(stack, role) for role in ("viewer", "operator", "admin")}


def a_spec(name: str = "hostile", *steps: dict[str, Any], **options: Any) -> dict[str, Any]:
    one = {"key": "a", "uses": "noop"}
    return {"name": name, "steps": [{**one, **step} for step in steps or ({},)], **options}


def defs(keyword: str, leaf: Any, times: int = 2) -> dict[str, Any]:
    each = {f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n + 1}"}] * times} for n in range(16)}
    return {"$defs": {**each, "d16": leaf}, "properties": {"a": {"$ref": "#/$defs/d0"}}}


KNOWN = {f"parameter_{n}": {"type": "integer"} for n in range(300)}
SCHEMAS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "pattern": ({"properties": {"a": {"pattern": "^(a+)+$"}}}, {"a": "a" * 28 + "!"}, 422),
    "unknown": (
        {"properties": KNOWN, "additionalProperties": False},
        {f"paramter_{n}": n for n in range(2000)},
        422,
    ),
    "unique": (
        {"properties": {"a": {"uniqueItems": True}}},
        {"a": [{"n": n, "m": {}} for n in range(2000)]},
        201,
    ),
    "definitions": (defs("allOf", {"type": "integer"}), {"a": 1}, 422),
    "alternatives": (defs("anyOf", False, 4), {"a": "x" * 1_000_000}, 422),
    "items": ({"properties": {"a": {"items": {}}}}, {"a": [1] * 190_000}, 201),
    "large": ({"properties": {"a": {}}}, {"a": [1234567] * 190_000}, 201),
}


def body_of_many(values: int) -> bytes:
    return b"[" + b"1," * values + b"1]"


ATTACKS: dict[str, tuple[str, str | None, bytes, tuple[int, ...]]] = {
    "a trigger without a key": (
        f"/api/v1/schedules/{uuid4()}/trigger/x",
        None,
        json.dumps({"k" * 60_000: [1] * 50_000}).encode(),
        (401, 403, 404),
    ),
    "a larger trigger without a key": (
        f"/api/v1/schedules/{uuid4()}/trigger/x",
        None,
        json.dumps({"k" * 60_000: [1] * 650_000}).encode(),
        (401, 403, 404),
    ),
    "a token with a large form": ("/oauth/token", None, b"&a" * 2_000_000, (400, 413)),
    "a token with large JSON": ("/oauth/token", None, body_of_many(1_900_000), (400, 413)),
    "an integer list of 4 MB of a viewer": (RUNS, "viewer", body_of_many(2_000_000), (413, 403)),
    "an integer list of a viewer": (RUNS, "viewer", body_of_many(390_000), (422, 403)),
    "integers in a filter of a viewer": (
        f"{RUNS}/bulk/cancel",
        "viewer",
        b'{"filter": {"priority": ' + body_of_many(380_000) + b"}}",
        (422, 403),
    ),
    "unknown members of a viewer": (
        RUNS,
        "viewer",
        json.dumps({f"m{n}": 1 for n in range(190_000)}).encode(),
        (422, 403),
    ),
    "a template of 3.3 MB": (
        WORKFLOWS,
        "admin",
        json.dumps(a_spec("t", {"with": {"a": "{{ params.a }}" * 240_000}})).encode(),
        (422,),
    ),
    "templates of the most characters": (
        WORKFLOWS,
        "admin",
        json.dumps(
            a_spec("t", {"with": {str(n): "{{ params.a }}" * 4900 for n in range(7)}})
        ).encode(),
        (200, 201),
    ),
    "a workflow of the most steps": (
        WORKFLOWS,
        "admin",
        json.dumps(
            a_spec("m", *({"key": f"s{n}", "with": {"a": "{{ params.a }}"}} for n in range(9999)))
        ).encode(),
        (200, 201),
    ),
    "a batch of unknown workflows": (
        f"{RUNS}/batch",
        "operator",
        json.dumps({"runs": [{"workflow": f"unknown-{n}"} for n in range(10_000)]}).encode(),
        (422,),
    ),
    "a batch of unknown versions": (
        f"{RUNS}/batch",
        "operator",
        json.dumps(
            {"runs": [{"workflow": "warm-up", "version": n + 2} for n in range(10_000)]}
        ).encode(),
        (422,),
    ),
    "a batch of wrong runs": (
        f"{RUNS}/batch",
        "operator",
        json.dumps({"runs": [{"workflow": 1, "x": n} for n in range(10_000)]}).encode(),
        (422,),
    ),
    "a batch of the most runs": (
        f"{RUNS}/batch",
        "operator",
        json.dumps(
            {"runs": [{"workflow": "warm-up", "start": False} for _ in range(10_000)]}
        ).encode(),
        (201, 503),  # two at once may take longer than a request waits
    ),
}


def send(stack: Stack, path: str, key: str | None, body: bytes) -> tuple[requests.Response, float]:
    headers = {"Content-Type": "application/json"}
    if path.startswith("/oauth") and body.startswith(b"&"):
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    start = time.perf_counter()
    answer = requests.post(f"{stack.url}{path}", data=body, headers=headers, timeout=120)
    return answer, time.perf_counter() - start


def check(stack: Stack, path: str, key: str | None, body: bytes, expected: Any) -> float:
    """Send the request twice at once; gives the longest delay of /healthz meanwhile."""
    answers: list[tuple[requests.Response, float]] = []
    (pid,) = stack.pids("api")
    with probed(stack.url, pid) as delays:
        threads = [
            threading.Thread(target=lambda: answers.append(send(stack, path, key, body)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for answer, seconds in answers:
        assert answer.status_code in expected, answer.text[:1000]
        assert seconds < SECONDS
        assert answer.status_code < 300 or len(answer.content) < 300_000, len(answer.content)
    return max(delays)


def assert_others_are_served(stack: Stack, *attack: Any) -> None:
    assert_answered(lambda: check(stack, *attack))


@pytest.mark.parametrize("name", ATTACKS)
def test_healthz_answers_during(stack: Stack, keys: dict[str, str], name: str) -> None:
    path, role, body, expected = ATTACKS[name]
    assert_others_are_served(stack, path, role and keys[role], body, expected)


@pytest.mark.parametrize("name", SCHEMAS)
def test_healthz_answers_during_a_check_of_parameters(
    stack: Stack, keys: dict[str, str], name: str
) -> None:
    schema, params, status = SCHEMAS[name]
    spec = json.dumps(a_spec(f"hostile-{name}", params=schema)).encode()
    answer, _ = send(stack, WORKFLOWS, keys["admin"], spec)
    assert answer.status_code in (200, 201), answer.text
    body = json.dumps({"workflow": f"hostile-{name}", "params": params, "start": False}).encode()
    assert_others_are_served(stack, RUNS, keys["operator"], body, (status,))
