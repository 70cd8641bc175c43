"""Transactional outbox: deliveries and firings commit or roll back with their event."""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import statements
from orchestrator.states import RunTransition

TERMINAL_EVENTS = frozenset(row.event for row in RunTransition if row.ends)
# The events that webhooks, mail and schedules of type `event` may subscribe to.
SUBSCRIBABLE_EVENTS = TERMINAL_EVENTS | {"run.created", "run.started", "run.late"}

_DELIVER = "SELECT enqueue_deliveries(CAST(:run_ids AS uuid[]), :types)"
_FIRE = "SELECT enqueue_firings(CAST(:run_ids AS uuid[]), :types)"


def enqueue(session: Session, run_ids: Sequence[UUID], types: Collection[str]) -> None:
    """Write with the commit the deliveries and firings that new events of these types cause."""
    if delivered := sorted(SUBSCRIBABLE_EVENTS.intersection(types)):
        statements.execute_at_commit(session, _DELIVER, run_ids=list(run_ids), types=delivered)
    if ends := sorted(TERMINAL_EVENTS.intersection(types)):
        statements.execute_at_commit(session, _FIRE, run_ids=list(run_ids), types=ends)
