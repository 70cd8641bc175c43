"""SolveXia's words for states, and what it says of processes, runs and steps."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from orchestrator.models import Run, Step, Workflow
from orchestrator.outputs.summaries import StepOutput
from orchestrator.states import RunState, SkipCause, StepState

NOT_STARTED = "NotStarted"  # of a run that is held until somebody starts it
STATES: Mapping[RunState, str] = {
    RunState.PENDING: "Scheduled",
    RunState.QUEUED: "Scheduled",
    RunState.RUNNING: "Running",
    RunState.CANCELLING: "Cancelled",
    RunState.SUCCEEDED: "Finished",
    RunState.FAILED: "Finished",  # there is no other word; its steps say more
    RunState.TIMED_OUT: "TimedOut",
    RunState.CANCELLED: "Cancelled",
}
STEP_STATES: Mapping[StepState, str] = {
    StepState.PENDING: NOT_STARTED,
    StepState.QUEUED: "Scheduled",
    StepState.RUNNING: "Running",
    StepState.WAITING: "Scheduled",
    StepState.SUCCEEDED: "Success",
    StepState.FAILED: "Failed",
    StepState.SKIPPED: "Skipped",
    StepState.CANCELLED: "Cancelled",
}
WARNING = "Warning"  # of a step that went well, but for what it warned of

_NOBODY = "system"  # whose name stands where a row has none


def run_name(run: Any) -> str:
    """`<process> : run #n`, with the prefix that it was made with.

    n is the number of the run: those of one process go up, but not by one.
    """
    name = f"{run.workflow} : run #{run.number}"
    return run.name if run.name is not None and run.name.endswith(f" {name}") else name


def process_run(run: Run, workflow: Workflow, modified_at: datetime | None) -> dict[str, Any]:
    """What `ProcessRunShown` shows."""
    return {
        "id": f"pr-{run.number}",
        "name": run_name(run),
        "process": f"p-{workflow.number}",
        "alert_email_address": ", ".join((run.notifications or {}).get("mail") or ()),
        "alert_sms": "",
        "description": run.description or "",
        "last_modified_by": user_name(run),
        "date_modified": modified_at or run.created_at,
        "date_created": run.created_at,
    }


def process(workflow: Workflow) -> dict[str, Any]:
    """What `ProcessShown` shows; who changed a workflow is not kept."""
    return {
        "id": f"p-{workflow.number}",
        "name": workflow.name,
        "alert_email_address": "",
        "alert_sms": "",
        "available_to_subscriber": False,
        "runs_available_to_subscriber": False,
        "description": workflow.description,
        "last_modified_by": _NOBODY,
        "date_modified": workflow.updated_at,
        "date_created": workflow.created_at,
    }


def run_status(run: Run) -> dict[str, Any]:
    """What `RunStatusShown` shows."""
    held = run.held and run.state == RunState.PENDING
    return {
        "id": f"pr-{run.number}",
        "date_started": run.started_at,
        "date_finished": run.finished_at,
        "run_duration_in_seconds": _seconds(run),
        "status": NOT_STARTED if held else STATES[run.state],
    }


def step_status(wire_id: str, step: Step, said: StepOutput) -> dict[str, Any]:
    """What `StepStatusShown` shows; the id is the one that was asked for."""
    warned = step.state == StepState.SUCCEEDED and step.warnings
    return {
        "id": wire_id,
        "date_started": step.started_at,
        "date_finished": step.finished_at,
        "run_duration_in_seconds": _seconds(step),
        "status": WARNING if warned else STEP_STATES[step.state],
        "completion_message": _completion(step, said) if step.finished_at else "",
    }


def restarted(wire_id: str) -> dict[str, Any]:
    """The status of a step that runs again; it is `Running` from the first, as published."""
    return {
        "id": wire_id,
        "date_started": None,
        "date_finished": None,
        "run_duration_in_seconds": 0,
        "status": STEP_STATES[StepState.RUNNING],
        "completion_message": "",
    }


def data_step(number: int, order: int, name: str, *, is_enabled: bool) -> dict[str, Any]:
    """What `DataStepShown` shows."""
    shown = {"is_enabled": is_enabled, "step_order": f"1.{order}"}
    return {**shown, "id": f"ds-{number}", "name": name}


def run_step(step: Step, order: int) -> dict[str, Any]:
    """The same of a step of a run."""
    is_enabled = step.skip_cause != SkipCause.DISABLED
    return data_step(step.number, order, step.name, is_enabled=is_enabled)


def user_name(row: Any) -> str:
    """Whose name stands beside a run, or an event of one."""
    return row.submitted_by or row.run_as or _NOBODY


def _completion(step: Step, said: StepOutput) -> str:
    """What there is to say at its end: what was wrong, else what it said last."""
    if step.error:
        return str(step.error.get("message") or "")
    warned = (warning["message"] for warning in said.warnings)
    return said.message or next(warned, "")


def _seconds(row: Run | Step) -> int | None:
    if row.started_at is None:
        return 0 if row.state == "running" else None
    end = row.finished_at or datetime.now(UTC)
    return max(0, int((end - row.started_at).total_seconds()))
