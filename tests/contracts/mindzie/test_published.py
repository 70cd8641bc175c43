"""The sample bodies of mindzie's published document, and the members of its answers."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.contracts.adapters.mindzie import body_of
from tests.contracts.mindzie.helpers import JOBS, job
from tests.support import reference_tenant

SUBMIT = {
    "jobName": "Weekly Process Analysis",
    "jobDescription": "Automated weekly analysis of process performance",
    "jobType": "ProcessMining",
    "priority": "Normal",
    "resource": {"resourceType": "Pipeline", "resourceId": "work"},
    "parameters": {
        "datasetId": "880e8400-e29b-41d4-a716-446655440000",
        "analysisType": "comprehensive",
        "timeWindow": {"startDate": "2024-01-01", "endDate": "2024-01-07"},
        "includeAnomalyDetection": True,
        "outputFormat": "detailed_report",
    },
    "scheduling": {"executeImmediately": True, "scheduledTime": None, "timeoutMinutes": 120},
    "notifications": {
        "onCompletion": True, "onFailure": True, "emailRecipients": ["analyst@company.com"],
    },
}  # fmt: skip
CANCEL = {
    "reason": "User requested cancellation", "forceTermination": False,
    "preservePartialResults": True,
}  # fmt: skip
# The members of each answer; a list has those of its items.
ACCEPTED = (
    "jobId status queuePosition estimatedStartTime estimatedDuration jobName priority "
    "dateSubmitted submittedBy"
)
ANSWERS: dict[str, dict[str, str]] = {
    job("running"): {
        "": "jobId projectId jobType jobName jobDescription status priority progress resource "
        "execution metrics dateCreated lastUpdated",
        "progress": "percentage currentStage estimatedCompletion elapsedTime",
        "resource": "resourceType resourceId resourceName",
        "execution": "startTime submittedBy executionNode memoryUsage cpuUsage diskUsage",
        "metrics": "recordsProcessed totalRecords errorCount warningCount averageProcessingRate",
    },
    f"{JOBS}/jobs?status=Running": {
        "": "jobs summary page pageSize hasNextPage",
        "jobs": "jobId jobType jobName status priority progress startTime estimatedCompletion "
        "submittedBy resourceName",
        "summary": "totalJobs runningJobs queuedJobs completedJobs failedJobs",
    },
    f"{JOBS}/jobs?status=Completed": {
        "jobs": "jobId jobType jobName status priority progress startTime endTime duration "
        "submittedBy resourceName",
    },
    job("failed", "/results?format=detailed"): {
        "": "jobId status completionTime totalDuration success summary results executionMetrics "
        "qualityMetrics",
        "summary": "recordsProcessed outputsGenerated dataQualityScore processingEfficiency",
        "results": "primaryOutput additionalOutputs",
        "results.additionalOutputs": "type title format size downloadUrl recordCount accuracy",
        "executionMetrics": "totalCpuTime peakMemoryUsage diskIoOperations networkDataTransfer",
        "qualityMetrics": "dataValidation processingErrors warnings",
        "qualityMetrics.dataValidation": "totalRecords validRecords duplicatesRemoved "
        "invalidRecords",
        "qualityMetrics.warnings": "type message count",
    },
    f"/api/{reference_tenant.TENANT}/execution/system/status": {
        "": "systemStatus timestamp executionNodes queueStatistics performanceMetrics "
        "resourceUtilization",
        "queueStatistics": "totalQueuedJobs highPriorityJobs normalPriorityJobs lowPriorityJobs "
        "averageWaitTime estimatedProcessingTime",
        "performanceMetrics": "jobsCompletedToday averageJobDuration successRate throughputPerHour",
        "resourceUtilization": "totalCpuCapacity usedCpuCapacity totalMemoryCapacity "
        "usedMemoryCapacity diskSpaceAvailable",
    },
}


def members(body: Any, path: str) -> set[str]:
    """The names in the object at a path, or in every object of the list there."""
    for name in filter(None, path.split(".")):
        body = body[name]
    rows = body if isinstance(body, list) else [body]
    assert rows
    return set().union(*rows)


@pytest.mark.row("mindzie GET job/{jobId}, jobs, results, system/status: every published member")
@pytest.mark.parametrize("address", ANSWERS)
def test_an_answer_has_the_published_members(reference_client: FlaskClient, address: str) -> None:
    body = body_of(reference_client.get(address))

    for path, names in ANSWERS[address].items():
        assert members(body, path) == set(names.split()), path


@pytest.mark.row("mindzie POST job, DELETE job/{jobId}: the sample bodies")
def test_the_sample_bodies_are_accepted(client: FlaskClient, jobs: str) -> None:
    made = body_of(client.post(f"{jobs}/job", json=SUBMIT))
    stopped = body_of(client.delete(f"{jobs}/job/{made['jobId']}", json=CANCEL))

    assert set(made) == set(ACCEPTED.split())
    assert (stopped["jobId"], stopped["reason"]) == (made["jobId"], CANCEL["reason"])
    results = body_of(client.get(f"{jobs}/job/{made['jobId']}/results?format=detailed"))
    (warning,) = results["qualityMetrics"]["warnings"]
    assert warning["type"] == "notifications"
