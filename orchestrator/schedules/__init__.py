"""Schedules: rules, firing, triggers, backfills, overlap policies."""

from orchestrator.db.lookups import database_now
from orchestrator.schedules.backfills import (
    MAX_PARALLEL,
    NewBackfill,
    advance,
    backfill_progress,
    backfills_of_runs,
    cancel_backfill,
    create_backfill,
    fail_backfill,
    get_backfill,
    page_of_backfills,
)
from orchestrator.schedules.firing import (
    RunOptions,
    error_text,
    fire,
    fire_event,
    refuse_event,
    refuse_firing,
)
from orchestrator.schedules.manage import (
    NewSchedule,
    ScheduleFilter,
    change_schedule,
    count_schedules,
    create_schedule,
    delete_schedule,
    fire_latest,
    firings,
    get_schedule,
    page_of_schedules,
    preview_instants,
    rotate_token,
    schedule_of_token,
    schedules_of_runs,
    schedules_of_workflows,
)
from orchestrator.schedules.trigger import (
    TriggerPayload,
    TriggerRequest,
    parse_payload,
    trigger_now,
)

__all__ = [
    "MAX_PARALLEL", "NewBackfill", "NewSchedule", "RunOptions", "ScheduleFilter",
    "TriggerPayload", "TriggerRequest", "advance", "backfill_progress", "backfills_of_runs",
    "cancel_backfill", "change_schedule", "count_schedules", "create_backfill",
    "create_schedule", "database_now", "delete_schedule", "error_text", "fail_backfill",
    "fire", "fire_event", "fire_latest", "firings", "get_backfill", "get_schedule",
    "page_of_backfills", "page_of_schedules", "parse_payload", "preview_instants",
    "refuse_event", "refuse_firing", "rotate_token", "schedule_of_token", "schedules_of_runs",
    "schedules_of_workflows", "trigger_now",
]  # fmt: skip
