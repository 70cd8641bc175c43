"""The words of this API, and what they mean to the core."""

from collections.abc import Mapping
from typing import Any

from orchestrator.models import ArtifactKind
from orchestrator.states import RunState

STATES: Mapping[RunState, str] = {
    RunState.PENDING: "Queued",
    RunState.QUEUED: "Queued",
    RunState.RUNNING: "Running",
    RunState.CANCELLING: "Running",
    RunState.SUCCEEDED: "Completed",
    RunState.FAILED: "Failed",
    RunState.TIMED_OUT: "Failed",
    RunState.CANCELLED: "Cancelled",
}
STATUSES = tuple(dict.fromkeys(STATES.values()))
JOB_TYPES = ("ProcessMining", "DataEnrichment", "Notebook", "Analysis")
DEFAULT_TYPE = "Analysis"
SYSTEM = "system"  # submits what nobody submits
DEFAULT_RESOURCE = "Pipeline"
PRIORITIES: Mapping[str, range] = {  # the ranks that show as each
    "Low": range(4),
    "Normal": range(4, 6),
    "High": range(6, 8),
    "Critical": range(8, 10),
}
RANKS: Mapping[str, int] = {"Low": 2, "Normal": 4, "High": 6, "Critical": 8}  # that each is given
OUTPUT_TYPES: Mapping[ArtifactKind, str] = {  # a step's own result is no output of the job
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
NODES = {
    "active": "Active",
    "draining": "Draining",
    "drained": "Draining",
    "offline": "Offline",
}

# What is kept with a run of what only this API knows.
JOB_TYPE, RESOURCE_TYPE, PRESERVE = "jobType", "resourceType", "preservePartialResults"


def states_of(status: str) -> list[RunState]:
    """The core's states that show as a status."""
    return [state for state, word in STATES.items() if word == status]


def priority_of(rank: int) -> str:
    """How a rank shows."""
    return next(word for word, ranks in PRIORITIES.items() if rank in ranks)


def job_type_of(annotations: Mapping[str, Any]) -> str:
    """The type of a job, also of one that was not submitted here."""
    found = annotations.get(JOB_TYPE)
    return found if found in JOB_TYPES else DEFAULT_TYPE


def resource_type_of(annotations: Mapping[str, Any]) -> str:
    """The type of what a job works with, also of one that was not submitted here."""
    found = annotations.get(RESOURCE_TYPE)
    return found if isinstance(found, str) and found else DEFAULT_RESOURCE


def is_preserved(annotations: Mapping[str, Any]) -> bool:
    """Whether what a cancelled job left is to be shown."""
    return annotations.get(PRESERVE) is not False


def level_of(number: int) -> str:
    """How a level of the module `logging` shows."""
    reached = [word for word, low in LEVELS.items() if number >= low]
    return reached[-1] if reached else "DEBUG"
