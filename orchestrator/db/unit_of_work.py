"""What one transaction has collected: for its next statement, for its commit, and for after it."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from orchestrator.broker.messages import Outbound
from orchestrator.db.autocommit import AnySession

Deferred = tuple[str, dict[str, Any]]  # a statement with `:name` parameters, and their values


@dataclass
class UnitOfWork:
    """The collected statements, events and messages; `Database.transaction` flushes them."""

    before_next: list[Deferred] = field(default_factory=list)  # sent with the next statement
    at_commit: list[Deferred] = field(default_factory=list)  # sent with COMMIT
    events: dict[UUID, list[dict[str, Any]]] = field(default_factory=dict)  # by run
    outbound: Outbound = field(default_factory=Outbound)  # sent to the broker after the commit


def unit_of(session: AnySession) -> UnitOfWork:
    """The unit of work of the session's transaction."""
    unit: UnitOfWork = session.info.setdefault("unit_of_work", UnitOfWork())
    return unit
