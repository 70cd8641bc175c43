"""Submit, retry and cancel jobs."""

from datetime import timedelta
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from orchestrator import runs
from orchestrator.db.database import Database
from orchestrator.engine.claims import Claim
from orchestrator.engine.outcomes import Failed, Interrupted, Succeeded
from orchestrator.maintenance import sweeps
from orchestrator.outputs import writer
from orchestrator.sdk.recorder import Recorder
from orchestrator.states import RunState
from tests.contracts.adapters.mindzie import ADAPTER, body_of
from tests.contracts.mindzie.helpers import fields_of, job, listed, refused, submit
from tests.integration.api.v1.test_run_actions import _claim, _end, _ended, _record
from tests.support.factories import a_run, a_spec, a_tenant, the_run


def test_the_samples_of_the_contract(client: FlaskClient, jobs: str, database: Database) -> None:
    scheduling = {"executeImmediately": True, "timeoutMinutes": 90}
    parameters = {"window": "2026Q1"}
    made = submit(client, jobs, priority="high", parameters=parameters, scheduling=scheduling)

    assert list(made) == [
        "jobId", "status", "queuePosition", "estimatedStartTime", "estimatedDuration", "jobName",
        "priority", "dateSubmitted", "submittedBy",
    ]  # fmt: skip
    assert (made["status"], made["queuePosition"], made["priority"]) == ("Queued", 1, "High")
    with database.transaction() as session:
        run = runs.get(session, a_tenant(session), UUID(made["jobId"]))
    assert (run.params, run.timeout, run.priority) == (parameters, timedelta(minutes=90), 6)
    assert (run.name, run.source_type) == ("Q1", "key")
    assert run.annotations == {"jobType": "Analysis", "resourceType": "Pipeline"}
    shown = body_of(client.get(f"{jobs}/job/{made['jobId']}"))
    assert shown["progress"] == {
        "percentage": 0, "currentStage": "Queued", "estimatedCompletion": None,
        "elapsedTime": "0 seconds",
    }  # fmt: skip
    assert shown["execution"]["submittedBy"] == made["submittedBy"]
    assert shown["resource"]["resourceId"] == str(run.workflow_id)


@pytest.mark.row("mindzie POST job/{jobId}/retry: a new job with what the body changes")
def test_a_retry_repeats_a_failed_job_with_what_it_changes(
    client: FlaskClient, jobs: str, database: Database
) -> None:
    failed = _ended(database, "timed_out")
    changed = {"timeoutMinutes": 180, "window": 2}
    more = {"modifyParameters": True, "updatedParameters": changed, "priority": "CRITICAL"}

    plain = body_of(
        client.post(f"{jobs}/job/{failed.id}/retry", json={"updatedParameters": changed})
    )
    other = body_of(client.post(f"{jobs}/job/{failed.id}/retry", json={**more, "retryReason": "b"}))

    assert (plain["retry"]["attempt"], plain["retry"]["retryReason"]) == (2, None)
    assert other["retry"] == {"originalJobId": str(failed.id), "attempt": 2, "retryReason": "b"}
    assert other["priority"] == "Critical"
    with database.transaction() as session:
        first, second = (
            runs.get(session, failed.tenant_id, UUID(each["jobId"])) for each in (plain, other)
        )
    assert (first.params, first.timeout) == ({}, failed.timeout)
    assert (second.params, second.timeout) == ({"window": 2}, timedelta(minutes=180))


@pytest.mark.row("mindzie POST job/{jobId}/retry: published settings that a workflow does not take")
def test_the_settings_of_the_published_retry_are_no_parameters_unless_taken(
    client: FlaskClient, jobs: str, database: Database
) -> None:
    sample = {"timeoutMinutes": 180, "retryFailedRecords": True, "increaseMemoryLimit": True}
    closed = {"type": "object", "additionalProperties": False}
    retried = {"properties": {"retryFailedRecords": {"type": "boolean"}}}
    for schema, params in (
        (closed, {}),
        (closed | retried, {"retryFailedRecords": True}),
        ({"type": "object"}, {"retryFailedRecords": True, "increaseMemoryLimit": True}),
        (None, {"retryFailedRecords": True, "increaseMemoryLimit": True}),
    ):
        spec = a_spec(steps=2) | ({"params": schema} if schema else {})
        failed = a_run(database, spec)
        _end(database, failed.id, "s1", Failed("no"))
        body = {"modifyParameters": True, "updatedParameters": sample, "immediateExecution": False}

        again = body_of(client.post(f"{jobs}/job/{failed.id}/retry", json=body))

        with database.transaction() as session:
            run = runs.get(session, failed.tenant_id, UUID(again["jobId"]))
        assert (run.params, run.timeout) == (params, timedelta(minutes=180)), schema
    failed = a_run(database, a_spec(steps=2) | {"params": closed})
    _end(database, failed.id, "s1", Failed("no"))
    body = {"modifyParameters": True, "updatedParameters": {"increaseMemory": True}}
    answer = client.post(f"{jobs}/job/{failed.id}/retry", json=body)
    assert fields_of(answer) == ["/updatedParameters/increaseMemory"]


@pytest.mark.row("mindzie GET job/{jobId}, jobs: percentage never falls")
def test_the_percentage_of_a_job_never_falls(
    client: FlaskClient, jobs: str, database: Database
) -> None:
    spec = a_spec(steps=2)
    spec["steps"][0]["retry"] = {"attempts": 2, "delay": 0}
    run = a_run(database, spec)
    shares = []

    def report(claim: Claim, done: float) -> None:
        recorder = Recorder()
        recorder.progress(done, 1, None, None)
        batch = recorder.drain()
        assert batch
        with database.transaction() as session:
            writer.write_output(session, claim.source, batch)
        look()

    def look() -> None:
        share = body_of(client.get(f"{jobs}/job/{run.id}"))["progress"]["percentage"]
        (item,) = body_of(client.get(f"{jobs}/jobs"))["jobs"]
        native = client.get(f"/api/v1/runs/{run.id}").json["progress"]["percent"]
        assert item["progress"] == native == share
        shares.append(share)

    claim = _claim(database, run.id, "s1")
    look()
    report(claim, 0.8)
    report(claim, 0.2)  # the handler begins another part
    _record(database, claim, Failed("once", ("Error",)))
    look()  # it waits for its next attempt
    assert sweeps.wake_waiting_steps(database) == 1
    claim = _claim(database, run.id, "s1")
    report(claim, 0.1)
    _record(database, claim, Succeeded())
    look()
    claim = _claim(database, run.id, "s2")
    report(claim, 0.6)
    body_of(client.delete(f"{jobs}/job/{run.id}"))
    look()
    _record(database, claim, Interrupted("stopped"))
    look()

    assert shares == [0, 40, 40, 40, 40, 50, 80, 80, 80]


@pytest.mark.row("mindzie DELETE job/{jobId}, POST retry: 409 for a job in another state")
def test_only_a_failed_job_is_retried_and_only_an_open_one_cancelled(
    reference_client: FlaskClient,
) -> None:
    for name in ("succeeded", "pending", "running", "cancelled"):
        status, error = refused(reference_client.post(job(name, "/retry")))
        assert (status, error["code"]) == (409, "job_not_retryable")
        assert error["details"] == {"status": ADAPTER.states[RunState(name)]}
    for name in ("succeeded", "failed", "cancelled"):
        status, error = refused(reference_client.delete(job(name)))
        assert (status, error["code"]) == (409, "job_not_cancellable")
    for name in ("pending", "running"):
        status, error = refused(reference_client.get(job(name, "/results")))
        assert (status, error["code"]) == (409, "job_not_finished")


@pytest.mark.row("mindzie DELETE job/{jobId}: reason, forceTermination, preservePartialResults")
def test_a_running_job_stops_in_its_grace_or_at_once(
    client: FlaskClient, jobs: str, database: Database
) -> None:
    run = a_run(database, a_spec(steps=2))
    _claim(database, run.id, "s1")
    address = f"{jobs}/job/{run.id}"

    first = body_of(
        client.delete(address, json={"reason": "slow", "preservePartialResults": False})
    )
    graceful = the_run(database, run).stop_by
    again = body_of(client.delete(address, json={"reason": "now", "forceTermination": True}))

    assert first["partialResultsPreserved"] is False
    assert again == {**first, "partialResultsPreserved": True}
    forced = the_run(database, run).stop_by
    assert graceful is not None
    assert forced is not None
    assert forced < graceful
    shown = body_of(client.get(address))
    assert (shown["status"], shown["progress"]["currentStage"]) == ("Running", "Cancelling")


@pytest.mark.row("mindzie POST job: scheduling")
def test_a_scheduled_job_is_queued_until_then(
    client: FlaskClient, jobs: str, database: Database
) -> None:
    scheduling = {"executeImmediately": False, "scheduledTime": "2099-01-01T08:00:00.500+01:00"}

    made = submit(client, jobs, scheduling=scheduling, jobType="notebook")

    assert (made["status"], made["queuePosition"]) == ("Queued", 0)
    assert made["estimatedStartTime"] == "2099-01-01T07:00:00Z"
    assert listed(client, jobs, jobType="Notebook") == [made["jobId"]]
    assert listed(client, jobs, jobType="Analysis") == []


@pytest.mark.row("mindzie GET job/{jobId}, jobs, queue: resourceName with blanks")
def test_a_resource_has_the_display_name_of_its_workflow(
    client: FlaskClient, jobs: str, engine: Engine
) -> None:
    title = "Customer Analytics Pipeline"
    with engine.begin() as connection:
        connection.execute(text("UPDATE workflows SET title = :title"), {"title": title})

    job_id = submit(client, jobs)["jobId"]

    assert body_of(client.get(f"{jobs}/job/{job_id}"))["resource"]["resourceName"] == title
    for path, rows in (("jobs", "jobs"), ("queue", "queuedJobs")):
        (row,) = body_of(client.get(f"{jobs}/{path}"))[rows]
        assert row["resourceName"] == title
    body_of(client.delete(f"{jobs}/job/{job_id}"))
    (past,) = body_of(client.get(f"{jobs}/history"))["Executions"]
    assert past["ResourceName"] == title


def test_a_job_that_nobody_submitted_here_has_sensible_values(
    client: FlaskClient, jobs: str, database: Database
) -> None:
    plain = a_run(database, a_spec(), priority=5)
    odd = a_run(database, a_spec(), annotations={"jobType": "Magic", "resourceType": 7})
    ours = submit(client, jobs, jobType="Notebook")["jobId"]

    for run in (plain, odd):
        shown = body_of(client.get(f"{jobs}/job/{run.id}"))
        assert (shown["jobType"], shown["jobName"]) == ("Analysis", "work")
        assert (shown["jobDescription"], shown["priority"]) == (None, "Normal")
        assert shown["execution"]["submittedBy"] == "system"
        assert shown["resource"]["resourceType"] == "Pipeline"
    theirs = [str(odd.id), str(plain.id)]
    assert listed(client, jobs, jobType="Analysis") == theirs
    assert listed(client, jobs, submittedBy="system") == theirs
    assert listed(client, jobs, jobType="Notebook") == [ours]
    assert listed(client, jobs, submittedBy="admin") == [ours]


@pytest.mark.row("mindzie POST job: notifications without a mail server")
def test_a_job_that_names_recipients_runs_without_a_mail_server_and_has_a_warning(
    client: FlaskClient, open_client: FlaskClient, jobs: str, database: Database
) -> None:
    both = {"onCompletion": True, "onFailure": True, "emailRecipients": ["analyst@company.com"]}
    for notifications, warnings in (
        (both, 1),
        ({**both, "onCompletion": False, "onFailure": False}, 0),
        ({**both, "emailRecipients": []}, 0),
        (None, 0),
    ):
        made = submit(client, jobs, notifications=notifications)
        address = f"{jobs}/job/{made['jobId']}"
        assert body_of(client.get(address))["metrics"]["warningCount"] == warnings
        assert body_of(open_client.get(address))["metrics"]["warningCount"] == 0  # it has a server

        body_of(client.delete(address))
        results = body_of(client.get(f"{address}/results?format=detailed"))
        shown = results["qualityMetrics"]["warnings"]
        assert [(each["type"], each["count"]) for each in shown] == [
            ("notifications", 1)
        ] * warnings
        assert all("ORCHESTRATOR_SMTP_URL is not set" in each["message"] for each in shown)
