"""Runs: submit, look up, list, cancel, retry, change, delete, explain."""

from orchestrator.runs.cancellation import cancel, stop_run
from orchestrator.runs.causes import CauseCode, Explanation
from orchestrator.runs.changes import annotate, change, delete
from orchestrator.runs.explanation import explain
from orchestrator.runs.history import (
    BEGINNING,
    EventFilter,
    Position,
    changed_at,
    count_events,
    events_of_run,
    events_of_tenant,
    horizon,
    newest_events,
    newest_events_with_steps,
    submitters,
)
from orchestrator.runs.listing import (
    RunFilter,
    RunSort,
    SortOrder,
    columns,
    count,
    last_of_schedules,
    page,
)
from orchestrator.runs.queries import (
    attempts,
    first_task_ids,
    get,
    get_with_steps,
    has_ended,
    lock,
    step,
    step_by_number,
    steps,
    steps_of_runs,
)
from orchestrator.runs.restarts import begins, first_start, restarted_at
from orchestrator.runs.retries import RetryMode, RetryRequest, RetryTarget, retry, retry_number
from orchestrator.runs.submission import (
    NewRun,
    amend_run,
    must_be_held,
    start_held_run,
    submit,
    submit_and_view,
)
from orchestrator.runs.views import RunView, view

__all__ = [
    "BEGINNING", "CauseCode", "EventFilter", "Explanation", "NewRun", "Position", "RetryMode",
    "RetryRequest", "RetryTarget", "RunFilter", "RunSort", "RunView", "SortOrder", "amend_run",
    "annotate", "attempts", "begins", "cancel", "change", "changed_at", "columns", "count",
    "count_events", "delete", "events_of_run", "events_of_tenant", "explain", "first_start",
    "first_task_ids", "get", "get_with_steps", "has_ended", "horizon", "last_of_schedules", "lock",
    "must_be_held", "newest_events", "newest_events_with_steps", "page", "restarted_at", "retry",
    "retry_number", "start_held_run", "step", "step_by_number", "steps", "steps_of_runs",
    "stop_run", "submit", "submit_and_view", "submitters", "view",
]  # fmt: skip
