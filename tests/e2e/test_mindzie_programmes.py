"""What mindzie's published programmes do, on real processes: in node, in Python, by its SDK."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import requests
from mindzie_api import MindzieAPIClient
from mindzie_api.exceptions import MindzieAPIException
from mindzie_api.models.execution import ExecutionHistory, ExecutionQueueItem, ExecutionStatus
from sqlalchemy import Engine

from api.contracts.mindzie.vocabulary import HEALTH
from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.contracts.adapters.mindzie import ADAPTER, place
from tests.e2e.contract_client import WITHIN, ContractClient
from tests.support.factories import eventually
from tests.support.processes import lines_in

NODE = shutil.which("node")
WORKFLOW = Path(__file__).parents[1] / "node" / "mindzie_workflow.mjs"
FINAL = ("Completed", "Failed", "Cancelled")
ANALYSIS = {
    "name": "analysis",
    "steps": [{"key": "analyse", "uses": "tests.support.handlers.analyse"}],
}
PLAIN = {"name": "plain", "steps": [{"key": "s", "uses": "noop"}]}
BUSY = {"name": "busy", "steps": [{"key": "work", "uses": "tests.support.handlers.work_until"}]}
STRICT = {
    "name": "strict",
    "params": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"fails": {"type": "boolean"}},
    },
    "steps": ANALYSIS["steps"],
}
PARAMETERS = {
    "datasetId": "dataset-guid",
    "analysisType": "comprehensive",
    "timeWindow": {"startDate": "2024-01-01", "endDate": "2024-01-31"},
    "includeAnomalyDetection": True,
    "performanceMetrics": ["cycle_time", "waiting_time", "resource_utilization"],
    "qualityChecks": {"validateTimestamps": True, "checkDuplicates": True},
}


class Manager:
    """The calls of the published ExecutionManager, with its bodies and queries."""

    def __init__(self, base: str, tenant: UUID, project: str, key: str) -> None:
        self.system = f"{base}/api/{tenant}/execution/system/status"
        self.jobs = f"{base}/api/{tenant}/{project}/execution"
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def call(self, method: str, address: str, **sent: Any) -> requests.Response:
        return requests.request(method, address, headers=self.headers, timeout=WITHIN, **sent)

    def submit(self, resource: str, **parameters: Any) -> dict[str, Any]:
        payload = {
            "jobName": "Monthly Process Analytics",
            "jobType": "ProcessMining",
            "priority": "High",
            "resource": {"resourceType": "Pipeline", "resourceId": resource},
            "parameters": parameters,
            "scheduling": {"executeImmediately": True, "timeoutMinutes": 120},
            "notifications": {"onCompletion": True, "onFailure": True},
        }
        return self._json(self.call("POST", f"{self.jobs}/job", json=payload))

    def status(self, job_id: str) -> dict[str, Any]:
        return self._json(self.call("GET", f"{self.jobs}/job/{job_id}"))

    def wait(self, job_id: str) -> list[dict[str, Any]]:
        """Every poll until the job has ended, with the fields that the programme prints."""
        polls = []

        def poll() -> str:
            job = self.status(job_id)
            polls.append(job)
            for name in ("percentage", "currentStage", "elapsedTime"):
                assert job["progress"][name] is not None
            return str(job["status"])

        eventually(poll, within=WITHIN, until=lambda word: word in FINAL)
        return polls

    def results(self, job_id: str) -> dict[str, Any]:
        query = {"format": "detailed", "includeArtifacts": "true"}
        return self._json(self.call("GET", f"{self.jobs}/job/{job_id}/results", params=query))

    def list(self, **query: Any) -> dict[str, Any]:
        return self._json(
            self.call("GET", f"{self.jobs}/jobs", params={"page": 1, "pageSize": 20, **query})
        )

    def cancel(self, job_id: str) -> bool:
        payload = {
            "reason": "User cancellation", "forceTermination": False,
            "preservePartialResults": True,
        }  # fmt: skip
        answer = self.call("DELETE", f"{self.jobs}/job/{job_id}", json=payload)
        return answer.status_code == 200

    def retry(self, job_id: str, **changes: Any) -> dict[str, Any]:
        payload = {
            "retryReason": "Infrastructure issue resolved", "modifyParameters": True,
            "updatedParameters": {
                "timeoutMinutes": 180, "retryFailedRecords": True, "increaseMemoryLimit": True,
                **changes,
            },
            "priority": "High", "immediateExecution": False,
        }  # fmt: skip
        return self._json(self.call("POST", f"{self.jobs}/job/{job_id}/retry", json=payload))

    def system_status(self) -> dict[str, Any]:
        return self._json(self.call("GET", self.system))

    @staticmethod
    def _json(answer: requests.Response) -> dict[str, Any]:
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body


@pytest.fixture
def manager(stack: Stack, client: Client, engine: Engine) -> Manager:
    """The published calls at the tenant's project, which has workflows."""
    for spec in (ANALYSIS, PLAIN, BUSY, STRICT):
        client.apply(spec)
    http = ContractClient(ADAPTER, stack, engine)
    return Manager(stack.url, http.tenant_id, place(http, http.tenant_id).split("/")[3], stack.key)


@pytest.fixture
def sdk(stack: Stack, manager: Manager) -> Iterator[tuple[MindzieAPIClient, str]]:
    """The published SDK, and the id of the project."""
    tenant, project = manager.jobs.split("/")[4:6]
    options = {"api_key": stack.key, "max_retries": 0}
    with MindzieAPIClient(base_url=stack.url, tenant_id=tenant, **options) as client:
        yield client, project


@pytest.mark.skipif(NODE is None, reason="there is no node on this machine")
@pytest.mark.row("mindzie: the published JavaScript workflow, polled every 2 s")
@pytest.mark.parametrize("workflow", ["analysis", "plain"])
def test_the_published_workflow_runs_in_node(manager: Manager, workflow: str) -> None:
    base, tenant, project = (manager.jobs.split("/api/")[0], *manager.jobs.split("/")[4:6])
    token = manager.headers["Authorization"].removeprefix("Bearer ")
    assert NODE

    done = subprocess.run(
        [NODE, str(WORKFLOW), base, tenant, project, workflow, token],
        capture_output=True,
        text=True,
        timeout=2 * WITHIN,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert read["queuePosition"] >= 0
    assert read["polls"][-1]["status"] == "Completed"
    shares = [poll["percentage"] for poll in read["polls"]]
    assert (shares, shares[-1]) == (sorted(shares), 100)
    files = [read["primary"], *(address for _, address in read["others"])]
    assert len(files) == (2 if workflow == "analysis" else 1)
    for address in files:
        assert manager.call("GET", address).status_code == 200
    assert read["systemStatus"] in HEALTH.values()  # other tests have stopped workers
    warnings = manager.results(read["jobId"])["qualityMetrics"]["warnings"]
    assert [each["type"] for each in warnings] == ["notifications"]  # there is no mail server


@pytest.mark.row("mindzie: the calls of the published ExecutionManager, in their order")
def test_the_published_manager_runs(manager: Manager) -> None:
    system = manager.system_status()
    assert system["systemStatus"] in HEALTH.values()
    assert system["queueStatistics"]["totalQueuedJobs"] >= 0
    job = manager.submit("analysis", **PARAMETERS)
    assert job["queuePosition"] >= 0
    assert "estimatedStartTime" in job

    final = manager.wait(job["jobId"])[-1]

    assert (final["status"], "error" in final) == ("Completed", False)
    results = manager.results(job["jobId"])
    summary = results["summary"]
    assert f"{summary['recordsProcessed']:,}" == "12,500"
    assert 0 <= summary["dataQualityScore"] <= 100
    assert summary["processingEfficiency"] >= 0
    assert results["results"]["primaryOutput"]["format"] == "html"
    assert [each["format"] for each in results["results"]["additionalOutputs"]] == ["csv"]
    since = datetime.now() - timedelta(hours=1)  # noqa: DTZ005 - as the programme writes it
    page = manager.list(status="Completed", jobType="ProcessMining", dateFrom=since.isoformat())
    assert page["pageSize"] == 20


@pytest.mark.row("mindzie POST job/{jobId}/retry: the sample body, whatever the workflow takes")
def test_a_failed_job_is_retried_with_the_published_body(manager: Manager) -> None:
    job = manager.submit("strict", fails=True)
    polls = manager.wait(job["jobId"])
    shares = [poll["progress"]["percentage"] for poll in polls]
    assert (polls[-1]["status"], shares) == ("Failed", sorted(shares))
    assert shares[-1] >= 50  # what the failed step had reached

    again = manager.retry(job["jobId"], fails=False)

    assert again["priority"] == "High"
    assert again["retry"]["originalJobId"] == job["jobId"]
    assert manager.wait(again["jobId"])[-1]["status"] == "Completed"
    assert not manager.cancel(again["jobId"])


@pytest.mark.row("mindzie GET job/{jobId}: memoryUsage, cpuUsage and diskUsage of a running job")
def test_a_running_job_shows_what_it_uses(manager: Manager, tmp_path: Path) -> None:
    say, go = tmp_path / "say", tmp_path / "go"
    job = manager.submit("busy", say=str(say), go=str(go))
    lines_in(say, within=WITHIN)

    def usage() -> dict[str, Any]:
        execution: dict[str, Any] = manager.status(job["jobId"])["execution"]
        return execution

    running = eventually(usage, within=WITHIN, until=lambda each: each["cpuUsage"] is not None)

    assert manager.status(job["jobId"])["status"] == "Running"
    assert running["memoryUsage"].endswith("B")
    assert running["diskUsage"] is None or running["diskUsage"].endswith("B")
    busy = eventually(usage, within=WITHIN, until=lambda each: each["cpuUsage"] != "0%")
    assert busy["cpuUsage"].endswith("%")
    assert manager.cancel(job["jobId"])
    assert manager.wait(job["jobId"])[-1]["status"] == "Cancelled"


@pytest.mark.row("mindzie-api 2.0.0: ping, queue_notebook, queue_investigation, get_status")
@pytest.mark.row("mindzie-api 2.0.0: get_history, get_queue, cancel")
def test_the_published_sdk_runs_and_reads_executions(
    sdk: tuple[MindzieAPIClient, str], client: Client, tmp_path: Path
) -> None:
    mindzie, project = sdk
    calls = mindzie.execution
    assert calls.ping_unauthorized(project) == "Ping Successful"
    assert calls.ping(project).startswith("Ping Successful (tenant id: ")
    plain = client.apply(PLAIN)["id"]

    queued = [
        ExecutionQueueItem(**call(project, plain))
        for call in (calls.queue_notebook, calls.queue_investigation)
    ]
    say = tmp_path / "say"
    busy = client.submit("busy", {"say": str(say), "go": str(tmp_path / "go")})
    lines_in(say, within=WITHIN)

    def status(execution_id: str) -> ExecutionStatus:
        return ExecutionStatus(**calls.get_status(project, execution_id))

    assert [each.resource_type for each in queued] == ["Notebook", "Investigation"]
    assert status(busy["id"]).status == "InProgress"
    for item in queued:
        eventually(
            lambda item=item: status(item.execution_id).status,
            within=WITHIN,
            until=lambda word: word == "Completed",
        )
    assert calls.cancel(project, busy["id"])["ExecutionId"] == busy["id"]
    assert eventually(
        lambda: status(busy["id"]).status, within=WITHIN, until=lambda word: word != "InProgress"
    ) == "Cancelled"  # fmt: skip
    history = calls.get_history(project, page=1, page_size=3)
    ended = [ExecutionHistory(**each) for each in history["Executions"]]
    assert {each.execution_id for each in ended} == {
        busy["id"], *(each.execution_id for each in queued),
    }  # fmt: skip
    assert history["TotalCount"] >= 3
    waiting = {each["jobId"] for each in calls.get_queue(project)["queuedJobs"]}
    assert not waiting & {each.execution_id for each in ended}


@pytest.mark.row("mindzie-api 2.0.0: str(error) of every refusal names the reason")
def test_every_refusal_is_an_error_of_the_sdk_with_its_reason(
    sdk: tuple[MindzieAPIClient, str], stack: Stack, manager: Manager
) -> None:
    mindzie, project = sdk
    nobody = ADAPTER.unknown_id
    job = manager.submit("plain")["jobId"]
    manager.wait(job)
    stranger = MindzieAPIClient(
        base_url=stack.url, tenant_id=mindzie.tenant_id, api_key="wrong", max_retries=0
    )
    refusals = {
        "has no job": lambda: mindzie.execution.get_status(project, nobody),
        "is not a GUID": lambda: mindzie.execution.get_status(project, "17"),
        "already completed": lambda: mindzie.execution.cancel(project, job),
        "has no resource": lambda: mindzie.execution.queue_notebook(project, nobody),
        "there is nothing at this address": mindzie.projects.get_all,
        "this key is unknown": lambda: stranger.execution.get_history(project),
        "/jobName": lambda: mindzie.request("POST", "execution/job", project, json_data={}),
        "is not taken here": lambda: mindzie.request("PUT", "execution/jobs", project),
        "not JSON": lambda: mindzie.request("POST", "execution/job", project, data="{"),
        "of mindzie's API": mindzie.ping.ping,
    }
    for reason, call in refusals.items():
        with pytest.raises(MindzieAPIException) as caught:
            call()
        assert reason in str(caught.value)
        assert "Request ID: req_" in str(caught.value)
