"""Execution jobs as the published clients speak to them."""

import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, event, text
from werkzeug.test import TestResponse

from api.app import create_app
from config.settings import Settings
from orchestrator import artifacts, catalog, outputs, runs, storage, tenants
from orchestrator.db import Database
from orchestrator.drafts import Draft
from orchestrator.execution import Claim
from orchestrator.models import Run
from orchestrator.outcomes import Succeeded
from orchestrator.recorder import Recorder
from orchestrator.states import RunState
from tests import reference
from tests.factories import KEY, a_run, a_spec, a_tenant, the_run
from tests.integration.contracts.mindzie_adapter import ADAPTER, body_of, place
from tests.integration.contracts.test_mindzie_golden import ASKED, JOBS, api, job
from tests.integration.test_api_verbs import _claim, _ended, _record
from tests.integration.test_statistics import a_report, say
from tests.keys import a_key, with_key

__all__ = ["api"]
PROGRESS = {"percentage", "currentStage", "estimatedCompletion", "elapsedTime"}
UNITS = ("second", "seconds", "minute", "minutes", "hour", "hours", "day", "days")
NOBODY = ADAPTER.unknown_id
FILTERS: list[tuple[str, list[str]]] = [
    ("status=queued", ["pending"]),
    ("status=Running", ["running"]),
    ("status=COMPLETED", ["succeeded"]),
    ("status=Failed&jobType=analysis", ["failed"]),
    ("jobType=Notebook", []),
    ("priority=high", ["failed"]),
    ("submittedBy=ana.ruiz&status=Cancelled", ["cancelled"]),
    ("submittedBy=nobody", []),
    ("dateFrom=2026-04-02T08:02:00Z", ["cancelled", "running"]),
    ("dateFrom=2026-04-02T10:02:00%2B02:00&dateTo=2026-04-02T08:02:00", ["running"]),
    ("dateFrom=2026-04-02T10:02:00+02:00&dateTo=2026-04-02T08:02:00.120034Z", ["running"]),
    ("dateTo=2026-04-02T08:00:00.120033", ["succeeded"]),
    ("dateFrom=2026-04-02&dateTo=2026-04-02&pageSize=1&page=5", ["succeeded"]),
    ("dateTo=2026-04-01", []),
    ("dateTo=9999-12-31&pageSize=1", ["cancelled"]),
    ("status=Queued&unknown=1", ["pending"]),
]
WRONG_QUERIES = [
    ("pageSize=0", "/query/pageSize"),
    ("page=0", "/query/page"),
    ("page=x", "/query/page"),
    ("page=99999999999999999999", "/query/page"),
    ("status=Pending", "/query/status"),
    ("jobType=", "/query/jobType"),
    ("priority=5", "/query/priority"),
    ("dateFrom=yesterday", "/query/dateFrom"),
    ("dateTo=2026-13-01", "/query/dateTo"),
]
WRONG_JOBS: list[tuple[dict[str, Any], str]] = [
    ({"jobName": None}, "/jobName"),
    ({"jobName": " "}, "/jobName"),
    ({"jobName": 7}, "/jobName"),
    ({"jobName": "x" * 201}, "/jobName"),
    ({"jobName": "a\x00b"}, "/jobName"),
    ({"jobType": "Magic"}, "/jobType"),
    ({"jobType": ["Analysis"]}, "/jobType"),
    ({"priority": "Urgent"}, "/priority"),
    ({"resource": None}, "/resource"),
    ({"resource": {"resourceType": "Pipeline"}}, "/resource/resourceId"),
    ({"parameters": [1]}, "/parameters"),
    ({"scheduling": {"executeImmediately": False}}, "/scheduling/scheduledTime"),
    ({"scheduling": {"scheduledTime": "2030-01-01T00:00:00Z"}}, "/scheduling/scheduledTime"),
    ({"scheduling": {"executeImmediately": "no"}}, "/scheduling/executeImmediately"),
    ({"scheduling": {"timeoutMinutes": 0}}, "/scheduling/timeoutMinutes"),
    ({"scheduling": {"timeoutMinutes": 10**30}}, "/scheduling/timeoutMinutes"),
    ({"notifications": {"emailRecipients": ["a@b.example"]}}, "/notifications/emailRecipients/0"),
    ({"notifications": {"onFailure": 1}}, "/notifications/onFailure"),
]
NO_KEYS: list[dict[str, str]] = [
    {},
    {"X-API-Key": KEY},
    {"Authorization": f"ApiKey {KEY}"},
    {"Authorization": "Bearer wrong"},
    {"Cookie": f"orchestrator_key={KEY}"},
]


@pytest.fixture
def jobs(client: FlaskClient, database: Database, tenant_id: UUID) -> str:
    """Where the jobs of the tenant `default` are, which has a workflow `work` of two steps."""
    with database.transaction() as session:
        catalog.register(session, tenant_id, a_spec(steps=2))
    return place(client, tenant_id)


def asked(**more: Any) -> dict[str, Any]:
    resource = {"resourceType": "Pipeline", "resourceId": "work"}
    return {"jobName": "Q1", "jobType": "Analysis", "resource": resource, **more}


def submit(client: FlaskClient, jobs: str, **more: Any) -> dict[str, Any]:
    """A job of its own, however soon after another one."""
    key = {"Idempotency-Key": f"{more}{len(listed(client, jobs))}"}
    return body_of(client.post(f"{jobs}/job", json=asked(**more), headers=key))


def listed(client: FlaskClient, jobs: str, **query: Any) -> list[str]:
    found = body_of(client.get(f"{jobs}/jobs", query_string=query))["jobs"]
    return [each["jobId"] for each in found]


def refused(answer: TestResponse) -> tuple[int, dict[str, Any]]:
    return ADAPTER.refusal(answer), answer.json["error"]


def fields_of(answer: TestResponse) -> list[str]:
    status, error = refused(answer)
    assert status == 400, answer.text
    return [each["field"] for each in error["details"]["errors"]]


def set_state(engine: Engine, name: str, state: RunState) -> None:
    with engine.begin() as connection:
        change = text("UPDATE runs SET state = :state WHERE id = :id")
        connection.execute(change, {"state": state, "id": reference.RUNS[name]})


def leave(database: Database, settings: Settings, claim: Claim, **files: bytes) -> None:
    """Let a step save files; one called `primary…` is primary."""
    for name, content in files.items():
        draft = Draft(name=f"{name}.csv", kind="data", primary=name.startswith("primary"))
        store, within = storage.store_of(settings), timedelta(seconds=5)
        artifacts.save(database, store, claim.source, draft, content, limit=10**6, within=within)


def finish(database: Database, run_id: str, claim: Claim) -> None:
    _record(database, claim, Succeeded())
    _record(database, _claim(database, run_id, "s2"), Succeeded())


def test_trap_1_progress_is_an_object_in_detail_and_an_integer_in_the_list(
    api: FlaskClient,
) -> None:
    in_list = body_of(api.get(f"{JOBS}/jobs"))["jobs"]

    assert all(type(each["progress"]) is int for each in in_list)
    assert set(body_of(api.get(job("running")))["progress"]) == PROGRESS


def test_trap_2_and_3_every_poll_has_all_of_progress_and_a_published_status(
    api: FlaskClient, engine: Engine
) -> None:
    for state in RunState:
        set_state(engine, "running", state)

        body = body_of(api.get(job("running")))

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


def test_trap_4_numbers_are_numbers_and_lists_are_lists(api: FlaskClient) -> None:
    for name in ("succeeded", "failed", "cancelled"):
        for form in ("summary", "detailed"):
            body = body_of(api.get(job(name, f"/results?format={form}")))

            assert type(body["summary"]["recordsProcessed"]) is int
            assert type(body["summary"]["dataQualityScore"]) is float
            assert type(body["summary"]["processingEfficiency"]) is float
            assert isinstance(body["results"]["additionalOutputs"], list)
            assert body["success"] is (name == "succeeded")
            assert ("qualityMetrics" in body) == (form == "detailed")


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
    said = {"Content-Type": "application/json"}

    assert client.get(address, headers=said).status_code == 200
    assert client.get(f"{jobs}/jobs", headers=said).status_code == 200
    assert client.delete(address, headers=said).status_code == 200
    status, error = refused(client.post(f"{address}/retry", headers=said))
    assert (status, error["code"]) == (409, "job_not_retryable")


def test_trap_7_a_repeated_post_makes_no_second_job(
    client: FlaskClient, jobs: str, engine: Engine
) -> None:
    def post(body: dict[str, Any], **headers: str) -> str:
        mine = {"Authorization": f"Bearer {KEY}", **headers}
        anyone = client.application.test_client()
        return str(body_of(anyone.post(f"{jobs}/job", json=body, headers=mine))["jobId"])

    with ThreadPoolExecutor(4) as threads:
        made = set(threads.map(lambda _: post(asked()), range(4)))
    other = post(asked(parameters={"n": 2}))
    with engine.begin() as connection:
        connection.execute(text("UPDATE idempotency_keys SET created_at = now() - interval '11 s'"))
    later = post(asked())
    keyed = {post(asked(), **{"Idempotency-Key": "mine"}) for _ in range(2)}

    assert [len(made), len(keyed)] == [1, 1]
    assert len({*made, other, later, *keyed}) == 4
    assert len(listed(client, jobs)) == 4
    mismatch = client.post(
        f"{jobs}/job", json=asked(jobName="Q2"), headers={"Idempotency-Key": "mine"}
    )
    assert fields_of(mismatch) == ["/headers/Idempotency-Key"]


def test_trap_7_a_repeated_retry_makes_no_second_job(client: FlaskClient, jobs: str,
    database: Database) -> None:  # fmt: skip
    failed = _ended(database, "failed")
    address = f"{jobs}/job/{failed.id}/retry"

    first, again = (body_of(client.post(address, json={"retryReason": "r"})) for _ in range(2))
    other = body_of(client.post(address, json={"retryReason": "other"}))

    assert first["jobId"] == again["jobId"] != other["jobId"]
    assert the_run(database, failed).state == "failed"


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
        assert isinstance(answer.json.get("error"), dict)


def test_trap_10_booleans_are_read_as_python_writes_them(api: FlaskClient) -> None:
    for said, there in (("true", True), ("True", True), ("false", False), ("False", False)):
        body = body_of(api.get(job("failed", f"/results?includeArtifacts={said}")))

        assert ("downloadUrl" in body["results"]["additionalOutputs"][0]) is there, said


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


def test_only_a_failed_job_is_retried_and_only_an_open_one_cancelled(api: FlaskClient) -> None:
    for name in ("succeeded", "pending", "running", "cancelled"):
        status, error = refused(api.post(job(name, "/retry")))
        assert (status, error["code"]) == (409, "job_not_retryable")
        assert error["details"] == {"status": ADAPTER.states[RunState(name)]}
    for name in ("succeeded", "failed", "cancelled"):
        status, error = refused(api.delete(job(name)))
        assert (status, error["code"]) == (409, "job_not_cancellable")
    for name in ("pending", "running"):
        status, error = refused(api.get(job(name, "/results")))
        assert (status, error["code"]) == (409, "job_not_finished")


def test_a_running_job_stops_in_its_grace_or_at_once(
    client: FlaskClient, jobs: str, database: Database
) -> None:
    run = a_run(database, a_spec(steps=2))
    _claim(database, run.id, "s1")
    address = f"{jobs}/job/{run.id}"

    first = body_of(client.delete(address, json={"reason": "slow"}))
    graceful = the_run(database, run).stop_by
    again = body_of(client.delete(address, json={"reason": "now", "forceTermination": True}))

    assert first == again
    forced = the_run(database, run).stop_by
    assert graceful is not None
    assert forced is not None
    assert forced < graceful
    shown = body_of(client.get(address))
    assert (shown["status"], shown["progress"]["currentStage"]) == ("Running", "Cancelling")


@pytest.mark.parametrize("kept", [True, False])
def test_what_a_cancelled_job_left_is_shown_unless_it_was_not_to_be_kept(
    client: FlaskClient, jobs: str, database: Database, settings: Settings, kept: bool
) -> None:
    run = a_run(database, a_spec(steps=2))
    claim = _claim(database, run.id, "s1")
    leave(database, settings, claim, half=b"1")
    _record(database, claim, Succeeded())

    told = body_of(client.delete(f"{jobs}/job/{run.id}", json={"preservePartialResults": kept}))
    claimed = the_run(database, run).state

    assert told["partialResultsPreserved"] is kept
    assert claimed in ("cancelled", "cancelling")
    body = body_of(client.get(f"{jobs}/job/{run.id}/results"))
    assert body["results"]["primaryOutput"] is None
    assert [each["title"] for each in body["results"]["additionalOutputs"]] == ["half.csv"] * kept


def test_outputs_are_downloaded_with_the_key_or_at_their_signed_address(
    client: FlaskClient, jobs: str, database: Database, settings: Settings
) -> None:
    run = a_run(database, a_spec(steps=2))
    claim = _claim(database, run.id, "s1")
    leave(database, settings, claim, other=b"2", primary=b"1")
    finish(database, str(run.id), claim)
    address = f"{jobs}/job/{run.id}/results"

    results = body_of(client.get(address))["results"]
    url = results["primaryOutput"]["downloadUrl"]
    anyone = client.application.test_client()

    assert url.startswith("http://localhost/")
    assert (anyone.get(url).data, client.get(url.partition("?")[0]).data) == (b"1", b"1")
    assert [each["title"] for each in results["additionalOutputs"]] == ["other.csv"]
    whole = client.get(f"{address}?format=download")
    assert whole.data == b"1"
    assert 'filename="primary.csv"' in whole.headers["Content-Disposition"]
    status, _ = refused(client.get(f"{address}?format=download&outputType=models"))
    assert status == 404


def test_several_primary_outputs_are_downloaded_as_one_archive(
    client: FlaskClient, jobs: str, database: Database, settings: Settings
) -> None:
    run = a_run(database, a_spec(steps=2))
    claim = _claim(database, run.id, "s1")
    leave(database, settings, claim, primary_1=b"1" * 300_000, primary_2=b"2", other=b"3")
    finish(database, str(run.id), claim)

    answer = client.get(f"{jobs}/job/{run.id}/results?format=download")

    assert answer.mimetype == "application/zip"
    assert f'filename="{run.id}.zip"' in answer.headers["Content-Disposition"]
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert archive.testzip() is None
        read = {name: archive.read(name) for name in archive.namelist()}
    assert read == {"primary_1.csv": b"1" * 300_000, "primary_2.csv": b"2"}


def test_logs_are_filtered_by_level_and_time(
    client: FlaskClient, jobs: str, database: Database
) -> None:
    run = a_run(database)
    claim, recorder = _claim(database, run.id, "s1"), Recorder()
    for level in (10, 20, 30, 40, 50):
        recorder.log(level, f"level {level}")
    batch = recorder.drain()
    assert batch is not None
    with database.transaction() as session:
        outputs.write(session, claim.source, batch)

    def log(**query: Any) -> list[str]:
        found = body_of(client.get(f"{jobs}/job/{run.id}/logs", query_string=query))["logs"]
        return [each["level"] for each in found]

    assert log() == ["INFO", "WARN", "ERROR", "ERROR"]
    assert log(level="debug", limit=2) == ["DEBUG", "INFO"]
    assert log(level="ERROR", limit=99_999) == ["ERROR", "ERROR"]
    assert log(fromTime="2099-01-01") == log(toTime="2020-01-01T00:00:00") == []
    raw = client.get(f"{jobs}/job/{run.id}/logs?format=raw&limit=1")
    assert raw.mimetype == "text/plain"
    assert raw.text.endswith(" INFO  s1: level 20\n")


def test_jobs_are_filtered(api: FlaskClient) -> None:
    for query, names in FILTERS:
        body = body_of(api.get(f"{JOBS}/jobs?{query}"))

        found = [each["jobId"] for each in body["jobs"]]
        assert found == [str(reference.RUNS[name]) for name in names], query
        assert body["summary"]["totalJobs"] == 5


def test_a_page_asks_the_same_questions_however_long_it_is(api: FlaskClient) -> None:
    asked: list[str] = []
    engine = api.application.extensions["orchestrator"].database.engine
    event.listen(engine, "before_cursor_execute", lambda *said: asked.append(said[2]))

    def questions(size: int) -> int:
        asked.clear()
        assert len(body_of(api.get(f"{JOBS}/jobs?pageSize={size}"))["jobs"]) == size
        return len(asked)

    questions(5)  # prepares what is asked often
    assert questions(2) == questions(5)


def test_pages_are_of_at_most_a_hundred(api: FlaskClient) -> None:
    body = body_of(api.get(f"{JOBS}/jobs?pageSize=101"))

    assert (body["page"], body["pageSize"], body["hasNextPage"]) == (1, 100, False)
    assert body_of(api.get(f"{JOBS}/jobs?page=2147483647&pageSize=100"))["jobs"] == []


def test_a_wrong_query_is_refused_with_its_place(api: FlaskClient) -> None:
    for query, field in WRONG_QUERIES:
        assert fields_of(api.get(f"{JOBS}/jobs?{query}")) == [field], query


def test_a_wrong_job_is_refused_with_its_place(client: FlaskClient, jobs: str) -> None:
    for change, field in WRONG_JOBS:
        assert fields_of(client.post(f"{jobs}/job", json=asked(**change))) == [field], change
    assert listed(client, jobs) == []


def test_parameters_must_fit_the_workflow_and_the_body_must_be_json(api: FlaskClient) -> None:
    wrong = api.post(f"{JOBS}/job", json=ASKED | {"parameters": {"limit": "many"}})
    deep = api.post(f"{JOBS}/job", data="[" * 100_000, content_type="application/json")
    form = api.post(f"{JOBS}/job", data=b"<a/>", content_type="application/xml")
    late = {"modifyParameters": True, "updatedParameters": {"timeoutMinutes": "long"}}

    assert fields_of(wrong) == ["/parameters/limit"]
    assert refused(deep)[0] == 400
    assert refused(form)[0] == 415
    assert fields_of(api.post(job("failed", "/retry"), json=late)) == [
        "/updatedParameters/timeoutMinutes"
    ]
    assert body_of(api.get(f"{JOBS}/jobs"))["summary"]["totalJobs"] == 5


def test_a_scheduled_job_is_queued_until_then(
    client: FlaskClient, jobs: str, database: Database
) -> None:
    scheduling = {"executeImmediately": False, "scheduledTime": "2099-01-01T08:00:00.500+01:00"}

    made = submit(client, jobs, scheduling=scheduling, jobType="notebook")

    assert (made["status"], made["queuePosition"]) == ("Queued", 0)
    assert made["estimatedStartTime"] == "2099-01-01T07:00:00Z"
    assert listed(client, jobs, jobType="Notebook") == [made["jobId"]]
    assert listed(client, jobs, jobType="Analysis") == []


def test_mail_is_told_of_what_was_chosen(open_client: FlaskClient, database: Database) -> None:
    with database.transaction() as session:
        tenant_id = a_tenant(session)
        catalog.register(session, tenant_id, a_spec())
    jobs = place(open_client, tenant_id)
    told = {"onCompletion": True, "onFailure": True, "emailRecipients": ["ana@example.org"]}

    made = submit(open_client, jobs, notifications=told)
    silent = submit(open_client, jobs, notifications={"onFailure": True, "emailRecipients": []})

    with database.transaction() as session:
        found = [
            runs.get(session, tenant_id, UUID(each["jobId"])).notifications
            for each in (made, silent)
        ]
    events = ["run.succeeded", "run.failed", "run.timed_out"]
    assert found == [{"events": events, "mail": ["ana@example.org"]}, None]


def test_the_queue_has_the_jobs_that_wait_in_their_order(
    client: FlaskClient, jobs: str, database: Database
) -> None:
    say(database, a_report())
    low, normal = (submit(client, jobs, priority=each)["jobId"] for each in ("Low", "Normal"))
    high = submit(client, jobs, priority="High", jobType="Notebook")["jobId"]

    body = body_of(client.get(f"{jobs}/queue"))

    places = [(each["jobId"], each["queuePosition"]) for each in body["queuedJobs"]]
    assert places == [(high, 1), (normal, 2), (low, 3)]
    assert body["summary"]["totalQueuedJobs"] == 3
    assert body["processingCapacity"]["activeWorkers"] == 1
    only = body_of(client.get(f"{jobs}/queue?jobType=notebook&includeEstimates=false"))
    (shown,) = only["queuedJobs"]
    assert shown["jobId"] == high
    assert "estimatedStartTime" not in shown
    assert body_of(client.get(f"{jobs}/queue?priority=Critical"))["queuedJobs"] == []


def test_a_job_that_nobody_submitted_here_has_sensible_values(
    client: FlaskClient, jobs: str, database: Database
) -> None:
    run = a_run(database, a_spec(), priority=5)

    shown = body_of(client.get(f"{jobs}/job/{run.id}"))

    assert (shown["jobType"], shown["jobName"], shown["priority"]) == ("Analysis", "work", "Normal")
    assert (shown["jobDescription"], shown["execution"]["submittedBy"]) == (None, "system")
    assert shown["resource"]["resourceType"] == "Pipeline"
    assert listed(client, jobs, jobType="Analysis") == [str(run.id)]


def test_another_project_or_tenant_is_not_to_be_seen(
    client: FlaskClient, jobs: str, database: Database, tenant_id: UUID
) -> None:
    run: Run = a_run(database)
    with database.transaction() as session:
        other = tenants.create_project(session, tenant_id, "elsewhere")
        there = f"/api/{tenant_id}/{other.id}/execution"
    try:
        assert listed(client, there) == []
        assert body_of(client.get(f"{there}/jobs"))["summary"]["totalJobs"] == 0
        for answer in (
            client.get(f"{there}/job/{run.id}"),
            client.delete(f"{there}/job/{run.id}"),
            client.post(f"{there}/job/{run.id}/retry"),
            client.get(f"{there}/job/{run.id}/results"),
            client.get(f"{there}/job/{run.id}/logs"),
            client.post(f"{there}/job", json=asked()),
            client.post(f"{jobs}/job", json=asked(resource={
                "resourceType": "Pipeline", "resourceId": NOBODY})),
            client.get(f"{jobs}/job/{NOBODY}"),
            client.get(f"/api/{tenant_id}/{NOBODY}/execution/jobs"),
            client.get(f"/api/{tenant_id}/{NOBODY}/execution/ping"),
            client.get(f"/api/{NOBODY}/{other.id}/execution/jobs"),
            client.get(f"/api/{NOBODY}/execution/system/status"),
            client.get(f"{jobs}/nothing"),
            client.get(f"/api/{tenant_id}/execution/"),
        ):  # fmt: skip
            assert refused(answer)[0] == 404
    finally:
        with database.transaction() as session:
            session.delete(session.merge(other))


def test_only_a_bearer_key_opens(client: FlaskClient, jobs: str) -> None:
    anyone = client.application.test_client(use_cookies=False)

    for headers in NO_KEYS:
        assert refused(anyone.get(f"{jobs}/jobs", headers=headers))[0] == 401
        assert refused(anyone.get(f"{jobs}/ping", headers=headers))[0] == 401
        assert anyone.get(f"{jobs}/unauthorized-ping", headers=headers).text == "Ping Successful"


@pytest.mark.usefixtures("no_keys_left")
def test_a_key_that_may_not_is_refused(client: FlaskClient, jobs: str, tenant_id: UUID) -> None:
    viewer = with_key(client, a_key(client, "viewer")["key"])
    scoped = with_key(client, a_key(client, scopes=["runs"])["key"])
    job_id = submit(client, jobs)["jobId"]

    assert body_of(viewer.get(f"{jobs}/job/{job_id}"))["status"] == "Queued"
    assert refused(viewer.post(f"{jobs}/job", json=asked()))[0] == 403
    assert refused(viewer.delete(f"{jobs}/job/{job_id}"))[0] == 403
    assert refused(viewer.post(f"{jobs}/job/{job_id}/retry"))[0] == 403
    assert refused(scoped.get(f"/api/{tenant_id}/execution/system/status"))[0] == 403
    assert body_of(scoped.delete(f"{jobs}/job/{job_id}"))


def test_every_answer_names_its_request(client: FlaskClient, jobs: str) -> None:
    mine = {"X-Request-Id": "mine-1", "X-Tenant-Id": NOBODY, "X-Project-Id": "x"}

    assert client.get(f"{jobs}/jobs", headers=mine).headers["X-Request-Id"] == "mine-1"
    wrong = client.put(f"{jobs}/job", headers={"X-Request-Id": "a b"})
    assert (refused(wrong)[0], wrong.allow.as_set()) == (405, {"options", "post"})
    assert wrong.headers["X-Request-Id"].startswith("req_")


def test_an_id_of_a_wrong_form_is_refused(client: FlaskClient, jobs: str) -> None:
    tenant, project = jobs.split("/")[2:4]

    for wrong in ADAPTER.malformed_ids:
        assert fields_of(client.get(f"{jobs}/job/{wrong}")) == ["/path/jobId"]
        assert fields_of(client.get(f"/api/{tenant}/{wrong}/execution/jobs")) == ["/path/projectId"]
        assert fields_of(client.get(f"/api/{wrong}/{project}/execution/jobs")) == ["/path/tenantId"]


def test_other_addresses_are_not_taken(client: FlaskClient, tenant_id: UUID) -> None:
    for path in ("/api/v1/x/execution/jobs", "/api/v1/execution/system/status"):
        assert client.get(path).json["type"].startswith("urn:orchestrator:problem:")
    assert client.get(f"/api/{tenant_id}/executions").mimetype == "application/problem+json"


def test_too_many_requests_are_told_when_to_come_again(
    settings: Settings, database: Database, tenant_id: UUID
) -> None:
    app = create_app(replace(settings, rate_limit=1))
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"
    address = f"{place(client, tenant_id)}/jobs"

    second = [client.get(address) for _ in range(3)][-1]

    assert refused(second)[0] == 429
    assert int(second.headers["Retry-After"]) >= 1
    for each in (app.extensions["orchestrator"].database, app.extensions["orchestrator"].doors):
        each.engine.dispose()
