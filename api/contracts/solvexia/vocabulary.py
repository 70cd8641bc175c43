"""SolveXia's words: the states of runs and steps, the types of properties, what happened."""

from collections.abc import Mapping
from typing import Any

from api.toolkit.wire import Vocabulary
from orchestrator.models import Run, Step
from orchestrator.states import RunState, StepState

NOT_STARTED = "NotStarted"  # of a run that is held until it is started
RUNNING = "Running"
STATES = Vocabulary(
    RunState,
    {
        RunState.PENDING: "Scheduled",
        RunState.QUEUED: "Scheduled",
        RunState.RUNNING: RUNNING,
        RunState.CANCELLING: "Cancelled",
        RunState.SUCCEEDED: "Finished",
        RunState.FAILED: "Finished",  # the steps have a word for failure, runs have none
        RunState.TIMED_OUT: "TimedOut",
        RunState.CANCELLED: "Cancelled",
    },
)
STEP_STATES = Vocabulary(
    StepState,
    {
        StepState.PENDING: NOT_STARTED,
        StepState.QUEUED: "Scheduled",
        StepState.RUNNING: RUNNING,
        StepState.WAITING: "Scheduled",
        StepState.SUCCEEDED: "Success",
        StepState.FAILED: "Failed",
        StepState.SKIPPED: "Skipped",
        StepState.CANCELLED: "Cancelled",
    },
)
WARNING = "Warning"  # of a step that succeeded with warnings

FILE, DROPDOWN = "File", "Dropdown"
_TYPES = {"boolean": "CheckBox", "integer": "Number", "number": "Decimal"}
_FORMATS = {"date": "Datepicker", "date-time": "Datepicker", "file": FILE}

EVENTS = {
    "run.created": "was created",
    "run.released": "was released",
    "run.amended": "got other properties",
    "run.queued": "was scheduled",
    "run.started": "started",
    "run.succeeded": "finished",
    "run.failed": "failed",
    "run.cancelling": "is being cancelled",
    "run.cancelled": "was cancelled",
    "run.timed_out": "timed out",
    "run.reopened": "was restarted",
    "run.late": "is late",
    "step.started": "started",
    "step.succeeded": "succeeded",
    "step.failed": "failed",
    "step.skipped": "was skipped",
    "step.waiting": "waits for its next attempt",
    "step.cancelled": "was cancelled",
}


def run_status(run: Run, *, restarts: bool = False) -> str:
    """The status of a run; `NotStarted` while it is held."""
    if restarts:
        return RUNNING
    return NOT_STARTED if run.held and run.state == RunState.PENDING else STATES[run.state]


def step_status(step: Step, *, restarts: bool = False) -> str:
    """The status of a step; `Warning` if it succeeded with warnings."""
    if restarts:
        return RUNNING
    warned = step.state == StepState.SUCCEEDED and step.warnings
    return WARNING if warned else STEP_STATES[step.state]


def json_type(schema: Mapping[str, Any]) -> str:
    """The type of a JSON Schema, the first one that is not null."""
    kinds = schema.get("type", "string")
    names = [kinds] if isinstance(kinds, str) else kinds
    return next((name for name in names if name != "null"), "string")


def data_type(schema: Mapping[str, Any]) -> str:
    """The type of a property by the JSON Schema of its parameter."""
    if "enum" in schema:
        return DROPDOWN
    by_format = _FORMATS.get(str(schema.get("format")))
    return by_format or _TYPES.get(json_type(schema), "String")


def log_message(event: Any) -> str:
    """An event of a run or a step as a sentence."""
    run = f"rocess run pr-{event.run_number} ({event.workflow})"
    subject = f"Step ds-{event.step_number} ({event.step_name}) of p" if event.step_number else "P"
    error = event.step_error if event.step_number else event.run_error
    reason = f": {error['message']}" if event.type.endswith("failed") and error else ""
    return f"{subject}{run} {EVENTS[event.type]}{reason}"
