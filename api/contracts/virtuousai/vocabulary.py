"""The words of this API for states, triggers and events."""

from collections.abc import Mapping

from api.toolkit.wire import Vocabulary
from orchestrator.models import Trigger
from orchestrator.states import RunState, StepState

STATES = Vocabulary(RunState, {
    RunState.PENDING: "pending",
    RunState.QUEUED: "pending",
    RunState.RUNNING: "running",
    RunState.CANCELLING: "running",
    RunState.SUCCEEDED: "completed",
    RunState.FAILED: "failed",
    RunState.TIMED_OUT: "failed",
    RunState.CANCELLED: "cancelled",
})  # fmt: skip
STEP_STATES = Vocabulary(StepState, {
    StepState.PENDING: "pending",
    StepState.QUEUED: "queued",
    StepState.RUNNING: "running",
    StepState.WAITING: "pending",  # for its next attempt
    StepState.SUCCEEDED: "completed",
    StepState.FAILED: "failed",
    StepState.SKIPPED: "skipped",
    StepState.CANCELLED: "cancelled",
})  # fmt: skip
TRIGGERS = Vocabulary(Trigger, {
    Trigger.MANUAL: "manual",
    Trigger.RETRY: "manual",
    Trigger.SCHEDULE: "schedule",
    Trigger.BACKFILL: "schedule",
    Trigger.EVENT: "schedule",
    Trigger.API: "webhook",
})  # fmt: skip
SOURCES = {"user": "user", "key": "api_key", "run": "automation"}
ACTIVE = "active"  # the status of every automation
EVENT_TYPES: Mapping[str, str] = {
    "run.created": "automation.triggered",
    "run.started": "automation.started",
    "run.succeeded": "automation.completed",
    "run.failed": "automation.failed",
    "run.timed_out": "automation.failed",
    "run.cancelled": "automation.cancelled",
    "run.reopened": "automation.retried",
    "step.started": "action.started",
    "step.progress": "action.progress",
    "step.succeeded": "action.completed",
    "step.failed": "action.failed",
    "step.cancelled": "action.cancelled",
    "step.skipped": "action.skipped",
}
# The entry of the audit log that tells who caused an event; all others the system causes.
CAUSES: Mapping[str, str] = {
    "run.cancelled": "run.cancel",
    "step.cancelled": "run.cancel",
    "run.reopened": "run.retry",
}
# `schedule.fired` is published too; no event of a run reads as it.
EVENT_NAMES = (*dict.fromkeys(EVENT_TYPES.values()), "schedule.fired")
TOKEN_TYPES = ("session", "pat")
TOKEN = "pat"  # the type of every key
RESOURCE = "automation_run"  # the resource type of every event
