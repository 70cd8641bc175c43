"""How runs, blocks and triggers look, and the words for their states."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from api.contracts.mage import schedule_mapping
from api.toolkit.context import caller, services
from orchestrator import runs, schedules
from orchestrator.access import signing
from orchestrator.models import Backfill, Overlap, Role, Run, Schedule
from orchestrator.outputs import summaries
from orchestrator.states import RunState, SkipCause, StepState

STATES: Mapping[RunState, str] = {
    RunState.PENDING: "initial",
    RunState.QUEUED: "running",
    RunState.RUNNING: "running",
    RunState.SUCCEEDED: "completed",
    RunState.FAILED: "failed",
    RunState.TIMED_OUT: "failed",  # unless its trigger says cancelled
    RunState.CANCELLING: "cancelled",
    RunState.CANCELLED: "cancelled",
}
BLOCK_STATES: Mapping[StepState, str] = {
    StepState.PENDING: "initial",
    StepState.QUEUED: "queued",
    StepState.RUNNING: "running",
    StepState.WAITING: "running",  # between two tries
    StepState.SUCCEEDED: "completed",
    StepState.FAILED: "failed",
    StepState.SKIPPED: "condition_failed",  # unless a block before it failed
    StepState.CANCELLED: "cancelled",
}
HIDDEN = "[API_TOKEN_PLACEHOLDER]"
# What a run shows of its trigger when no trigger started it, or it is gone.
_NO_SCHEDULE = {"id": 0, "name": "", "token": "", "type": "api"}

# What is shown of a step; its result may be large.
_OF_STEP = (
    "number", "key", "state", "skip_cause", "error",
    "created_at", "queued_at", "started_at", "finished_at",
)  # fmt: skip
# What is shown of a run; a list is read faster without the rest.
LISTED = (
    "id", "number", "state", "workflow", "schedule_id", "backfill_id", "logical_date", "params",
    "variables", "event_variables", "passed_sla", "event_seq", "created_at", "started_at",
    "finished_at",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A run, and what else a shape needs of it."""

    run: Run
    steps: Sequence[Any]  # rows of what is shown of them
    schedule: Schedule | None
    backfill: Backfill | None
    metrics: Mapping[str, float]
    changed_at: datetime


def whole(session: Session, found: Sequence[Run]) -> list[Whole]:
    """Runs with all that belongs to them, by a fixed number of questions."""
    steps = runs.steps_of_runs(session, found, _OF_STEP)
    triggers = schedules.schedules_of_runs(session, found)
    ranges = schedules.backfills_of_runs(session, found)
    metrics = summaries.metrics_of_runs(session, found)
    changed = runs.changed_at(session, found)
    return [
        Whole(
            run=run,
            steps=steps[run.id],
            schedule=triggers.get(run.schedule_id) if run.schedule_id else None,
            backfill=ranges.get(run.backfill_id) if run.backfill_id else None,
            metrics=metrics.get(run.id, {}),
            changed_at=changed.get(run.id, run.created_at),
        )
        for run in found
    ]


def run(of: Whole) -> dict[str, Any]:
    """A pipeline run."""
    row, status = of.run, status_of(of.run, of.schedule)
    # A run that nobody's trigger started was given its values itself.
    given = row.params if row.schedule_id is None else {}
    return {
        "id": row.number,
        "created_at": moment(row.created_at),
        "updated_at": moment(of.changed_at),
        "pipeline_schedule_id": of.schedule.number if of.schedule else _NO_SCHEDULE["id"],
        "pipeline_uuid": row.workflow,
        "execution_date": moment(row.logical_date or row.created_at),
        "status": status,
        "started_at": moment(row.started_at),
        "completed_at": _completed_at(status, row.finished_at),
        "variables": given if row.variables is None else row.variables,
        "passed_sla": row.passed_sla,
        "event_variables": row.event_variables or {},
        "metrics": dict(of.metrics) or None,
        "backfill_id": of.backfill.number if of.backfill else None,
        "executor_type": "local_python",
    }


def listed(of: Whole) -> dict[str, Any]:
    """A pipeline run of a list."""
    blocks = [block(of, step) for step in of.steps]
    shown = _NO_SCHEDULE if of.schedule is None else {
        "name": of.schedule.name,
        "token": token_of(of.schedule),
        "type": schedule_mapping.kind_of(of.schedule),
    }  # fmt: skip
    return {
        **run(of),
        "block_runs": blocks,
        "block_runs_count": len(blocks),
        "completed_block_runs_count": sum(each["status"] == "completed" for each in blocks),
        **{f"pipeline_schedule_{name}": shown[name] for name in ("name", "token", "type")},
        "repo_path": None,
    }


def detailed(of: Whole) -> dict[str, Any]:
    """One pipeline run with its blocks."""
    return {**run(of), "block_runs": [block_detailed(of, step) for step in of.steps]}


def block(of: Whole, step: Any) -> dict[str, Any]:
    """A block run."""
    status = block_status(of.run, step)
    times = (step.created_at, step.queued_at, step.started_at, step.finished_at)
    return {
        "id": step.number,
        "block_uuid": step.key,
        "pipeline_run_id": of.run.number,
        "status": status,
        "created_at": moment(step.created_at),
        "started_at": moment(step.started_at),
        "completed_at": _completed_at(status, step.finished_at),
        "updated_at": moment(max(time for time in times if time is not None)),
        "metrics": {"error": _error(step.error)} if step.error else None,
    }


def block_detailed(of: Whole, step: Any) -> dict[str, Any]:
    """A block run that names its trigger."""
    return {
        **block(of, step),
        "pipeline_schedule_id": of.schedule.number if of.schedule else _NO_SCHEDULE["id"],
        "pipeline_schedule_name": of.schedule.name if of.schedule else _NO_SCHEDULE["name"],
    }


def schedule(row: Schedule) -> dict[str, Any]:
    """A trigger."""
    return {
        "id": row.number,
        "name": row.name,
        "description": row.description,
        "pipeline_uuid": row.workflow,
        "schedule_type": schedule_mapping.kind_of(row),
        "schedule_interval": schedule_mapping.interval_of(row),
        "start_time": moment(schedule_mapping.start_of(row)),
        "status": "active" if row.active else "inactive",
        "last_enabled_at": moment(row.last_enabled_at),
        "variables": row.params,
        "sla": _seconds(row.sla),
        "token": token_of(row),
        "settings": _settings(row),
        "repo_path": None,
        "global_data_product_uuid": None,
        "created_at": moment(row.created_at),
        "updated_at": moment(row.updated_at),
        "event_matchers": schedule_mapping.matchers_of(row),
        "tags": row.tags,
        "next_pipeline_run_date": moment(row.next_at),
    }


def moment(time: datetime | None) -> str | None:
    """A time as Python writes it, in UTC; its fraction is left out when it is zero."""
    return None if time is None else str(time.astimezone(UTC))


def status_of(row: Run, trigger: Schedule | None) -> str:
    """The status of a run; its trigger may call cancelled what ran too long."""
    if row.state == RunState.TIMED_OUT and trigger is not None:
        return str(trigger.settings.get("timeout_status") or STATES[row.state])
    return STATES[row.state]


def block_status(row: Run, step: Any) -> str:
    """The status of a block run; one that is told to stop is cancelled with its run, at once."""
    if step.skip_cause == SkipCause.UPSTREAM:
        return "upstream_failed"
    stops = row.state == RunState.CANCELLING and step.state == StepState.RUNNING
    return BLOCK_STATES[StepState.CANCELLED if stops else step.state]


def states(statuses: Iterable[str]) -> list[RunState]:
    """The core states that read as one of these."""
    return [state for state, status in STATES.items() if status in statuses]


def token_of(row: Schedule) -> str:
    """The token of a trigger, for those who may use it."""
    if not caller().may(Role.OPERATOR, "schedules"):
        return HIDDEN
    return signing.trigger_token(services().secret_key, row.id, row.token_number)


def _completed_at(status: str, time: datetime | None) -> str | None:
    return moment(time) if status in ("completed", "failed") else None


def _settings(row: Schedule) -> dict[str, Any]:
    """The settings as they were given, and what has become of the one that the core acts on."""
    skips = row.overlap == Overlap.SKIP
    known = (
        {schedule_mapping.SKIPS: skips} if skips or schedule_mapping.SKIPS in row.settings else {}
    )
    return {**row.settings, **known}


def _seconds(duration: timedelta | None) -> int | float | None:
    seconds = None if duration is None else duration.total_seconds()
    return int(seconds) if seconds is not None and seconds.is_integer() else seconds


def _error(error: Mapping[str, Any]) -> dict[str, Any]:
    trace = error.get("traceback") or ""
    message = error.get("message", "")
    return {"error": message, "errors": trace.splitlines(), "message": trace or message}
