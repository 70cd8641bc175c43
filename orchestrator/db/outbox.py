"""What has to follow from an event outside of its run, written in the event's own transaction.

So nothing is told that did not happen, and nothing that happened goes untold.
"""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import statements
from orchestrator.states import RunTransition

TERMINAL_EVENTS = frozenset(row.event for row in RunTransition if row.ends)
# The events that webhooks, mail and schedules of type `event` may ask for.
SUBSCRIBABLE_EVENTS = TERMINAL_EVENTS | {"run.created", "run.started", "run.late"}

# Version 7 (RFC 9562), so that the ids of deliveries have the order of time.
NEW_ID = """CAST(
    lpad(to_hex(CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)), 12, '0') || '7'
    || substr(replace(CAST(gen_random_uuid() AS text), '-', ''), 14) AS uuid)"""
# Whom a slow receiver may hold up: the same tenant's messages to the same host. Mail of all
# tenants goes through one server.
LANE = """CASE WHEN told.kind = 'mail' THEN 'mail' ELSE told.tenant_id || ' '
    || coalesce(lower(substring(told.target FROM '^[a-zA-Z]+://([^/?#]+)')), '') END"""
MOMENT = "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
# The run as it was at the event, so that every try says the same; not its parameters, which may
# hold what the receiver must not know.
_PAYLOAD = f"""jsonb_build_object(
    'type', told.type, 'timestamp', {MOMENT.format("told.occurred_at")},
    'data', jsonb_build_object(
        'run', jsonb_build_object(
            'id', runs.id, 'number', runs.number, 'name', runs.name, 'workflow', runs.workflow,
            'version', runs.version, 'state', runs.state, 'trigger', runs.trigger,
            'priority', runs.priority, 'tags', runs.tags, 'reason', runs.reason,
            'submitted_by', runs.submitted_by, 'error', runs.error,
            'cancel_reason', runs.cancel_reason, 'passed_sla', runs.passed_sla,
            'retry_of', runs.retry_of, 'created_at', {MOMENT.format("runs.created_at")},
            'started_at', {MOMENT.format("runs.started_at")},
            'finished_at', {MOMENT.format("runs.finished_at")}),
        'event', jsonb_build_object('seq', told.seq, 'data', told.data)))"""

# The run's own notifications: {"events": [types], "mail": [addresses], "webhooks": [urls]}.
_DELIVER = f"""
    INSERT INTO deliveries
        (id, tenant_id, webhook_id, run_id, seq, kind, target, lane, event, payload)
    SELECT {NEW_ID}, told.tenant_id, told.webhook_id, told.run_id, told.seq, told.kind,
           told.target, {LANE}, told.type, {_PAYLOAD}
    FROM (
        SELECT events.*, webhooks.id AS webhook_id, webhooks.kind, webhooks.target
        FROM unnest(CAST(:run_ids AS uuid[])) AS changed(id)
        JOIN runs ON runs.id = changed.id JOIN events ON events.run_id = changed.id
        JOIN webhooks ON webhooks.tenant_id = events.tenant_id AND webhooks.active
          AND events.type = ANY(webhooks.events)
          AND (webhooks.workflow IS NULL OR webhooks.workflow = runs.workflow)
        WHERE events.type = ANY(:types)
          AND events.tx = CAST(CAST(pg_current_xact_id() AS text) AS bigint)
        UNION ALL
        SELECT events.*, NULL, ways.kind, target.value
        FROM unnest(CAST(:run_ids AS uuid[])) AS changed(id)
        JOIN runs ON runs.id = changed.id JOIN events ON events.run_id = changed.id,
        LATERAL (VALUES ('mail', runs.notifications -> 'mail'),
                        ('webhook', runs.notifications -> 'webhooks')) AS ways(kind, targets),
        LATERAL jsonb_array_elements_text(
            CASE jsonb_typeof(ways.targets) WHEN 'array' THEN ways.targets END) AS target(value)
        WHERE runs.notifications -> 'events' ? events.type
          AND events.type = ANY(:types)
          AND events.tx = CAST(CAST(pg_current_xact_id() AS text) AS bigint)
    ) told JOIN runs ON runs.id = told.run_id
"""
_FIRE = """
    INSERT INTO firings (tenant_id, schedule_id, due_at, source_run_id, source_seq)
    SELECT runs.tenant_id, schedules.id, events.occurred_at, runs.id, events.seq
    FROM unnest(CAST(:run_ids AS uuid[])) AS changed(id)
    JOIN runs ON runs.id = changed.id JOIN events ON events.run_id = changed.id
    JOIN schedules ON schedules.tenant_id = runs.tenant_id AND schedules.active
      AND schedules.type = 'event' AND schedules.after_workflow = runs.workflow
      AND runs.state = ANY(schedules.after_states)
    WHERE events.type = ANY(:types)
      AND events.tx = CAST(CAST(pg_current_xact_id() AS text) AS bigint)
    FOR KEY SHARE OF schedules -- one that is being deleted is passed over, and is no error
    ON CONFLICT DO NOTHING
"""


def enqueue(session: Session, run_ids: Sequence[UUID], types: Collection[str]) -> None:
    """Write by the end of the transaction what follows from new events of these types."""
    told = sorted(SUBSCRIBABLE_EVENTS.intersection(types))
    if told:
        statements.execute_at_commit(session, _DELIVER, {"run_ids": list(run_ids), "types": told})
    ends = sorted(TERMINAL_EVENTS.intersection(types))
    if ends:
        statements.execute_at_commit(session, _FIRE, {"run_ids": list(run_ids), "types": ends})
