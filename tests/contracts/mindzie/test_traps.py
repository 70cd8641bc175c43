"""Traps for clients of the published API, one test each."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from orchestrator.db.database import Database
from orchestrator.states import RunState
from tests.contracts.adapters.mindzie import ADAPTER, body_of
from tests.contracts.mindzie.helpers import JOBS, a_job, fields_of, job, listed, refused, submit
from tests.integration.api.v1.test_run_actions import _ended
from tests.integration.monitoring.test_status import a_report, say
from tests.support import reference_tenant
from tests.support.factories import KEY, the_run

PROGRESS = {"percentage", "currentStage", "estimatedCompletion", "elapsedTime"}


UNITS = ("second", "seconds", "minute", "minutes", "hour", "hours", "day", "days")


def set_state(engine: Engine, name: str, state: RunState) -> None:
    with engine.begin() as connection:
        change = text("UPDATE runs SET state = :state WHERE id = :id")
        connection.execute(change, {"state": state, "id": reference_tenant.RUNS[name]})


@pytest.mark.row("mindzie GET jobs, job/{jobId}: progress is a number in the list only")
def test_trap_1_progress_is_an_object_in_detail_and_an_integer_in_the_list(
    reference_client: FlaskClient,
) -> None:
    in_list = body_of(reference_client.get(f"{JOBS}/jobs"))["jobs"]

    assert all(type(each["progress"]) is int for each in in_list)
    assert set(body_of(reference_client.get(job("running")))["progress"]) == PROGRESS


@pytest.mark.row("mindzie GET job/{jobId}: status, and all of progress in every state")
def test_trap_2_and_3_every_poll_has_all_of_progress_and_a_published_status(
    reference_client: FlaskClient, engine: Engine
) -> None:
    for state in RunState:
        set_state(engine, "running", state)

        body = body_of(reference_client.get(job("running")))

        assert body["status"] == ADAPTER.states[state]
        assert set(body["progress"]) == PROGRESS
        assert 0 <= body["progress"]["percentage"] <= 100
        assert body["progress"]["elapsedTime"].split()[1] in UNITS
        assert type(body["metrics"]["recordsProcessed"]) is int
        assert ("error" in body) == (body["status"] == "Failed")
        stage = {RunState.RUNNING: "Push to ledger", RunState.CANCELLING: "Cancelling"}
        assert body["progress"]["currentStage"] == stage.get(state, body["status"])
        if state == RunState.TIMED_OUT:
            assert body["error"]["code"] == "timeout"


@pytest.mark.row("mindzie GET results: summary and detailed, of every ended job")
def test_trap_4_numbers_are_numbers_and_lists_are_lists(reference_client: FlaskClient) -> None:
    for name in ("succeeded", "failed", "cancelled"):
        for form in ("summary", "detailed"):
            body = body_of(reference_client.get(job(name, f"/results?format={form}")))

            assert type(body["summary"]["recordsProcessed"]) is int
            assert type(body["summary"]["dataQualityScore"]) is float
            assert type(body["summary"]["processingEfficiency"]) is float
            assert isinstance(body["results"]["additionalOutputs"], list)
            assert body["success"] is (name == "succeeded")
            assert ("qualityMetrics" in body) == (form == "detailed")


@pytest.mark.row("mindzie DELETE job/{jobId}: 200, with and without a body")
def test_trap_5_a_cancelled_job_answers_200_with_and_without_a_body(
    client: FlaskClient, jobs: str
) -> None:
    for body in (None, {"reason": "wrong window", "forceTermination": True}):
        address = f"{jobs}/job/{submit(client, jobs)['jobId']}"

        answer = client.delete(address, json=body)

        assert answer.status_code == 200
        assert answer.json["status"] == "Cancelled"
        assert answer.json["reason"] == (body or {}).get("reason")
        assert body_of(client.get(address))["status"] == "Cancelled"


def test_trap_6_a_content_type_without_a_body_is_no_body(client: FlaskClient, jobs: str) -> None:
    address = f"{jobs}/job/{submit(client, jobs)['jobId']}"
    headers = {"Content-Type": "application/json"}

    assert client.get(address, headers=headers).status_code == 200
    assert client.get(f"{jobs}/jobs", headers=headers).status_code == 200
    assert client.delete(address, headers=headers).status_code == 200
    status, error = refused(client.post(f"{address}/retry", headers=headers))
    assert (status, error["code"]) == (409, "job_not_retryable")


@pytest.mark.row("mindzie POST job: repeated by a client without an answer")
def test_trap_7_a_repeated_post_makes_no_second_job(
    client: FlaskClient, jobs: str, engine: Engine
) -> None:
    def post(body: dict[str, Any], **headers: str) -> str:
        mine = {"Authorization": f"Bearer {KEY}", **headers}
        anyone = client.application.test_client()
        return str(body_of(anyone.post(f"{jobs}/job", json=body, headers=mine))["jobId"])

    with ThreadPoolExecutor(4) as threads:
        made = set(threads.map(lambda _: post(a_job()), range(4)))
    other = post(a_job(parameters={"n": 2}))
    with engine.begin() as connection:
        connection.execute(text("UPDATE idempotency_keys SET created_at = now() - interval '11 s'"))
    later = post(a_job())
    keyed = {post(a_job(), **{"Idempotency-Key": "mine"}) for _ in range(2)}

    assert [len(made), len(keyed)] == [1, 1]
    assert len({*made, other, later, *keyed}) == 4
    assert len(listed(client, jobs)) == 4
    mismatch = client.post(
        f"{jobs}/job", json=a_job(jobName="Q2"), headers={"Idempotency-Key": "mine"}
    )
    assert fields_of(mismatch) == ["/headers/Idempotency-Key"]


def test_trap_7_a_repeated_retry_makes_no_second_job(
    client: FlaskClient, jobs: str, database: Database
) -> None:
    failed = _ended(database, "failed")
    address = f"{jobs}/job/{failed.id}/retry"

    def again(reason: str) -> str:
        anyone = client.application.test_client()
        mine = {"Authorization": f"Bearer {KEY}"}
        return str(
            body_of(anyone.post(address, json={"retryReason": reason}, headers=mine))["jobId"]
        )

    with ThreadPoolExecutor(3) as threads:
        made = set(threads.map(again, ["r"] * 3))

    assert len(made) == 1
    assert {again("r")} == made != {again("other")}
    assert the_run(database, failed).state == "failed"


@pytest.mark.row("mindzie GET system/status: numbers and texts as published")
def test_trap_8_texts_and_numbers_of_the_system_stand_where_they_are_published(
    client: FlaskClient, jobs: str, tenant_id: UUID, database: Database
) -> None:
    say(database, a_report())
    for priority in ("Critical", "High", "Normal", "Low"):
        submit(client, jobs, priority=priority)

    body = body_of(client.get(f"/api/{tenant_id}/execution/system/status"))

    node = body["executionNodes"][0]
    assert {type(node[name]) for name in ("cpuUsage", "memoryUsage", "activeJobs")} == {int}
    queued = body["queueStatistics"]
    parts = [queued[f"{each}PriorityJobs"] for each in ("high", "normal", "low")]
    assert (parts, queued["totalQueuedJobs"]) == ([2, 1, 1], 4)
    assert {type(queued[name]) for name in ("averageWaitTime", "estimatedProcessingTime")} == {str}
    assert type(body["performanceMetrics"]["successRate"]) is float
    assert type(body["performanceMetrics"]["throughputPerHour"]) is float
    used = body["resourceUtilization"]
    assert type(used["totalCpuCapacity"]) is type(used["usedCpuCapacity"]) is int
    assert type(used["totalMemoryCapacity"]) is str
    assert body["systemStatus"] == "Healthy"


def test_trap_9_an_error_is_never_a_list(client: FlaskClient, jobs: str) -> None:
    for body in (b"[]", b"{", b"17", b"[[", b'"x"', b"null", b"{}", b"[" * 100_000):
        answer = client.post(f"{jobs}/job", data=body, content_type="application/json")

        assert refused(answer)[0] == 400
        assert isinstance(answer.json, dict)


@pytest.mark.row("mindzie GET results: includeArtifacts")
def test_trap_10_booleans_are_read_as_python_writes_them(reference_client: FlaskClient) -> None:
    for word, has_url in (("true", True), ("True", True), ("false", False), ("False", False)):
        body = body_of(reference_client.get(job("failed", f"/results?includeArtifacts={word}")))

        assert ("downloadUrl" in body["results"]["additionalOutputs"][0]) is has_url, word
