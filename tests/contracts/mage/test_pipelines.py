"""What is done to many runs of a Mage pipeline at once."""

from typing import Any

from flask.testing import FlaskClient

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
from tests.support.factories import a_run, a_spec


def _all(client: FlaskClient, status: str, **members: Any) -> dict[str, Any]:
    body = {"pipeline": {"status": status, **members}}
    return answered(client.put(f"/api/pipelines/{PIPELINE}", json=body))


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


def test_blocks_that_did_not_complete_run_again(client: FlaskClient, database: Database) -> None:
    failed, done = a_run(database, SPEC).number, a_run(database, SPEC).number
    play(database, failed, Succeeded(), Failed("no"))
    play(database, done, *[Succeeded()] * 3)

    _all(client, "retry_incomplete_block_runs")

    assert [shown(client, each)["status"] for each in (failed, done)] == ["running", "completed"]
    blocks = [block["status"] for block in shown(client, failed)["block_runs"]]
    assert blocks == ["completed", "queued", "initial"]
    _all(client, "retry_incomplete_block_runs", pipeline_runs=[failed, done])  # nothing is left
