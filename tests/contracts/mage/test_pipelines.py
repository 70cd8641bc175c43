"""What is done to many runs of a Mage pipeline at once."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from orchestrator import schedules
from orchestrator.db.database import Database
from orchestrator.engine.outcomes import Failed, Succeeded
from tests.contracts.mage.helpers import (
    PIPELINE,
    SPEC,
    a_trigger,
    answered,
    listed,
    play,
    refused,
    shown,
    started,
)
from tests.support.factories import a_run, a_spec, a_tenant


def _all(client: FlaskClient, status: str, **members: Any) -> dict[str, Any]:
    body = {"pipeline": {"status": status, **members}}
    return answered(client.put(f"/api/pipelines/{PIPELINE}", json=body))


@pytest.mark.row("PUT pipelines/:uuid `retry`: new runs of the same date, trigger and variables")
def test_a_full_retry_makes_new_runs_of_the_same_date(
    client: FlaskClient, database: Database
) -> None:
    with_trigger = started(client, a_trigger(client, database), {"source": "billing"})
    without = shown(client, a_run(database, SPEC).number)
    for run in (with_trigger, without):
        play(database, run["id"], Failed("no"))
    named = [with_trigger, without["id"]]

    pipeline = _all(client, "retry", pipeline_runs=named)["pipeline"]

    assert (pipeline["uuid"], len(pipeline["blocks"])) == (PIPELINE, 3)
    for old in (with_trigger, without):
        again = [shown(client, number) for number in listed(client)]
        (new,) = (
            run
            for run in again
            if run["execution_date"] == old["execution_date"] and run["id"] != old["id"]
        )
        assert new["status"] == "running"
        for name in ("pipeline_schedule_id", "variables", "event_variables"):
            assert new[name] == old[name]


def test_a_retry_makes_all_runs_or_none(client: FlaskClient, database: Database) -> None:
    failed, goes_on = a_run(database, SPEC).number, a_run(database, SPEC).number
    play(database, failed, Failed("no"))
    path = f"/api/pipelines/{PIPELINE}"

    def retry(*named: Any) -> Any:
        body = {"pipeline": {"status": "retry", "pipeline_runs": named}}
        return client.put(path, json=body)

    (line,) = refused(retry(failed, goes_on), 400, "record_invalid")["errors"]
    assert line.startswith(f"/pipeline/pipeline_runs/1: run {goes_on} goes on")
    for wrong in ("x", True, {"id": None}, 10**30, a_run(database, a_spec("other")).number):
        (line,) = refused(retry(failed, wrong), 400, "record_invalid")["errors"]
        assert line.startswith("/pipeline/pipeline_runs/1: ")
    assert len(listed(client, pipeline_uuid=PIPELINE)) == 2


@pytest.mark.row("PUT pipelines/:uuid `cancelled`: runs by name, of a trigger, or all")
def test_runs_of_a_pipeline_are_cancelled(client: FlaskClient, database: Database) -> None:
    trigger = a_trigger(client, database)
    mine = started(client, trigger)["id"]
    named, left = a_run(database, SPEC).number, a_run(database, SPEC).number
    other = a_run(database, a_spec("other")).number

    def cancelled(**members: Any) -> list[int]:
        _all(client, "cancelled", **members)
        return sorted(listed(client, status="cancelled"))

    assert cancelled(pipeline_runs=[{"id": named}]) == [named]
    assert cancelled(pipeline_schedule_id=trigger["id"]) == sorted([mine, named])
    assert {mine, named, left} < {*cancelled()}
    assert listed(client, status="running") == [other]
    body = {"pipeline": {"status": "cancelled", "pipeline_schedule_id": 999999}}
    refused(client.put(f"/api/pipelines/{PIPELINE}", json=body), 400, "record_invalid")
    refused(client.put("/api/pipelines/nope", json=body), 404, "record_not_found")


@pytest.mark.row("PUT pipelines/:uuid `retry_incomplete_block_runs`: in the same runs")
def test_blocks_that_did_not_complete_run_again(client: FlaskClient, database: Database) -> None:
    failed, done = a_run(database, SPEC).number, a_run(database, SPEC).number
    play(database, failed, Succeeded(), Failed("no"))
    play(database, done, *[Succeeded()] * 3)

    _all(client, "retry_incomplete_block_runs")

    assert [shown(client, each)["status"] for each in (failed, done)] == ["running", "completed"]
    blocks = [block["status"] for block in shown(client, failed)["block_runs"]]
    assert blocks == ["completed", "queued", "initial"]
    _all(client, "retry_incomplete_block_runs", pipeline_runs=[failed, done])  # nothing is left


@pytest.mark.row("GET /api/pipelines: by name, with `search`, `tag[]` and `include_schedules`")
def test_pipelines_are_listed(client: FlaskClient, database: Database) -> None:
    trigger = a_trigger(client, database)
    a_run(database, a_spec("load", tags=["nightly"]))
    a_run(database, a_spec("push", tags=["hourly"]))

    def names(**query: Any) -> list[str]:
        page = answered(client.get("/api/pipelines", query_string=query))
        assert page["metadata"]["count"] >= len(page["pipelines"])
        return [each["uuid"] for each in page["pipelines"]]

    assert names() == [PIPELINE, "load", "push"]
    assert (names(search="OA"), names(**{"tag[]": "nightly,none"})) == (["load"], ["load"])
    assert (names(**{"tag[]": "none"}), names(search="%")) == ([], [])
    assert (names(_limit=1, _offset=1), names(_limit=0)) == (["load"], [])
    page = answered(client.get("/api/pipelines", query_string={"_limit": 1}))
    assert page["metadata"] == {"count": 3, "next": True}
    assert "schedules" not in page["pipelines"][0]
    full = answered(client.get("/api/pipelines", query_string={"include_schedules": 1}))
    assert [len(each["schedules"]) for each in full["pipelines"]] == [1, 0, 0]
    ((short,), *_) = (each["schedules"] for each in full["pipelines"])
    assert short == {name: trigger[name] for name in short}
    assert set(short) >= {"id", "name", "schedule_type", "status", "start_time", "pipeline_uuid"}


@pytest.mark.row("GET /api/pipelines/:uuid: with its blocks and what they need")
def test_a_pipeline_is_shown(client: FlaskClient, database: Database) -> None:
    params = {
        "properties": {"env": {"default": "prod"}, "key": {"default": "x", "writeOnly": True}}
    }
    steps = [
        {"key": "load", "name": "Load it", "uses": "noop"},
        {"key": "check", "uses": "noop"},
        {"key": "push", "uses": "noop", "needs": ["load"]},
    ]
    a_run(database, {"name": PIPELINE, "params": {"type": "object", **params}, "steps": steps})

    pipeline = answered(client.get(f"/api/pipelines/{PIPELINE}"))["pipeline"]

    assert (pipeline["uuid"], pipeline["type"], pipeline["variables"]["env"]) == (
        PIPELINE,
        "python",
        "prod",
    )
    assert "x" not in pipeline["variables"].values()
    fields = ("uuid", "name", "upstream_blocks", "downstream_blocks")
    assert [[block[name] for name in fields] for block in pipeline["blocks"]] == [
        ["load", "Load it", [], ["check", "push"]],
        ["check", "check", ["load"], []],
        ["push", "push", ["load"], []],
    ]
    refused(client.get("/api/pipelines/nope"), 404, "record_not_found")
    with_triggers = client.get(f"/api/pipelines/{PIPELINE}?include_schedules=1")
    assert answered(with_triggers)["pipeline"]["schedules"] == []


@pytest.mark.row("PUT pipelines/:uuid `retry`: a new run has the blocks of the latest version")
def test_a_full_retry_has_the_blocks_of_the_latest_version(
    client: FlaskClient, database: Database
) -> None:
    pinned = a_trigger(client, database)
    with database.transaction() as session:
        schedules.change_schedule(session, a_tenant(session), pinned["id"], version=1)
    old = [started(client, each)["id"] for each in (pinned, a_trigger(client, database))]
    for number in old:
        play(database, number, Succeeded(), Failed("no"))
    a_run(database, a_spec(PIPELINE, steps=5))

    _all(client, "retry", pipeline_runs=old)

    counts = [len(shown(client, number)["block_runs"]) for number in sorted(listed(client))[-2:]]
    assert counts == [3, 5]  # the first one's trigger is fixed to a version
    blocks = shown(client, max(listed(client)))["block_runs"]
    assert [block["status"] for block in blocks] == ["queued"] + ["initial"] * 4
    a_run(database, a_spec(PIPELINE, params={"required": ["day"]}), params={"day": 1})
    body = {"pipeline": {"status": "retry", "pipeline_runs": old}}
    reply = client.put(f"/api/pipelines/{PIPELINE}", json=body)
    (line,) = refused(reply, 400, "record_invalid")["errors"]
    assert line.startswith("/pipeline/pipeline_runs/1/variables: ")


@pytest.mark.row("PUT pipelines/:uuid `active`, `inactive`: of all of its triggers")
def test_all_triggers_of_a_pipeline_are_switched(client: FlaskClient, database: Database) -> None:
    mine = [a_trigger(client, database)["id"] for _ in range(2)]
    a_run(database, a_spec("other"))
    path = "/api/pipelines/other/pipeline_schedules"
    other = answered(client.post(path, json={"pipeline_schedule": {"status": "active"}}))

    def active() -> set[int]:
        page = answered(client.get("/api/pipeline_schedules?status=active"))
        return {each["id"] for each in page["pipeline_schedules"]}

    _all(client, "inactive")
    assert active() == {other["pipeline_schedule"]["id"]}
    _all(client, "active")
    assert active() == {*mine, other["pipeline_schedule"]["id"]}
