"""mindzie on real processes: jobs polled as the published client polls them, results, retries."""

from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import Engine

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.contracts.adapters.mindzie import ADAPTER, body_of, place
from tests.e2e.contract_client import WITHIN, ContractClient
from tests.support.factories import eventually
from tests.support.processes import lines_in

ANALYSIS = {
    "name": "analysis",
    "steps": [{"key": "analyse", "uses": "tests.support.handlers.analyse"}],
}
HANGING = {"name": "hanging-job", "steps": [{"key": "wait", "uses": "tests.support.handlers.tidy"}]}


class JobClient(ContractClient):
    """Submits jobs and polls them, reading the fields that the published client prints."""

    def __init__(self, stack: Stack, engine: Engine) -> None:
        super().__init__(ADAPTER, stack, engine)
        self._base = place(self, self.tenant_id)
        self.system = f"/api/{self.tenant_id}/execution/system/status"

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        address = f"{self._base}/{path}"
        return body_of(self.open(address, method=method, json=body, query_string=query))

    def submit_job(self, name: str, workflow: str, **more: Any) -> dict[str, Any]:
        resource = {"resourceType": "Pipeline", "resourceId": workflow}
        body = {"jobName": name, "jobType": "Analysis", "resource": resource, **more}
        return self.call("POST", "job", body)

    def poll(self, job_id: str) -> tuple[dict[str, Any], str]:
        """The job, and the line that the published client prints."""
        job = self.call("GET", f"job/{job_id}")
        progress = job["progress"]
        line = f"{job['status']}: {progress['percentage']:d}% {progress['currentStage']}"
        return job, f"{line} after {progress['elapsedTime']}"

    def wait(self, job_id: str) -> tuple[dict[str, Any], str]:
        """The job, once it is in a status at which the published client stops, and its line."""
        final = ("Completed", "Failed", "Cancelled")
        return eventually(
            lambda: self.poll(job_id), within=WITHIN, until=lambda poll: poll[0]["status"] in final
        )

    def cancel(self, job_id: str, **body: Any) -> bool:
        response = self.delete(f"{self._base}/job/{job_id}", json=body or None)
        return response.status_code == 200


@pytest.fixture
def jobs(stack: Stack, client: Client, engine: Engine) -> JobClient:
    """A client of the tenant's project, which has two workflows."""
    for spec in (ANALYSIS, HANGING):
        client.apply(spec)
    return JobClient(stack, engine)


def test_a_job_is_submitted_polled_and_its_results_are_read(jobs: JobClient) -> None:
    made = jobs.submit_job("Q1 claims", "analysis", priority="High")
    assert (made["status"], made["priority"]) == ("Queued", "High")

    job, line = jobs.wait(made["jobId"])

    assert job["status"] == "Completed"
    assert line.startswith("Completed: 100% Completed after ")
    results = jobs.call("GET", f"job/{made['jobId']}/results", includeArtifacts=True)
    assert results["success"]
    assert f"{results['summary']['recordsProcessed']:,}" == "12,500"
    outputs = results["results"]
    primary, (other,) = outputs["primaryOutput"], outputs["additionalOutputs"]
    assert (primary["type"], other["type"]) == ("ProcessMiningReport", "EnrichedDataset")
    assert requests.get(primary["downloadUrl"], timeout=30).text == "<p>42</p>"
    assert other["accuracy"] == 0.97
    page = jobs.call("GET", "jobs", status="Completed")
    assert made["jobId"] in [each["jobId"] for each in page["jobs"]]
    assert body_of(jobs.get(jobs.system))["systemStatus"] == "Healthy"


def test_a_job_that_fails_is_retried_as_a_new_one(jobs: JobClient) -> None:
    made = jobs.submit_job("Q2 claims", "analysis", parameters={"fails": True})

    failed, _ = jobs.wait(made["jobId"])

    assert failed["status"] == "Failed"
    assert "the source is locked" in failed["error"]["message"]
    assert failed["error"]["stage"] == "analyse"
    partial = jobs.call("GET", f"job/{made['jobId']}/results")
    assert (partial["success"], partial["results"]["primaryOutput"]) == (False, None)
    assert len(partial["results"]["additionalOutputs"]) == 2
    changes = {
        "retryReason": "unlocked",
        "modifyParameters": True,
        "updatedParameters": {"fails": False, "timeoutMinutes": 5},
    }
    again = jobs.call("POST", f"job/{made['jobId']}/retry", changes)
    assert again["retry"]["originalJobId"] == made["jobId"] != again["jobId"]
    assert jobs.wait(again["jobId"])[0]["status"] == "Completed"
    assert jobs.poll(made["jobId"])[0]["status"] == "Failed"


def test_a_job_that_runs_is_cancelled(jobs: JobClient, say: Path) -> None:
    made = jobs.submit_job("Q3 claims", "hanging-job", parameters={"say": str(say)})
    lines_in(say, within=30)
    assert jobs.poll(made["jobId"])[0]["status"] == "Running"

    assert jobs.cancel(made["jobId"], reason="wrong window")

    job, _ = jobs.wait(made["jobId"])
    assert (job["status"], job["progress"]["currentStage"]) == ("Cancelled", "Cancelled")
    assert "cleaned up" in lines_in(say, lines=2, within=30)[1]
    assert not jobs.cancel(made["jobId"])
