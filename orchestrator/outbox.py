"""What has to follow from an event outside of its run, written in the event's own transaction.

So nothing is told that did not happen, and nothing that happened goes untold.
"""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator import prepared

# The events that webhooks, mail and schedules of type `event` may ask for.
TOLD = frozenset(
    {
        "run.created",
        "run.started",
        "run.succeeded",
        "run.failed",
        "run.cancelled",
        "run.timed_out",
        "run.late",
    }
)
ENDS = frozenset({"run.succeeded", "run.failed", "run.cancelled", "run.timed_out"})

# The run's own notifications: {"events": [types], "mail": [addresses], "webhooks": [urls]}.
_DELIVER = """
    INSERT INTO deliveries (tenant_id, webhook_id, run_id, seq, kind, target, event, payload)
    SELECT told.tenant_id, told.webhook_id, told.run_id, told.seq, told.kind, told.target,
           told.type, jsonb_build_object('data', told.data)
    FROM (
        SELECT events.*, webhooks.id AS webhook_id, webhooks.kind, webhooks.target
        FROM events JOIN runs ON runs.id = events.run_id
        JOIN webhooks ON webhooks.tenant_id = events.tenant_id AND webhooks.active
          AND events.type = ANY(webhooks.events)
          AND (webhooks.workflow IS NULL OR webhooks.workflow = runs.workflow)
        WHERE events.run_id = :run_id AND events.type = ANY(:types)
          AND events.tx = CAST(CAST(pg_current_xact_id() AS text) AS bigint)
        UNION ALL
        SELECT events.*, NULL, ways.kind, target.value
        FROM events JOIN runs ON runs.id = events.run_id,
        LATERAL (VALUES ('mail', runs.notifications -> 'mail'),
                        ('webhook', runs.notifications -> 'webhooks')) AS ways(kind, targets),
        LATERAL jsonb_array_elements_text(ways.targets) AS target(value)
        WHERE runs.notifications -> 'events' ? events.type
          AND events.run_id = :run_id AND events.type = ANY(:types)
          AND events.tx = CAST(CAST(pg_current_xact_id() AS text) AS bigint)
    ) told
"""
_FIRE = """
    INSERT INTO firings (tenant_id, schedule_id, due_at, source_run_id, source_seq)
    SELECT runs.tenant_id, schedules.id, events.occurred_at, runs.id, events.seq
    FROM events JOIN runs ON runs.id = events.run_id
    JOIN schedules ON schedules.tenant_id = runs.tenant_id AND schedules.active
      AND schedules.type = 'event' AND schedules.after_workflow = runs.workflow
      AND runs.state = ANY(schedules.after_states)
    WHERE events.run_id = :run_id AND events.type = ANY(:types)
      AND events.tx = CAST(CAST(pg_current_xact_id() AS text) AS bigint)
    ON CONFLICT DO NOTHING
"""


def follow(session: Session, run_id: UUID, types: Collection[str]) -> None:
    """Write by the end of the transaction what follows from these new events of a run."""
    told = sorted(TOLD.intersection(types))
    if told:
        prepared.later(session, _DELIVER, {"run_id": run_id, "types": told})
    ends = sorted(ENDS.intersection(types))
    if ends:
        prepared.later(session, _FIRE, {"run_id": run_id, "types": ends})
