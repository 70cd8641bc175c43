"""Mage's words: the states of runs and blocks, and when triggers are due."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from api.toolkit.wire import Vocabulary
from orchestrator.models import Overlap, Run, Schedule, ScheduleType
from orchestrator.search.conditions import Choice, Field, Value, one_of
from orchestrator.spec.durations import format_duration
from orchestrator.states import RunState, SkipCause, StepState

STATES = Vocabulary(
    RunState,
    {
        RunState.PENDING: "initial",
        RunState.QUEUED: "running",
        RunState.RUNNING: "running",
        RunState.SUCCEEDED: "completed",
        RunState.FAILED: "failed",
        RunState.TIMED_OUT: "failed",  # unless its trigger says cancelled
        RunState.CANCELLING: "cancelled",
        RunState.CANCELLED: "cancelled",
    },
)
BLOCK_STATES = Vocabulary(
    StepState,
    {
        StepState.PENDING: "initial",
        StepState.QUEUED: "queued",
        StepState.RUNNING: "running",
        StepState.WAITING: "running",  # between two attempts
        StepState.SUCCEEDED: "completed",
        StepState.FAILED: "failed",
        StepState.SKIPPED: "condition_failed",  # unless a block before it failed
        StepState.CANCELLED: "cancelled",
    },
)
BLOCK_STATUSES = [*STATES.words, "queued", "upstream_failed", "condition_failed"]
IN_PROGRESS = (RunState.PENDING, RunState.QUEUED, RunState.RUNNING)
SCHEDULE_STATUSES = ["active", "inactive"]
_TIMED = (ScheduleType.CRON, ScheduleType.INTERVAL, ScheduleType.ONCE)
SCHEDULE_TYPES: Mapping[str, Sequence[ScheduleType]] = {
    "api": (ScheduleType.API,),
    "event": (ScheduleType.EVENT,),
    "time": _TIMED,
}

SKIPS, INITIAL = "skip_if_previous_running", "create_initial_pipeline_run"  # settings
ALWAYS = timedelta(seconds=10)  # the interval of `@always_on`, which waits for the run before
ONCE, ALWAYS_ON, EVERY = "@once", "@always_on", "@every "
RULES = {"@weekly": "0 0 * * 1"}  # a week begins on Monday here, not on Sunday as for cron
# The ends of runs that a matcher may name; a run that was cancelled or failed has more than one.
ENDS: Mapping[str, tuple[RunState, ...]] = {
    "completed": (RunState.SUCCEEDED,),
    "failed": (RunState.FAILED, RunState.TIMED_OUT),
    "cancelled": (RunState.CANCELLED,),
}
# The columns that a list of runs is sorted by: all that it shows of a run, except for objects.
SORT_COLUMNS: Mapping[str, Value] = {
    "execution_date": Field("instant"),
    "id": Field("number"),
    "created_at": Field("created_at"),
    "updated_at": Field("changed_at"),
    "started_at": Field("started_at"),
    "completed_at": Field("finished_at"),
    "status": Choice(
        tuple(  # in the order of the words, not of the alphabet
            (one_of(Field("state"), STATES.states(word)), str(place))
            for place, word in enumerate(STATES.words)
        )
    ),
    "pipeline_uuid": Field("workflow"),
    "pipeline_schedule_id": Field("schedule_number"),
    "pipeline_schedule_name": Field("schedule_name"),
    "pipeline_schedule_type": Choice(
        tuple(
            (one_of(Field("schedule_type"), types), word) for word, types in SCHEDULE_TYPES.items()
        )
    ),
    "backfill_id": Field("backfill_number"),
    "passed_sla": Field("passed_sla"),
    "block_runs_count": Field("steps"),
    "completed_block_runs_count": Field("succeeded_steps"),
}


def run_status(run: Run, schedule: Schedule) -> str:
    """The status of a run; the trigger's `timeout_status` applies to one that timed out."""
    if run.state == RunState.TIMED_OUT:
        return str(schedule.settings.get("timeout_status") or STATES[run.state])
    return STATES[run.state]


def block_status(run: Run, step: Any) -> str:
    """The status of a block run; one that runs in a cancelled run is cancelled at once."""
    if step.skip_cause == SkipCause.UPSTREAM:
        return "upstream_failed"
    stops = run.state == RunState.CANCELLING and step.state == StepState.RUNNING
    return BLOCK_STATES[StepState.CANCELLED if stops else step.state]


def schedule_type(row: Schedule) -> str:
    """`time`, `api` or `event`."""
    return "time" if row.type in _TIMED else str(row.type)


def schedule_interval(row: Schedule) -> str | None:
    """When it is due: one of the names, a cron rule, or `@every 90s`."""
    if row.every is not None:
        always = row.every == ALWAYS and row.overlap == Overlap.SKIP
        return ALWAYS_ON if always else f"{EVERY}{format_duration(row.every)}"
    if row.type == ScheduleType.ONCE:
        return ONCE
    return next((name for name, rule in RULES.items() if rule == row.cron), row.cron)


def start_time(row: Schedule) -> datetime | None:
    """When it begins to count."""
    return row.at or row.start_at


def event_matchers(row: Schedule) -> list[dict[str, Any]]:
    """The events that start a run: ends of other runs."""
    if row.after_workflow is None:
        return []
    ends = [name for name, states in ENDS.items() if states[0] in (row.after_states or ())]
    pattern = {"pipeline_uuid": row.after_workflow, "status": ends}
    return [{"event_type": "pipeline_run", "name": row.after_workflow, "pattern": pattern}]
