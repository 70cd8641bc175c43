"""Its words for our states and what starts a run, and its shapes of runs and steps."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import uuid5

from sqlalchemy.orm import Session

from orchestrator import runs
from orchestrator.models import Run, Step, Trigger, Workflow
from orchestrator.states import RunState, StepState
from orchestrator.workflows import queries

STATES: Mapping[RunState, str] = {
    RunState.PENDING: "pending",
    RunState.QUEUED: "pending",
    RunState.RUNNING: "running",
    RunState.CANCELLING: "running",  # it stops of its own accord
    RunState.SUCCEEDED: "completed",
    RunState.FAILED: "failed",
    RunState.TIMED_OUT: "failed",
    RunState.CANCELLED: "cancelled",
}
STATUSES = tuple(dict.fromkeys(STATES.values()))
STEP_STATES: Mapping[StepState, str] = {
    StepState.PENDING: "pending",
    StepState.QUEUED: "queued",
    StepState.RUNNING: "running",
    StepState.WAITING: "pending",  # for its next attempt
    StepState.SUCCEEDED: "completed",
    StepState.FAILED: "failed",
    StepState.SKIPPED: "skipped",
    StepState.CANCELLED: "cancelled",
}
# Skipped and cancelled steps are in no counter, so that these need not add up to all steps.
_COUNTERS = {
    "completed_count": ("completed",),
    "failed_count": ("failed",),
    "pending_count": ("pending", "queued"),
    "running_count": ("running",),
}
_TRIGGERS: Mapping[str, str] = {
    Trigger.MANUAL: "manual",
    Trigger.RETRY: "manual",
    Trigger.SCHEDULE: "schedule",
    Trigger.BACKFILL: "schedule",
    Trigger.EVENT: "schedule",
    Trigger.API: "webhook",
}
_SOURCES = {"user": "user", "key": "api_key", "run": "automation"}
ORCHESTRATORS = ("local", "dag")
TRIGGERS = ("manual", "schedule", "webhook")
KEPT = "virtuousai"  # the annotation of a workflow that has what only this API knows

LONGEST_RESULT = 64 * 1024  # bytes of a step's result as JSON


def states(status: str | None) -> list[RunState]:
    """Our states behind a status; none for none, which means all."""
    return [state for state, word in STATES.items() if word == status]


def kept(workflow: Workflow) -> Mapping[str, Any]:
    """What only this API knows of a workflow."""
    found: Mapping[str, Any] = workflow.annotations.get(KEPT) or {}
    return found


# What is shown of a run; a list is read faster without the rest.
LISTED = (
    "id", "tenant_id", "workflow_id", "version_id", "version", "state", "trigger", "source_type",
    "source_id", "schedule_id", "concurrency_key", "error", "event_seq", "created_at",
    "started_at", "finished_at",
)  # fmt: skip


def of_runs(session: Session, found: Sequence[Run]) -> list[dict[str, Any]]:
    """The runs in its shape, by a fixed number of questions."""
    changed = runs.changed_at(session, found)
    tasks = runs.first_tasks(session, found)
    workflows = queries.of_runs(session, found)
    return [
        {
            **_of_run(run),
            "orchestrator_type": kept(workflows[run.workflow_id]).get("orchestrator_type", "dag"),
            "external_job_id": tasks.get(run.id),
            "updated_at": changed.get(run.id, run.created_at),
        }
        for run in found
    ]


def of_steps(run: Run, steps: Sequence[Step]) -> dict[str, Any]:
    """The steps of a run in its shape, with its counters."""
    shown = [_of_step(step) for step in steps]
    counted = {
        name: sum(step["status"] in words for step in shown) for name, words in _COUNTERS.items()
    }
    return {"automation_run_id": run.id, **counted, "steps": shown}


def latest_run(run: Run | None) -> dict[str, Any] | None:
    """The run as its automation shows it."""
    return None if run is None else _of_run(run)


def _of_run(run: Run) -> dict[str, Any]:
    source_type, source_id = _source(run)
    return {
        "id": run.id,
        "tenant_id": run.tenant_id,
        "automation_id": run.workflow_id,
        "automation_version_id": run.version_id,
        "version_number": run.version,
        "status": STATES[run.state],
        "trigger_type": _TRIGGERS.get(run.trigger, "manual"),
        "trigger_source_type": source_type,
        "trigger_source_id": source_id,
        "concurrency_key": run.concurrency_key,
        "error": _run_error(run),
        "started_at": run.started_at,
        "completed_at": run.finished_at,
        "duration_seconds": _seconds(run.started_at, run.finished_at),
        "created_at": run.created_at,
    }


def _source(run: Run) -> tuple[str | None, str | None]:
    """What kind of thing started it, and which one."""
    if run.source_type == "backfill":  # a range of instants of a schedule
        return "schedule", None if run.schedule_id is None else str(run.schedule_id)
    if run.source_type == "schedule":
        return ("webhook" if run.trigger == Trigger.API else "schedule"), run.source_id
    known = _SOURCES.get(run.source_type or "")
    return known, run.source_id if known else None


def _run_error(run: Run) -> dict[str, Any] | None:
    if run.state not in (RunState.FAILED, RunState.TIMED_OUT):
        return None
    error = run.error or {}
    late = run.state == RunState.TIMED_OUT
    message = error.get("message") or ("The run took too long" if late else "A step failed")
    key = None if late else error.get("step")
    return {"type": "timeout" if late else "step_failed", "message": message, "step_key": key}


def _of_step(step: Step) -> dict[str, Any]:
    result, truncated = _result(step)
    error = step.error and {
        "type": step.error.get("kind", "Error"),
        "message": step.error.get("message", ""),
        "step_key": step.key,
    }
    return {
        "key": step.key,
        "name": step.name,
        "status": STEP_STATES[step.state],
        "depends_on": step.needs,
        # The same for as long as the attempt is the step's latest.
        "action_run_id": uuid5(step.id, str(step.attempt)) if step.attempt else None,
        "decision_id": None,
        "result": result,
        "result_truncated": truncated,
        "error": error or None,
        "started_at": step.started_at,
        "completed_at": step.finished_at,
        "duration_seconds": _seconds(step.started_at, step.finished_at),
    }


def _result(step: Step) -> tuple[dict[str, Any] | None, bool]:
    """An object, cut where it is too large, and whether it was."""
    if step.result_artifact is not None:
        return None, True
    if step.result is None:
        return None, False
    whole = step.result if isinstance(step.result, dict) else {"value": step.result}
    cut = _first_members(whole)
    return cut, len(cut) < len(whole)


def _first_members(whole: Mapping[str, Any]) -> dict[str, Any]:
    """As many members from the first one on as there is room for."""
    taken, size = dict[str, Any](), len("{}")
    for name, value in whole.items():
        member = json.dumps({name: value}, ensure_ascii=False, separators=(",", ":"))
        size += len(member.encode()) - len("{}") + (1 if taken else 0)
        if size > LONGEST_RESULT:
            break
        taken[name] = value
    return taken


def _seconds(started: datetime | None, ended: datetime | None) -> float | None:
    """How long it took; nothing before it has ended."""
    if started is None or ended is None:
        return None
    return round((ended - started).total_seconds(), 6)
