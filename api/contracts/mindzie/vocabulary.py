"""The words of this API, mapped to the core's."""

from collections.abc import Mapping
from typing import Any

from api.toolkit.wire import Vocabulary
from orchestrator.models import ArtifactKind
from orchestrator.states import RunState

STATES = Vocabulary(RunState, {
    RunState.PENDING: "Queued",
    RunState.QUEUED: "Queued",
    RunState.RUNNING: "Running",
    RunState.CANCELLING: "Running",
    RunState.SUCCEEDED: "Completed",
    RunState.FAILED: "Failed",
    RunState.TIMED_OUT: "Failed",
    RunState.CANCELLED: "Cancelled",
})  # fmt: skip
# The words of the published SDK, at the addresses that only it calls.
EXECUTION_STATES = Vocabulary(RunState, {
    RunState.PENDING: "Pending",
    RunState.QUEUED: "Queued",
    RunState.RUNNING: "InProgress",
    RunState.CANCELLING: "InProgress",
    RunState.SUCCEEDED: "Completed",
    RunState.FAILED: "Failed",
    RunState.TIMED_OUT: "Timeout",
    RunState.CANCELLED: "Cancelled",
})  # fmt: skip
JOB_TYPES = ("ProcessMining", "DataEnrichment", "Notebook", "Analysis")
DEFAULT_TYPE = "Analysis"
SYSTEM = "system"  # submitter of runs without one
DEFAULT_RESOURCE = "Pipeline"
PRIORITIES: Mapping[str, range] = {  # the core's priorities that read as each
    "Low": range(4),
    "Normal": range(4, 6),
    "High": range(6, 8),
    "Critical": range(8, 10),
}
# The core's priority for each.
RANKS: Mapping[str, int] = {"Low": 2, "Normal": 4, "High": 6, "Critical": 8}
OUTPUT_TYPES: Mapping[ArtifactKind, str] = {  # the result of a step is none
    ArtifactKind.REPORT: "ProcessMiningReport",
    ArtifactKind.DATA: "EnrichedDataset",
    ArtifactKind.VISUALIZATION: "ProcessMap",
    ArtifactKind.MODEL: "AnalyticsModel",
}
OUTPUT_FILTERS: Mapping[str, ArtifactKind] = {
    "reports": ArtifactKind.REPORT,
    "data": ArtifactKind.DATA,
    "models": ArtifactKind.MODEL,
    "visualizations": ArtifactKind.VISUALIZATION,
}
LEVELS: Mapping[str, int] = {"DEBUG": 10, "INFO": 20, "WARN": 30, "ERROR": 40}
HEALTH = {"healthy": "Healthy", "degraded": "Degraded", "unhealthy": "Unhealthy"}
NODES = {"active": "Active", "draining": "Draining", "drained": "Draining", "offline": "Offline"}

# Annotations of a run: members that only this API has.
JOB_TYPE, RESOURCE_TYPE, PRESERVE = "jobType", "resourceType", "preservePartialResults"


def priority_of(rank: int) -> str:
    """The word for a priority of the core."""
    return next(word for word, ranks in PRIORITIES.items() if rank in ranks)


def job_type_of(annotations: Mapping[str, Any]) -> str:
    """The type of a job; the default for a run submitted elsewhere."""
    job_type = annotations.get(JOB_TYPE)
    return job_type if job_type in JOB_TYPES else DEFAULT_TYPE


def resource_type_of(annotations: Mapping[str, Any]) -> str:
    """The type of a job's resource; the default for a run submitted elsewhere."""
    value = annotations.get(RESOURCE_TYPE)
    return value if isinstance(value, str) and value else DEFAULT_RESOURCE


def is_preserved(annotations: Mapping[str, Any]) -> bool:
    """Whether the outputs of a cancelled job are shown."""
    return annotations.get(PRESERVE) is not False


def level_of(number: int) -> str:
    """The word for a level of the module `logging`."""
    words = [word for word, minimum in LEVELS.items() if number >= minimum]
    return words[-1] if words else "DEBUG"
