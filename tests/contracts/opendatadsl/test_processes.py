"""Processes, their names, and the old prefix."""

from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from api.contracts.opendatadsl.process_specs import to_cron
from orchestrator.db.database import Database
from tests.contracts.adapters.opendatadsl import ROOT, refused
from tests.contracts.opendatadsl.helpers import search
from tests.support.factories import a_run, a_spec


@pytest.mark.row("`GET /api/process/v1`, `/{key}`, `/{key}/{version}`, `/{key}/*`")
def test_processes_can_be_looked_at(client: FlaskClient, database: Database) -> None:
    for steps in (1, 2):
        a_run(database, a_spec("P", steps=steps, service="ETL", tags=["nightly"]))
    a_run(database, a_spec("A"))

    listed = client.get("/api/process/v1/private?_limit=1&_skip=1")

    assert [each["_id"] for each in listed.json] == ["P"]
    assert listed.headers["x-total-count"] == "2"
    assert listed.json[0]["tags"] == ["nightly"]
    assert [each["_version"] for each in client.get("/api/process/v1/P/*").json] == [2, 1]
    assert client.get("/api/process/v1/private/P/1").json["_version"] == 1
    assert client.get("/service/process/v1/P").json["_version"] == 2
    for address in ("X", "P/3", "P/0", "P/PROD", "P/" + "9" * 30, "X/*", "public/P"):
        assert refused(client.get(f"/api/process/v1/{address}")) == 404, address
    assert client.get("/api/process/v1/public").json == []


def test_the_old_prefix_still_works(client: FlaskClient, database: Database) -> None:
    run = a_run(database)

    assert client.get(f"/service/process-exec/v1/{run.id}").json["_id"] == str(run.id)
    assert client.get("/service/process-execution/v1").status_code == 404


TITLES = ["#wf_load: daily rates", "AAA.PYTHON:SPOT", "a+b c", "Wechselkurse (täglich)", "50% off"]


@pytest.mark.row("names of processes with `#`, `:` and blanks: a workflow's `title`")
@pytest.mark.parametrize("title", TITLES)
def test_a_process_is_addressed_by_its_display_name(client: FlaskClient, title: str) -> None:
    for spec in (a_spec("plain"), a_spec("titled", title=title)):
        assert client.post("/api/v1/workflows", json=spec).status_code == 201
    key = quote(title, safe="")

    for name in (title, "titled", "plain"):
        made = client.post(ROOT, json={"name": name})
        assert made.status_code == 200, made.headers
        assert made.json["name"] == (title if name == "titled" else name)
    assert client.get(f"/api/process/v1/{key}").json["name"] == title
    assert client.get(f"/api/process/v1/private/{key}/*").json[0]["_id"] == title
    assert {each["_id"] for each in client.get("/api/process/v1").json} == {"plain", title}
    for query, names in (
        ({"name": title}, [title, title]),
        ({"name": f"in({title!r}, plain)"}, ["plain", title, title]),
        ({"name": f"ne({title})"}, ["plain"]),
        ({"name": "plain"}, ["plain"]),
        ({"name": "titled"}, [title, title]),
        ({"name": "regex(^plain$)"}, ["plain"]),
        ({"name": "regex(^titled$)"}, []),
        ({"name": "other"}, []),
        ({"_filter": f"name={title!r} and status=triggered"}, [title, title]),
        ({"_search": f'"{title[-4:]}"' if title.isalnum() else "plain"}, ["plain"]),
    ):
        answer = search(client, **query)
        assert sorted(each["name"] for each in answer.json) == sorted(names), query
        assert answer.headers["x-total-count"] == str(len(names)), query
    assert search(client, _distinct="name").json == sorted(["plain", title])
    assert {each["_id"]: each["count"] for each in search(client, _fieldinfo="name").json} == {
        "plain": 1,
        title: 2,
    }


def test_two_processes_have_different_names(client: FlaskClient) -> None:
    for spec in (a_spec("one", title="The one"), a_spec("one", title="The one", tags=["again"])):
        assert client.post("/api/v1/workflows", json=spec).status_code == 201
    for spec in (a_spec("two", title="The one"), a_spec("two", title="one")):
        answer = client.post("/api/v1/workflows", json=spec)
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/title")
    for title in ("", " x", "x ", "a\nb", "a\x00", "x" * 201, 5):
        assert client.post("/api/v1/workflows", json=a_spec("two", title=title)).status_code == 422
    assert client.post("/api/v1/workflows", json=a_spec("one")).status_code == 201
    assert refused(client.get("/api/process/v1/The%20one")) == 404


SAMPLE = {  # as published
    "_type": "VarProcess",
    "service": "ETL",
    "name": "AZURE_TEST",
    "description": "Azure Test Process",
    "enabled": True,
    "workflow": "#wf_xml_data_loader",
    "cron": "12 46 ? * * *",
    "environment": "production",
    "input": {"url": "https://rates.example/daily.xml", "tx": "#ECB_FX"},
}


@pytest.mark.row("`POST /api/process/v1`: a process is created, then updated in its next version")
def test_a_process_is_written(client: FlaskClient) -> None:
    params = {"type": "object", "required": ["url"], "properties": {"url": {"type": "string"}}}
    client.post("/api/v1/workflows", json=a_spec("wf_xml_data_loader", params=params))

    made = [client.post("/api/process/v1", json=SAMPLE) for _ in range(2)]
    change = {"name": "AZURE_TEST", "description": "other", "enabled": False}
    changed = client.post("/api/process", json=change)
    (schedule,) = client.get("/api/v1/schedules").json["items"]
    run = client.post(ROOT, json={"name": "AZURE_TEST"}).json

    assert [each.status_code for each in made] == [200, 200]
    assert [each.json["_version"] for each in (*made, changed)] == [1, 1, 2]
    shown = [client.get("/api/process/v1/AZURE_TEST").json, made[1].json]
    assert [(each["cron"], each["enabled"]) for each in shown] == [
        ("46 * * * *", False),
        ("46 * * * *", True),
    ]
    listed = {each["_id"]: each for each in client.get("/api/process/v1").json}
    assert listed["AZURE_TEST"] == shown[0]
    assert "cron" not in listed["wf_xml_data_loader"]
    assert made[0].json["description"] == "Azure Test Process"
    assert (changed.json["service"], changed.json["description"]) == ("ETL", "other")
    assert (schedule["workflow"], schedule["cron"]) == ("AZURE_TEST", "46 * * * *")
    assert schedule["active"] is False
    assert client.get(f"/api/v1/runs/{run['_id']}").json["params"] == SAMPLE["input"]
    blank = {"name": "#A: b c", "workflow": "wf_xml_data_loader"}
    assert client.post("/api/process/v1/private", json=blank).json["_id"] == "#A: b c"
    assert client.post("/api/process/v1", json={**blank, "name": "A_b-c"}).status_code == 200
    assert client.post("/api/process/v1", json={**blank, "name": "A b c"}).json["_id"] == "A b c"
    names = ["#A: b c", "A b c", "AZURE_TEST", "A_b-c", "wf_xml_data_loader"]
    assert client.get("/api/process/v1?_distinct=_id").json == names
    for name in ("A_b_c", "#A: b c"):  # by either name it keeps its display name
        again = client.post("/api/process/v1", json={"name": name, "description": name})
        assert (again.json["_id"], again.json["description"]) == ("#A: b c", name)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({}, "name of a process"),
        ({"name": ""}, "name of a process"),
        ({"name": "new"}, "no workflow 'new'"),
        ({"name": "new", "workflow": "nope"}, "/workflow there is no workflow 'nope'"),
        ({"name": "work", "script": "s"}, "/script"),
        ({"name": "work", "cron": "soon"}, "/cron"),
        ({"name": "work", "cron": "0 61 * * * ?"}, "/cron"),
        ({"name": "work", "cron": "0 1 1 * * ? 2030"}, "/cron"),
        ({"name": "work", "input": []}, "object of parameters"),
        ({"name": "work", "tags": "x"}, "tags"),
    ],
)
def test_a_wrong_process_is_refused(client: FlaskClient, body: dict[str, Any], part: str) -> None:
    client.post("/api/v1/workflows", json=a_spec())

    answer = client.post("/api/process/v1", json=body)

    assert refused(answer) == 400
    assert part in answer.headers["x-odsl-error"]
    assert client.get("/api/process/v1/work").json["_version"] == 1


def test_cron_of_the_other_kind_is_rewritten() -> None:
    known = {
        "12 46 ? * * *": "46 * * * *",
        "0 30 16 ? * MON-FRI": "30 16 * * MON-FRI",
        "0 0 6 ? * 2-6 *": "0 6 * * 1-5",
        "0 0/5 8 1,15 * ?": "0/5 8 1,15 * *",
        "0 0 6 ? * 1,7": "0 6 * * 0,6",
        "30 16 * * 1-5": "30 16 * * 1-5",
    }
    assert {text: to_cron(text) for text in known} == known


@pytest.mark.row("`PUT /api/process/v1/{key}/{version}/{tag}`, and a version by its tag")
def test_a_version_is_tagged(client: FlaskClient) -> None:
    for steps in (1, 2, 3):
        client.post("/api/v1/workflows", json=a_spec("P", steps=steps))

    for number in (1, 2):
        made = client.put(f"/api/process/v1/P/{number}/PROD")
        assert (made.status_code, made.json["_version"]) == (200, number)
        assert client.get("/api/process/v1/P/PROD").json["_version"] == number
    assert client.put("/api/process/v1/private/P/1/DEV%20%231").json["_version"] == 1
    assert client.get("/api/process/v1/P/DEV%20%231").json["_version"] == 1
    for path, status in (
        ("P/9/X", 404),
        ("Q/1/X", 404),
        ("P/1/7", 400),
        ("P/1/%20", 400),
        ("P/PROD/X", 404),
    ):
        assert refused(client.put(f"/api/process/v1/{path}")) == status, path


@pytest.mark.row("`PUT /api/process/v1/{key}`: a process is renamed")
def test_a_process_is_renamed(client: FlaskClient) -> None:
    client.post("/api/v1/workflows", json=a_spec("P"))

    assert client.put("/api/process/v1/P", json={"_id": "P two"}).json["_id"] == "P two"
    assert client.get("/api/process/v1/P%20two").json["name"] == "P two"
    assert refused(client.put("/api/process/v1/P", json={"_id": ""})) == 400


@pytest.mark.row(
    "`DELETE /api/process/v1/{key}[/{version}]`",
    otherwise="because executions keep the version that they ran; write a definition again",
)
def test_versions_are_not_deleted(client: FlaskClient) -> None:
    client.post("/api/v1/workflows", json=a_spec("P"))

    for path in ("P", "P/1", "P/*"):
        answer = client.delete(f"/api/process/v1/{path}")
        assert refused(answer) == 409
        assert "executions keep the version" in answer.headers["x-odsl-error"]
    assert client.get("/api/process/v1/P").json["_version"] == 1
