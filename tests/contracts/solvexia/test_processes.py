"""Processes, the lists of their runs, and their steps."""

from datetime import UTC, datetime, timedelta

import pytest
from flask.testing import FlaskClient

from orchestrator.db.database import Database
from tests.contracts.adapters.solvexia import PROCESSES, RUNS
from tests.contracts.solvexia.helpers import DAY, V1, created, register
from tests.support.factories import a_run, a_spec


@pytest.mark.row("`GET processes`, `processes/{id}`")
def test_processes_are_found_by_name_and_age(client: FlaskClient) -> None:
    ids = {name: register(client, a_spec(name)) for name in ("alpha", "Beta", "al_ha")}
    hour = timedelta(hours=1)
    before, after = (
        (datetime.now(UTC) + shift).strftime("%Y-%m-%dT%H:%M:%S") for shift in (-hour, hour)
    )

    def names(**query: str) -> list[str]:
        return [each["name"] for each in client.get(PROCESSES, query_string=query).json]

    listed = client.get(PROCESSES).json

    assert {each["id"]: each["name"] for each in listed} == {v: k for k, v in ids.items()}
    assert names(name="BET") == ["Beta"]
    assert names(name="l_h") == ["al_ha"]
    assert names(name="%") == []
    assert len(names(dateCreatedStart=before, dateCreatedEnd=after)) == 3
    assert names(dateCreatedStart=after) == names(dateCreatedEnd=f"{before}Z") == []
    assert names(dateCreatedStart="2100-01-01") == []
    process = client.get(f"{PROCESSES}/{ids['alpha']}").json
    assert (process["id"], process["name"], process["description"]) == (ids["alpha"], "alpha", "")
    assert len(process["dateModified"]) == len("2020-06-15T02:24:14.2700000")


@pytest.mark.row("`GET processes/{id}/processruns`")
def test_runs_of_a_process_are_listed_newest_first(client: FlaskClient, database: Database) -> None:
    numbers = [a_run(database).number for _ in range(3)]
    a_run(database, a_spec("other"))
    process = register(client, a_spec())
    path = f"{PROCESSES}/{process}/processruns"

    listed = client.get(path).json

    expected = [(f"pr-{n}", f"work : run #{place}") for place, n in enumerate(numbers, start=1)]
    assert [(each["id"], each["name"]) for each in listed] == expected[::-1]
    assert client.get(path, query_string={"dateCreatedStart": "2100-01-01"}).json == []
    assert len(client.get(path, query_string={"dateCreatedEnd": "2100-01-01"}).json) == 3


@pytest.mark.row("`POST processes/{id}/processruns`: `namePrefix`")
def test_a_prefix_stands_before_the_name(client: FlaskClient) -> None:
    made = created(client, a_spec(), namePrefix="Q1 Übersicht")
    plain = created(client, a_spec(), namePrefix=None)

    assert made["name"] == "Q1 Übersicht work : run #1"
    assert client.get(f"{RUNS}/{made['id']}").json["name"] == made["name"]
    assert plain["name"] == "work : run #2"
    listed = client.get(f"{PROCESSES}/{made['process']}/processruns").json
    assert [each["name"] for each in listed] == [plain["name"], made["name"]]


@pytest.mark.row("`GET processes/{id}/steps`, `processruns/{id}/steps`")
def test_steps_of_a_process_and_of_its_runs_have_other_ids(client: FlaskClient) -> None:
    made = created(client, DAY)
    before = client.get(f"{PROCESSES}/{made['process']}/steps").json
    of_run = client.get(f"{RUNS}/{made['id']}/steps").json

    assert [{**each, "id": None} for each in before] == [{**each, "id": None} for each in of_run]
    assert [(each["stepOrder"], each["orderedName"]) for each in before] == [
        ("1.1", "1.1"), ("1.2", "1.2"), ("1.3", "1.3"),
    ]  # fmt: skip
    assert [each["isEnabled"] for each in before] == [True, True, False]
    assert {each["id"] for each in before}.isdisjoint(each["id"] for each in of_run)
    for each in (*before, *of_run):
        assert client.get(f"{V1}/steps/{each['id']}").json == each
