"""Triggering, valid and invalid."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from orchestrator.db.database import Database
from tests.contracts.adapters.opendatadsl import ROOT, refused
from tests.support.factories import a_run, a_spec


@pytest.mark.row("`POST`: `name`, `body`, `input`, `_reason`")
def test_parameters_of_the_body_go_over_those_of_the_input(
    client: FlaskClient, database: Database
) -> None:
    a_run(database, a_spec("P"))

    made = client.post(
        f"{ROOT}?_reason=why",
        json={"name": "P", "input": {"a": 1, "b": 1}, "body": {"b": 2}, "colour": "green"},
    ).json

    run = client.get(f"/api/v1/runs/{made['_id']}").json
    assert run["params"] == {"a": 1, "b": 2}
    assert (run["reason"], run["trigger"], run["run_at"]) == ("why", "manual", None)
    assert run["state"] == "queued"


@pytest.mark.row("`POST`: `_delay`")
def test_a_delay_is_waited_for(client: FlaskClient, database: Database) -> None:
    a_run(database, a_spec("P"))

    made = client.post(f"{ROOT}?_delay=60000", json={"name": "P"}).json

    run = client.get(f"/api/v1/runs/{made['_id']}").json
    assert run["run_at"] is not None
    assert run["state"] == "pending"


UNUSABLE: list[tuple[str, Any, int]] = [
    ("", {}, 400),
    ("", {"name": 5}, 400),
    ("", {"name": None}, 400),
    ("", {"name": ""}, 400),
    ("", [], 400),
    ("", "x", 400),
    ("", {"name": "P", "body": []}, 400),
    ("", {"name": "P", "input": "x"}, 400),
    ("", {"name": "P\x00"}, 400),
    ("", {"name": "unknown"}, 404),
    ("?_delay=soon", {"name": "P"}, 400),
    ("?_delay=-1", {"name": "P"}, 400),
    ("?_delay=" + "9" * 30, {"name": "P"}, 400),
    ("?_reason=" + "x" * 5000, {"name": "P"}, 400),
    ("", {"name": "P", "body": {"day": 5}}, 400),
]


@pytest.mark.row("`POST` without a usable `name`: 400; of an unknown process: 404")
def test_a_trigger_that_cannot_be_used_is_refused_and_leaves_nothing(
    client: FlaskClient, database: Database
) -> None:
    params = {"type": "object", "properties": {"day": {"type": "string"}}}
    a_run(database, a_spec("P", params=params))

    for address, body, status in UNUSABLE:
        assert refused(client.post(f"{ROOT}{address}", json=body)) == status, (address, body)

    assert client.get(ROOT).headers["x-total-count"] == "1"


def test_a_trigger_without_a_body_or_with_a_wrong_type_is_understood(
    client: FlaskClient, database: Database
) -> None:
    a_run(database, a_spec("P"))

    assert refused(client.post(ROOT, content_type="application/json")) == 400
    assert refused(client.post(ROOT, data="{", content_type="application/json")) == 400
    assert client.post(ROOT, data='{"name": "P"}').status_code == 200
    assert client.post(ROOT, data='{"name": "P"}', content_type="text/plain").status_code == 200


@pytest.mark.row("`environment`, and the header `x-odsl-environment`")
def test_executions_belong_to_an_environment(client: FlaskClient, database: Database) -> None:
    a_run(database, a_spec("P"))
    staging = {"x-odsl-environment": "staging"}

    made = client.post(ROOT, json={"name": "P"}, headers=staging).json

    assert made["environment"] == "staging"
    listed = client.get(ROOT, headers=staging)
    assert [each["_id"] for each in listed.json] == [made["_id"]]
    assert listed.headers["x-total-count"] == "1"
    for query in ("", "?name=P", "?status=triggered", "?_limit=1"):
        answer = client.get(f"{ROOT}{query}")
        assert [each["environment"] for each in answer.json] == ["production"]
        assert answer.headers["x-total-count"] == "1"
    assert client.get(f"{ROOT}/{made['_id']}").json["environment"] == "staging"
    long = {"x-odsl-environment": "x" * 101}
    assert refused(client.get(ROOT, headers=long)) == 400
