"""`/api/v1/workflows`: register workflows and read them."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.support.factories import KEY, a_spec

RUNS = "/api/v1/runs"
WORKFLOWS = "/api/v1/workflows"
WORK = f"{WORKFLOWS}/work"


def _post_from_elsewhere(client: FlaskClient, spec: dict[str, Any]) -> TestResponse:
    other = client.application.test_client()
    return other.post(WORKFLOWS, json=spec, headers={"Authorization": f"Bearer {KEY}"})


def _with_step(**changed: Any) -> dict[str, Any]:
    spec = a_spec()
    spec["steps"][0].update(changed)
    return spec


def _pages(client: FlaskClient, address: str, limit: int) -> list[list[dict[str, Any]]]:
    pages, cursor = [], None
    while not pages or cursor:
        query = {"limit": limit} | ({"cursor": cursor} if cursor else {})
        page = client.get(address, query_string=query).json
        pages.append(page["items"])
        cursor = page["next_cursor"]
    return pages


def test_a_new_workflow_has_version_one_and_an_address(client: FlaskClient) -> None:
    spec = a_spec(service="billing", description="It bills.", priority=6, tags=["nightly"])

    reply = client.post(WORKFLOWS, json=spec)

    assert reply.status_code == 201
    assert reply.json.keys() == {
        "id", "number", "name", "project_id", "service", "description", "version", "created_at",
        "updated_at", "spec",
    }  # fmt: skip
    assert (reply.json["name"], reply.json["version"]) == ("work", 1)
    assert (reply.json["service"], reply.json["description"]) == ("billing", "It bills.")
    assert reply.json["spec"] == spec
    assert client.get(reply.headers["Location"]).json == reply.json


def test_the_same_spec_again_is_the_same_version(client: FlaskClient) -> None:
    first = client.post(WORKFLOWS, json=a_spec())

    again = client.post(WORKFLOWS, json=dict(reversed(a_spec().items())))

    assert again.status_code == 200
    assert again.json == first.json
    assert again.headers["Location"] == first.headers["Location"]


def test_another_spec_is_the_next_version(client: FlaskClient) -> None:
    first = client.post(WORKFLOWS, json=a_spec(steps=1)).json

    reply = client.post(WORKFLOWS, json=a_spec(steps=2))

    assert (reply.status_code, reply.json["version"]) == (201, 2)
    assert reply.json["id"] == first["id"]
    assert client.get(WORK).json["spec"] == a_spec(steps=2)


def test_going_back_to_an_older_spec_is_a_new_version(client: FlaskClient) -> None:
    for steps in (1, 2):
        client.post(WORKFLOWS, json=a_spec(steps=steps))

    reply = client.post(WORKFLOWS, json=a_spec(steps=1))

    assert (reply.status_code, reply.json["version"]) == (201, 3)


def test_one_of_many_who_register_the_same_spec_makes_the_version(client: FlaskClient) -> None:
    with ThreadPoolExecutor(8) as callers:
        replies = list(callers.map(lambda _: _post_from_elsewhere(client, a_spec()), range(8)))

    assert sorted(reply.status_code for reply in replies) == [200] * 7 + [201]
    assert {reply.json["version"] for reply in replies} == {1}


def test_specs_that_race_are_numbered_without_gaps(client: FlaskClient) -> None:
    specs = [a_spec(steps=steps) for steps in range(1, 9)]

    with ThreadPoolExecutor(8) as callers:
        replies = list(callers.map(lambda spec: _post_from_elsewhere(client, spec), specs))

    assert sorted(reply.json["version"] for reply in replies) == list(range(1, 9))
    shown = client.get(f"{WORK}/versions").json["items"]
    assert {each["version"]: each["spec"] for each in shown} == {
        reply.json["version"]: spec for reply, spec in zip(replies, specs, strict=True)
    }


def test_workflows_are_listed_by_name_page_by_page(client: FlaskClient) -> None:
    for name in ("d", "b", "e", "a", "c"):
        client.post(WORKFLOWS, json=a_spec(name))

    pages = _pages(client, WORKFLOWS, limit=2)

    assert [[each["name"] for each in page] for page in pages] == [["a", "b"], ["c", "d"], ["e"]]
    assert all("spec" not in each for page in pages for each in page)


def test_a_page_that_is_just_full_is_the_last_one(client: FlaskClient) -> None:
    for name in ("a", "b"):
        client.post(WORKFLOWS, json=a_spec(name))

    assert client.get(f"{WORKFLOWS}?limit=2").json["next_cursor"] is None


def test_versions_are_listed_latest_first_page_by_page(client: FlaskClient) -> None:
    for steps in (1, 2, 3):
        client.post(WORKFLOWS, json=a_spec(steps=steps))

    first, second = _pages(client, f"{WORK}/versions", limit=2)

    assert [each["version"] for each in first] == [3, 2]
    assert [each["version"] for each in second] == [1]
    assert first[0].keys() == {"id", "version", "spec", "created_at"}
    assert [len(each["spec"]["steps"]) for each in first + second] == [3, 2, 1]


@pytest.mark.parametrize("address", ["nope", "nope/versions"])
def test_an_unknown_workflow_is_not_found(client: FlaskClient, address: str) -> None:
    reply = client.get(f"{WORKFLOWS}/{address}")

    assert (reply.status_code, reply.json["code"]) == (404, "not_found")
    assert "'nope'" in reply.json["detail"]


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        ({}, "/"),
        ({"name": "work"}, "/"),
        (a_spec(steps=0), "/steps"),
        (a_spec(""), "/name"),
        (a_spec("with a space"), "/name"),
        (a_spec("work\n"), "/name"),
        (a_spec("x" * 101), "/name"),
        (a_spec(stpes=[]), "/stpes"),
        (a_spec(queue="q\n"), "/queue"),
        (a_spec(priority=10), "/priority"),
        (a_spec(priority="4"), "/priority"),
        (a_spec(timeout="soon"), "/timeout"),
        (a_spec(timeout=0), "/timeout"),
        (a_spec(timeout=-1), "/timeout"),
        (a_spec(timeout="99999999999h"), "/timeout"),
        (a_spec(tags=[1]), "/tags/0"),
        (a_spec(params=[]), "/params"),
        (a_spec(params={"type": "nothing"}), "/params/type"),
        (a_spec(params={"properties": {"a": {"pattern": "["}}}), "/params/properties/a/pattern"),
        (a_spec(description="x" * 4001), "/description"),
        (_with_step(uses=""), "/steps/0/uses"),
        (_with_step(uses="noop\n"), "/steps/0/uses"),
        (_with_step(key="1"), "/steps/0/key"),
        (_with_step(key="s1\n"), "/steps/0/key"),
        (_with_step(needs=["nope"]), "/steps/0/needs/0"),
        (_with_step(needs=["s1"]), "/steps/0/needs"),
        (_with_step(enabled=False), "/steps"),
        (_with_step(retry={"attempts": 0}), "/steps/0/retry/attempts"),
        (_with_step(retry={"delay": -1}), "/steps/0/retry/delay"),
        (_with_step(retry={"tries": 3}), "/steps/0/retry/tries"),
        (_with_step(when="("), "/steps/0/when"),
        (_with_step(when="params.a | nosuch"), "/steps/0/when"),
        (_with_step(when="(" * 2000), "/steps/0/when"),
        (_with_step(**{"with": []}), "/steps/0/with"),
        (_with_step(**{"with": {"a": "{{"}}), "/steps/0/with"),
        (_with_step(**{"with": {"a": "{{ nope }}"}}), "/steps/0/with"),
        (_with_step(**{"with": {"a": "{{ params.a | nosuch }}"}}), "/steps/0/with"),
        (_with_step(**{"with": {"a": "{{ params.a is nosuch }}"}}), "/steps/0/with"),
        (_with_step(**{"with": {"a": "{{ " + "9" * 5000 + " }}"}}), "/steps/0/with"),
        (_with_step(**{"with": {"a": "{% block b %}{% endblock %}" * 2}}), "/steps/0/with"),
        (_with_step(**{"with": {"a": "{{ 1" + "+1" * 5000 + " }}"}}), "/steps/0/with"),
        (_with_step(**{"with": {"a": "{{ steps.later.result }}"}}), "/steps/0"),
    ],
)
def test_a_bad_spec_is_refused_with_the_place(
    client: FlaskClient, spec: dict[str, Any], pointer: str
) -> None:
    reply = client.post(WORKFLOWS, json=spec)

    assert (reply.status_code, reply.json["code"]) == (422, "invalid_spec")
    assert reply.content_type == "application/problem+json"
    assert reply.json["errors"][0]["pointer"] == pointer
    assert client.get(WORKFLOWS).json["items"] == []


def test_a_circle_of_needs_is_told_step_by_step(client: FlaskClient) -> None:
    steps = [
        {"key": "a", "uses": "noop", "needs": ["b"]},
        {"key": "b", "uses": "noop", "needs": ["a"]},
    ]

    reply = client.post(WORKFLOWS, json={"name": "circle", "steps": steps})

    assert reply.status_code == 422
    assert "circle" in reply.json["errors"][0]["detail"]


def test_two_steps_with_one_key_are_refused(client: FlaskClient) -> None:
    spec = a_spec()

    reply = client.post(WORKFLOWS, json={**spec, "steps": spec["steps"] * 2})

    assert [error["pointer"] for error in reply.json["errors"]] == ["/steps/1/key"]


def test_every_mistake_of_a_spec_is_told_at_once(client: FlaskClient) -> None:
    spec = {"name": "!", "steps": [{"key": "a"}], "prio": 4}

    errors = client.post(WORKFLOWS, json=spec).json["errors"]

    assert {error["pointer"] for error in errors} == {"/name", "/steps/0", "/prio"}
    assert any("did you mean 'priority'" in error["detail"] for error in errors)


@pytest.mark.timeout(10)
def test_a_long_spec_full_of_mistakes_is_answered_soon(client: FlaskClient) -> None:
    steps = [{"key": f"step{at}", "uses": "noop", "needs": [f"stop{at}"]} for at in range(2000)]

    reply = client.post(WORKFLOWS, json={"name": "work", "steps": steps})

    assert reply.status_code == 422
    assert reply.json["errors"][0]["pointer"] == "/steps/0/needs/0"


def test_a_refused_spec_leaves_the_latest_version_alone(client: FlaskClient) -> None:
    client.post(WORKFLOWS, json=a_spec())

    assert client.post(WORKFLOWS, json=a_spec(priority=10)).status_code == 422

    assert client.get(WORK).json["version"] == 1


@pytest.mark.parametrize(
    "spec",
    [
        a_spec(priority=4.0),
        _with_step(priority=4.0),
        _with_step(retry={"attempts": 2.0}),
        _with_step(timeout=1.5),
        a_spec(params={"properties": {"a": True}}),
        a_spec(tags=["50%", 'a"b\\c,{}', "%(x)s", ":x"]),
        _with_step(**{"with": {"a": "{% raw %}{{{% endraw %}", ":b": "%s"}}),
    ],
)
def test_what_can_be_registered_can_be_run(client: FlaskClient, spec: dict[str, Any]) -> None:
    assert client.post(WORKFLOWS, json=spec).status_code == 201

    reply = client.post(RUNS, json={"workflow": "work"})

    assert (reply.status_code, reply.json["state"]) == (201, "queued")
