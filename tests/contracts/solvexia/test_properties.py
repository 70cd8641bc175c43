"""Properties: the parameters of a run, until it starts."""

import pytest
from flask.testing import FlaskClient

from orchestrator import runs
from orchestrator.db.database import Database
from tests.contracts.adapters.solvexia import PROCESSES, RUNS
from tests.contracts.solvexia.helpers import (
    DAY,
    STEPS,
    V1,
    created,
    properties,
    refused,
    register,
    set_property,
    status_of,
    steps_of,
)
from tests.support.factories import a_tenant


def test_parameters_are_properties_of_the_steps_that_use_them(client: FlaskClient) -> None:
    made = created(client, DAY)
    load, push, off = steps_of(client, made["id"])
    loads, limit = properties(client, load), properties(client, push)["limit"]

    assert {name: each["dataType"] for name, each in loads.items()} == {
        "day": "Datepicker", "dry": "CheckBox", "area": "Dropdown", "share": "Decimal",
        "source": "File",
    }  # fmt: skip
    assert loads["day"] == {
        "id": loads["day"]["id"],
        "name": "day",
        "dataType": "Datepicker",
        "required": True,
        "visible": True,
        "informationFlowType": "INPUT",
        "mouseoverText": "which day",
        "value": None,
    }
    assert "value" not in loads["source"]
    assert loads["source"]["file"].startswith("f-")  # where it may be uploaded
    assert (limit["dataType"], limit["value"]) == ("Number", 10)
    assert properties(client, off) == {}
    assert client.get(f"{STEPS}/{push}/properties/{limit['id']}").json == limit
    refused(client.get(f"{STEPS}/{load}/properties/{limit['id']}"), 404, f"{load} has no property")


def test_a_run_does_not_start_without_what_it_requires(client: FlaskClient) -> None:
    made = created(client, DAY)
    load = steps_of(client, made["id"])[0]

    early = client.post(f"{RUNS}/{made['id']}/start")
    command = {"request": "ProcessRun_StartRq", "processRunId": made["id"]}
    for answer in (early, client.post(f"{V1}/requests", json=command)):
        refused(answer, 400, "'day' is a required property")
    assert status_of(client, made["id"]) == "NotStarted"
    set_property(client, load, properties(client, load)["day"], "2026-02-03")
    assert client.post(f"{RUNS}/{made['id']}/start").json["status"] == "Scheduled"


@pytest.mark.row("`GET` and `POST steps/{id}/properties/{id}`")
def test_properties_are_set_before_a_run_starts(client: FlaskClient, database: Database) -> None:
    made = created(client, DAY)
    load, push, _ = steps_of(client, made["id"])
    loads, limit = properties(client, load), properties(client, push)["limit"]

    answers = [
        set_property(client, load, loads["day"], "2026-02-03"),
        set_property(client, push, limit, "7"),
        set_property(client, load, loads["share"], "0.5"),
        set_property(client, load, loads["dry"], "true"),
        set_property(client, load, loads["area"], "north"),
    ]
    for answer in (
        set_property(client, load, loads["day"], "yesterday"),
        set_property(client, push, limit, "many"),
        set_property(client, load, loads["area"], "west"),
        client.post(f"{STEPS}/{push}/properties/{limit['id']}", json={"id": limit["id"]}),
    ):
        refused(answer, 400, "; /value: ")
    client.post(f"{RUNS}/{made['id']}/start")

    assert [each.json["value"] for each in answers] == ["2026-02-03", 7, 0.5, True, "north"]
    refused(set_property(client, push, limit, 8), 400, f"Process run {made['id']} is not NotStart")
    with database.transaction() as session:
        run = runs.get(session, a_tenant(session), int(made["id"].removeprefix("pr-")))
        assert run.params == {
            "day": "2026-02-03", "limit": 7, "share": 0.5, "dry": True, "area": "north",
        }  # fmt: skip


def test_the_properties_of_a_process_are_read_only(client: FlaskClient) -> None:
    process = register(client, DAY)
    step = client.get(f"{PROCESSES}/{process}/steps").json[1]["id"]
    limit = properties(client, step)["limit"]

    assert limit["value"] == 10
    refused(set_property(client, step, limit, 8), 400, "definition")
