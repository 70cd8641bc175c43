"""Runs in the shape of jobs."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from api.contracts.mindzie import formatting
from api.contracts.mindzie.vocabulary import (
    STATES,
    SYSTEM,
    is_preserved,
    job_type_of,
    priority_of,
    resource_type_of,
)
from config.settings import PREFIX
from orchestrator.models import Run
from orchestrator.monitoring.status import WaitEstimate
from orchestrator.outputs.summaries import RunOutput
from orchestrator.states import FINAL_RUNS, RunState

Shape = dict[str, Any]
# The columns that a job of a list is read from.
LISTED = (
    "id", "annotations", "name", "workflow", "state", "priority", "started_at", "finished_at",
    "submitted_by", "retry_of",
)  # fmt: skip

_NAMES: Mapping[str, tuple[str, ...]] = {  # of the metrics in which handlers count
    "processed": ("recordsProcessed", "records_processed"),
    "total": ("totalRecords", "total_records"),
    "errors": ("errorCount", "error_count"),
    "valid": ("validRecords", "valid_records"),
    "invalid": ("invalidRecords", "invalid_records"),
    "duplicates": ("duplicatesRemoved", "duplicates_removed"),
    "quality": ("dataQualityScore", "data_quality_score"),
    "efficiency": ("processingEfficiency", "processing_efficiency"),
    "network": ("networkBytes", "network_bytes"),
}


def detail(
    run: Run,
    said: RunOutput,
    changed_at: datetime,
    stage_failed: str | None,
    *,
    has_mail_server: bool,
) -> Shape:
    """One job with all that is shown of it."""
    unsent = unsent_mail(run, has_mail_server=has_mail_server)
    return {
        **_head(run),
        "project_id": run.project_id,
        "job_description": run.description,
        "progress": {
            "percentage": said.percent,
            "current_stage": _stage(run, said),
            "estimated_completion": _eta(run, said),
            "elapsed_time": formatting.duration(seconds_of(run)),
        },
        "resource": {
            "resource_type": resource_type_of(run.annotations),
            "resource_id": run.workflow_id,
            "resource_name": run.workflow,
        },
        "execution": _execution(run, said),
        "metrics": _metrics(run, said, warnings=run.warnings + len(unsent)),
        "date_created": run.created_at,
        "last_updated": changed_at,
        **({"error": error_of(run, stage_failed)} if STATES[run.state] == "Failed" else {}),
    }


def listed(run: Run, said: RunOutput) -> Shape:
    """One job of a list."""
    shown = {
        **_head(run),
        "progress": said.percent,
        "start_time": run.started_at,
        "submitted_by": run.submitted_by or SYSTEM,
        "resource_name": run.workflow,
    }
    if run.state in FINAL_RUNS:
        return shown | {
            "end_time": run.finished_at,
            "duration": formatting.duration(seconds_of(run)),
        }
    return shown | ({"estimated_completion": _eta(run, said)} if run.started_at else {})


def summary(counts: Mapping[RunState, int]) -> Shape:
    """How many jobs there are, by status."""
    found = dict.fromkeys(STATES.values(), 0)
    for state, count in counts.items():
        found[STATES[state]] += count
    return {
        "total_jobs": sum(found.values()),
        "running_jobs": found["Running"],
        "queued_jobs": found["Queued"],
        "completed_jobs": found["Completed"],
        "failed_jobs": found["Failed"],
    }


def accepted(run: Run, waiting: WaitEstimate | None, usual: float | None) -> Shape:
    """A job that was accepted."""
    return {
        "job_id": run.id,
        "status": STATES[run.state],
        "queue_position": waiting.position if waiting else 0,
        "estimated_start_time": starts_at(run, waiting),
        "estimated_duration": formatting.between(usual),
        "job_name": name_of(run),
        "priority": priority_of(run.priority),
        "date_submitted": run.created_at,
        "submitted_by": run.submitted_by or SYSTEM,
    }


def queued(run: Run, waiting: WaitEstimate, usual: float | None, *, estimates: bool) -> Shape:
    """One job that waits."""
    left_out = {"estimated_start_time", "estimated_duration"}
    shown = {
        **accepted(run, waiting, usual),
        "job_type": job_type_of(run.annotations),
        "resource_name": run.workflow,
    }
    return {name: value for name, value in shown.items() if estimates or name not in left_out}


def cancelled(run: Run) -> Shape:
    """That a job was told to stop."""
    return {
        "job_id": run.id,
        "status": "Cancelled",
        "reason": run.cancel_reason,
        "partial_results_preserved": is_preserved(run.annotations),
        "date_cancelled": run.cancel_requested_at,
    }


def starts_at(run: Run, waiting: WaitEstimate | None) -> datetime | None:
    """When it started or may start; None when nothing can tell."""
    if waiting:
        return waiting.estimated_start_at
    return run.started_at or run.run_at


def error_of(run: Run, stage: str | None) -> Shape:
    """Why a job failed; `stage` is the name of the step, or its key."""
    error = run.error or {}
    if run.state == RunState.TIMED_OUT:
        told = error.get("message") or "the job ran longer than its timeout"
        return {"code": "timeout", "message": told, "stage": stage}
    code = "step_failed" if error.get("step") else "failed"
    return {"code": code, "message": error.get("message") or "the job failed", "stage": stage}


def unsent_mail(run: Run, *, has_mail_server: bool) -> list[dict[str, Any]]:
    """The warning that the recipients whom a job names get no mail."""
    if has_mail_server or not (run.notifications or {}).get("mail"):
        return []
    told = f"no mail is sent about this job: {PREFIX}SMTP_URL is not set"
    return [{"type": "notifications", "message": told, "count": 1}]


def name_of(run: Run) -> str:
    """What a job is called; who gives no name runs the resource."""
    return run.name or run.workflow


def seconds_of(run: Run) -> float:
    """How long it took, or has taken so far."""
    if run.started_at is None:
        return 0.0
    return ((run.finished_at or datetime.now(UTC)) - run.started_at).total_seconds()


def number(said: RunOutput, what: str) -> float | None:
    """What handlers said under any of a metric's names."""
    return next((said.metrics[name] for name in _NAMES[what] if name in said.metrics), None)


def count(said: RunOutput, what: str, default: float = 0) -> int:
    """The same as a whole number that is never missing."""
    found = number(said, what)
    return max(0, int(default if found is None else found))


def _head(run: Run) -> Shape:
    return {
        "job_id": run.id,
        "job_type": job_type_of(run.annotations),
        "job_name": name_of(run),
        "status": STATES[run.state],
        "priority": priority_of(run.priority),
    }


def _eta(run: Run, said: RunOutput) -> datetime | None:
    return said.eta if run.state == RunState.RUNNING else None


def _stage(run: Run, said: RunOutput) -> str:
    if run.state == RunState.CANCELLING:
        return "Cancelling"
    if run.state == RunState.RUNNING:
        return said.stage or "Running"
    return STATES[run.state]


def _execution(run: Run, said: RunOutput) -> Shape:
    used, seconds = said.usage, seconds_of(run)
    disk = used.get("read_bytes", 0) + used.get("write_bytes", 0)
    cpu = used["cpu_seconds"] / seconds if seconds and "cpu_seconds" in used else None
    return {
        "start_time": run.started_at,
        "submitted_by": run.submitted_by or SYSTEM,
        "execution_node": said.worker,
        "memory_usage": formatting.size(used["peak_memory_bytes"])
        if "peak_memory_bytes" in used
        else None,
        "cpu_usage": None if cpu is None else formatting.percent(cpu),
        "disk_usage": formatting.size(disk) if "read_bytes" in used else None,
    }


def _metrics(run: Run, said: RunOutput, warnings: int) -> Shape:
    processed = count(said, "processed")
    return {
        "records_processed": processed,
        "total_records": max(processed, count(said, "total")),
        "error_count": count(said, "errors"),
        "warning_count": warnings,
        "average_processing_rate": formatting.rate(processed, seconds_of(run)),
    }
