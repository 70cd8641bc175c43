"""Jobs from submission to results, polled as the published client class polls them."""

from pathlib import Path
from typing import Any

import pytest
import requests

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.support.factories import eventually
from tests.support.processes import said

ANALYSIS = {
    "name": "analysis",
    "steps": [{"key": "analyse", "uses": "tests.support.handlers.analyse"}],
}
HANGING = {"name": "hanging-job", "steps": [{"key": "wait", "uses": "tests.support.handlers.tidy"}]}


class JobClient:
    """Submits jobs and polls them, reading on every poll what the published one prints."""

    def __init__(self, base: str, key: str) -> None:
        self._base, self._session = base, requests.Session()
        self._session.headers.update(
            {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        )

    def submit(self, name: str, workflow: str, **more: Any) -> dict[str, Any]:
        resource = {"resourceType": "Pipeline", "resourceId": workflow}
        body = {"jobName": name, "jobType": "Analysis", "resource": resource, **more}
        return self._body(self._session.post(f"{self._base}/job", json=body, timeout=30))

    def poll(self, job_id: str) -> tuple[dict[str, Any], str]:
        job = self._body(self._session.get(f"{self._base}/job/{job_id}", timeout=30))
        progress = job["progress"]
        told = f"{job['status']}: {progress['percentage']:d}% {progress['currentStage']}"
        return job, f"{told} after {progress['elapsedTime']}"

    def wait(self, job_id: str) -> tuple[dict[str, Any], list[str]]:
        """The job, once it is in a status at which the published client stops, and all it said."""
        lines: list[str] = []

        def look() -> dict[str, Any]:
            job, line = self.poll(job_id)
            lines.append(line)
            return job

        over = ("Completed", "Failed", "Cancelled")
        return eventually(look, within=30, until=lambda job: job["status"] in over), lines

    def results(self, job_id: str, **query: Any) -> dict[str, Any]:
        address = f"{self._base}/job/{job_id}/results"
        return self._body(self._session.get(address, params=query, timeout=30))

    def cancel(self, job_id: str, **body: Any) -> bool:
        answer = self._session.delete(f"{self._base}/job/{job_id}", json=body or None, timeout=30)
        return answer.status_code == 200

    def retry(self, job_id: str, **body: Any) -> dict[str, Any]:
        address = f"{self._base}/job/{job_id}/retry"
        return self._body(self._session.post(address, json=body, timeout=30))

    def jobs(self, **query: Any) -> dict[str, Any]:
        return self._body(self._session.get(f"{self._base}/jobs", params=query, timeout=30))

    def system(self) -> dict[str, Any]:
        tenant = self._base.rsplit("/", 2)[0]
        address = f"{tenant}/execution/system/status"
        return self._body(self._session.get(address, timeout=30))

    @staticmethod
    def _body(answer: requests.Response) -> dict[str, Any]:
        assert answer.status_code == 200, answer.text
        assert answer.headers["X-Request-Id"]
        body: dict[str, Any] = answer.json()
        return body


@pytest.fixture
def jobs(stack: Stack, client: Client) -> JobClient:
    """A client of the tenant's project, which has two workflows."""
    for spec in (ANALYSIS, HANGING):
        client.apply(spec)
    headers = {"Authorization": f"Bearer {stack.key}"}
    ids = [
        requests.get(f"{stack.url}/api/v1/{what}", headers=headers, timeout=30).json()["items"][0]
        for what in ("tenants", "projects")
    ]
    base = "/".join([stack.url, "api", *(each["id"] for each in ids), "execution"])
    return JobClient(base, stack.key)


def test_a_job_is_submitted_polled_and_its_results_are_read(jobs: JobClient) -> None:
    made = jobs.submit("Q1 claims", "analysis", priority="High")
    assert (made["status"], made["priority"]) == ("Queued", "High")

    job, lines = jobs.wait(made["jobId"])

    assert job["status"] == "Completed"
    assert lines[-1].startswith("Completed: 100% Completed after ")
    results = jobs.results(made["jobId"], includeArtifacts=True)
    assert results["success"]
    assert f"{results['summary']['recordsProcessed']:,}" == "12,500"
    primary, (other,) = (
        results["results"]["primaryOutput"],
        results["results"]["additionalOutputs"],
    )
    assert (primary["type"], other["type"]) == ("ProcessMiningReport", "EnrichedDataset")
    assert requests.get(primary["downloadUrl"], timeout=30).text == "<p>42</p>"
    assert other["accuracy"] == 0.97
    assert made["jobId"] in [each["jobId"] for each in jobs.jobs(status="Completed")["jobs"]]
    assert jobs.system()["systemStatus"] == "Healthy"


def test_a_job_that_fails_is_retried_as_a_new_one(jobs: JobClient) -> None:
    made = jobs.submit("Q2 claims", "analysis", parameters={"fails": True})

    failed, _ = jobs.wait(made["jobId"])

    assert failed["status"] == "Failed"
    assert "the source is locked" in failed["error"]["message"]
    assert failed["error"]["stage"] == "analyse"
    partial = jobs.results(made["jobId"])
    assert (partial["success"], partial["results"]["primaryOutput"]) == (False, None)
    assert len(partial["results"]["additionalOutputs"]) == 2
    again = jobs.retry(
        made["jobId"],
        retryReason="unlocked",
        modifyParameters=True,
        updatedParameters={"fails": False, "timeoutMinutes": 5},
    )
    assert again["retry"]["originalJobId"] == made["jobId"] != again["jobId"]
    assert jobs.wait(again["jobId"])[0]["status"] == "Completed"
    assert jobs.poll(made["jobId"])[0]["status"] == "Failed"


def test_a_job_that_runs_is_cancelled(jobs: JobClient, say: Path) -> None:
    made = jobs.submit("Q3 claims", "hanging-job", parameters={"say": str(say)})
    said(say, within=30)
    assert jobs.poll(made["jobId"])[0]["status"] == "Running"

    assert jobs.cancel(made["jobId"], reason="wrong window")

    job, _ = jobs.wait(made["jobId"])
    assert (job["status"], job["progress"]["currentStage"]) == ("Cancelled", "Cancelled")
    assert "cleaned up" in said(say, lines=2, within=30)[1]
    assert not jobs.cancel(made["jobId"])
