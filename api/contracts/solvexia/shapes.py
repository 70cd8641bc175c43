"""SolveXia's words for states, its three ways to write a date, and what it shows of everything."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from marshmallow import Schema, fields, validate

from api.schemas import Shown
from orchestrator.definitions import Workflow
from orchestrator.models import Run, Step
from orchestrator.states import RunState, SkipCause, StepState
from orchestrator.summaries import StepOutput

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

RUN_STATUSES = sorted({NOT_STARTED, *STATES.values()})
STEP_STATUSES = sorted({WARNING, *STEP_STATES.values()})
_NOBODY = "system"  # whose name stands where a row has none


class EntityDate(fields.Field[datetime]):
    """UTC with seven digits of a second and no zone: `2020-06-15T02:24:14.2700000`."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> str:
        return f"{_naive(value).isoformat(timespec='microseconds')}0"


class RunDate(fields.Field[datetime]):
    """UTC with milliseconds and no zone: `2025-02-05T22:40:19.923`."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> str:
        return _naive(value).isoformat(timespec="milliseconds")


class StepDate(fields.Field[datetime]):
    """UTC with as many digits of a second as it needs, and Z: `2025-01-13T03:51:03.27Z`."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> str:
        text = _naive(value).isoformat(timespec="milliseconds")
        return f"{text.rstrip('0').rstrip('.')}Z"


class LogDate(fields.Field[datetime]):
    """Seven digits of a second and the zone, which is UTC: `2025-02-20T14:44:00.6578787+00:00`."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> str:
        return f"{_naive(value).isoformat(timespec='microseconds')}0+00:00"


class _Camel(Schema):
    """Members are written as they are in JavaScript."""

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        if field_obj.data_key is None:
            first, *others = field_name.split("_")
            field_obj.data_key = first + "".join(each.title() for each in others)


class _Entity(_Camel, Shown):
    """What a process and its runs have in common."""

    id = fields.String()
    name = fields.String()
    alert_email_address = fields.String(metadata={"description": "empty when unset"})
    alert_sms = fields.String(data_key="alertSMS", metadata={"description": "always empty"})
    description = fields.String(metadata={"description": "empty when unset"})
    last_modified_by = fields.String(metadata={"description": "who submitted it"})
    date_modified = EntityDate()
    date_created = EntityDate()


class ProcessRunShown(_Entity):
    """One run of a process."""

    process = fields.String(metadata={"description": "the id of its process"})


class ProcessShown(_Entity):
    """A process: what runs are made from."""

    available_to_subscriber = fields.Boolean(metadata={"description": "always false"})
    runs_available_to_subscriber = fields.Boolean(metadata={"description": "always false"})


class Listed(_Camel, Shown):
    """A process or a run in a list."""

    id = fields.String()
    name = fields.String()


class _StatusShown(_Camel, Shown):
    id = fields.String()
    run_duration_in_seconds = fields.Integer(
        allow_none=True, metadata={"description": "null before it started"}
    )
    run_duration_in_sec = fields.Integer(
        attribute="run_duration_in_seconds",
        dump_only=True,
        allow_none=True,
        metadata={"description": "the same once more"},
    )


class RunStatusShown(_StatusShown):
    """How far a run is; one that failed is `Finished`, and its steps say what failed."""

    date_started = RunDate(allow_none=True)
    date_finished = RunDate(allow_none=True)
    status = fields.String(validate=validate.OneOf(RUN_STATUSES))


class StepStatusShown(_StatusShown):
    """How far a step of a run is."""

    date_started = StepDate(allow_none=True)
    date_finished = StepDate(allow_none=True)
    status = fields.String(validate=validate.OneOf(STEP_STATUSES))
    completion_message = fields.String(metadata={"description": "empty until it has ended"})


class DataStepShown(_Camel, Shown):
    """A step of a process or of a run."""

    is_enabled = fields.Boolean()
    step_order = fields.String(metadata={"description": "its place, from 1 on"})
    ordered_name = fields.String(
        attribute="step_order", dump_only=True, metadata={"description": "the same once more"}
    )
    id = fields.String()
    name = fields.String()


class PropertyShown(_Camel):
    """A parameter of a run, as a property of the step that uses it."""

    id = fields.String()
    name = fields.String()
    data_type = fields.String()
    required = fields.Boolean()
    visible = fields.Boolean()
    information_flow_type = fields.String(validate=validate.OneOf(["INPUT", "OUTPUT", "NONE"]))
    mouseover_text = fields.String()
    value = fields.Raw(allow_none=True, metadata={"description": "of all types but File"})
    file = fields.Raw(allow_none=True, metadata={"description": "of the type File"})
    options = fields.List(fields.Raw(), metadata={"description": "of the type Dropdown"})


class FileShown(_Camel, Shown):
    """What is known of a file."""

    id = fields.String()
    name = fields.String()
    size_in_bytes = fields.Integer()
    file_extension = fields.String()
    url = fields.String(metadata={"description": "where its bytes are"})


class LogShown(_Camel, Shown):
    """Something that happened, as a sentence."""

    id = fields.String()
    message = fields.String()
    user_name = fields.String()
    time_stamp = LogDate()


def run_name(run: Run) -> str:
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
    shown = {"is_enabled": is_enabled, "step_order": str(order)}
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


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)
