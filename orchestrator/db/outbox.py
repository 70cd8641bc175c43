"""Transactional outbox: deliveries and firings commit or roll back with their event."""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import statements
from orchestrator.states import RunTransition

TERMINAL_EVENTS = frozenset(row.event for row in RunTransition if row.ends)
# The events that webhooks, mail and schedules of type `event` may subscribe to.
SUBSCRIBABLE_EVENTS = TERMINAL_EVENTS | {"run.created", "run.started", "run.late"}

# UUID version 7 (RFC 9562): ids of deliveries sort by time.
NEW_ID = """CAST(
    lpad(to_hex(CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)), 12, '0') || '7'
    || substr(replace(CAST(gen_random_uuid() AS text), '-', ''), 14) AS uuid)"""
# A slow receiver delays its lane only: one tenant's messages to one host, or its mail.
LANE = """CASE WHEN sent.kind = 'mail' THEN 'mail ' || sent.tenant_id ELSE sent.tenant_id || ' '
    || coalesce(lower(substring(sent.target FROM '^[a-zA-Z]+://([^/?#]+)')), '') END"""
MOMENT = "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
# The run as it was at the event, so that every attempt sends the same. Its parameters are left out:
# they may hold secrets.
_PAYLOAD = f"""jsonb_build_object(
    'type', sent.type, 'timestamp', {MOMENT.format("sent.occurred_at")},
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
        'event', jsonb_build_object('seq', sent.seq, 'data', sent.data)))"""

_NEW_EVENTS = """unnest(CAST(:run_ids AS uuid[])) AS changed(id)
    JOIN runs ON runs.id = changed.id JOIN events ON events.run_id = changed.id"""
_IS_NEW = """events.type = ANY(:types)
    AND events.tx = CAST(CAST(pg_current_xact_id() AS text) AS bigint)"""
# The run's own notifications: {"events": [types], "mail": [addresses], "webhooks": [urls]}.
_DELIVER = f"""
    INSERT INTO deliveries
        (id, tenant_id, webhook_id, run_id, seq, kind, target, lane, event, payload)
    SELECT {NEW_ID}, sent.tenant_id, sent.webhook_id, sent.run_id, sent.seq, sent.kind,
           sent.target, {LANE}, sent.type, {_PAYLOAD}
    FROM (
        SELECT events.*, webhooks.id AS webhook_id, webhooks.kind, webhooks.target
        FROM {_NEW_EVENTS}
        JOIN webhooks ON webhooks.tenant_id = events.tenant_id AND webhooks.active
          AND events.type = ANY(webhooks.events)
          AND (webhooks.workflow IS NULL OR webhooks.workflow = runs.workflow)
        WHERE {_IS_NEW}
        UNION ALL
        SELECT events.*, NULL, ways.kind, target.value
        FROM {_NEW_EVENTS},
        LATERAL (VALUES ('mail', runs.notifications -> 'mail'),
                        ('webhook', runs.notifications -> 'webhooks')) AS ways(kind, targets),
        LATERAL jsonb_array_elements_text(
            CASE jsonb_typeof(ways.targets) WHEN 'array' THEN ways.targets END) AS target(value)
        WHERE runs.notifications -> 'events' ? events.type
          AND {_IS_NEW}
    ) sent JOIN runs ON runs.id = sent.run_id
"""
_FIRE = f"""
    INSERT INTO firings (tenant_id, schedule_id, due_at, source_run_id, source_seq)
    SELECT runs.tenant_id, schedules.id, events.occurred_at, runs.id, events.seq
    FROM {_NEW_EVENTS}
    JOIN schedules ON schedules.tenant_id = runs.tenant_id AND schedules.active
      AND schedules.type = 'event' AND schedules.after_workflow = runs.workflow
      AND runs.state = ANY(schedules.after_states)
    WHERE {_IS_NEW}
    FOR KEY SHARE OF schedules -- one that is being deleted is skipped, without an error
    ON CONFLICT DO NOTHING
"""


def enqueue(session: Session, run_ids: Sequence[UUID], types: Collection[str]) -> None:
    """Write with the commit the deliveries and firings that new events of these types cause."""
    if delivered := sorted(SUBSCRIBABLE_EVENTS.intersection(types)):
        statements.execute_at_commit(session, _DELIVER, run_ids=list(run_ids), types=delivered)
    if ends := sorted(TERMINAL_EVENTS.intersection(types)):
        statements.execute_at_commit(session, _FIRE, run_ids=list(run_ids), types=ends)
