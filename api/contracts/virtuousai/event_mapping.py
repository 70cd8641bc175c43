"""Its names for our events, and its two shapes of them: of a run's stream and of the list."""

from collections.abc import Mapping
from typing import Any

from api.contracts.virtuousai.responses import camel
from api.toolkit import sse
from api.toolkit.fields import Timestamp

EVENTS: Mapping[str, str] = {
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
# Published too, but what happens to a schedule is in the history of no run.
NAMES = (*dict.fromkeys(EVENTS.values()), "schedule.fired")
RESOURCE = "automation_run"

_MOMENT = Timestamp()


def types(name: str | None) -> list[str]:
    """Our types of event behind a name; those behind any name for none."""
    return [ours for ours, theirs in EVENTS.items() if name in (None, theirs)]


def render(event: Any) -> str:
    """The event as the stream of its run has it; nothing for one without a published name."""
    if event.type not in EVENTS:
        return ""
    shown = {camel(name): value for name, value in _core(event).items()}
    told = {
        "event": shown["eventType"],
        "data": _payload(event),
        "id": str(event.seq),
        **shown,
        "occurredAt": _MOMENT._serialize(event.occurred_at),
        "payload": _payload(event),
    }
    return sse.format_event(str(event.seq), told)


def listed(event: Any) -> dict[str, Any]:
    """The event as the list has it."""
    return {
        "id": str(event.id),
        **_core(event),
        "occurred_at": event.occurred_at,
        "correlation_id": str(event.run_id),
        "payload": _payload(event),
    }


def _core(event: Any) -> dict[str, Any]:
    return {
        "event_type": EVENTS[event.type],
        "resource_type": RESOURCE,
        "resource_id": str(event.run_id),
        "tenant_id": str(event.tenant_id),
    }


def _payload(event: Any) -> dict[str, Any]:
    if event.step is None:
        return dict(event.data)
    return {"stepKey": event.step, "attempt": event.attempt, **event.data}
