"""Look up entries of the audit log."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from orchestrator.db import Row, lookups, statements
from orchestrator.models import ActorKind, AuditEntry

# An entry may be written a moment after what it is about.
_LATEST = """
    SELECT wanted.object_id, wanted.verb, wanted.moment, entry.actor, entry.name, entry.key_id,
        entry."user"
    FROM unnest(CAST(:objects AS text[]), CAST(:verbs AS text[]), CAST(:moments AS timestamptz[]))
        AS wanted(object_id, verb, moment),
    LATERAL (
        SELECT * FROM audit WHERE audit.tenant_id = :tenant_id
          AND audit.object_id = wanted.object_id AND audit.verb = wanted.verb
          AND audit.at < wanted.moment + interval '1 s'
        ORDER BY audit.id DESC LIMIT 1
    ) entry
"""
Moment = tuple[str, str, datetime]  # the id of an object, a verb, and when it was done


@dataclass(frozen=True, kw_only=True)
class AuditFilter:
    """Which entries: any of several verbs or actors, from a time on and before another one."""

    verb: Sequence[str] = ()
    actor: Sequence[ActorKind] = ()
    key_id: UUID | None = None
    user: str | None = None
    object_type: str | None = None
    object_id: str | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def page(
    session: Session,
    tenant_id: UUID,
    which: AuditFilter,
    *,
    before: UUID | None = None,
    limit: int = 50,
) -> list[AuditEntry]:
    """Entries, newest first."""
    return lookups.page_before(session, _select(tenant_id, which), AuditEntry.id, before, limit)


def linked_entries(
    session: Session, tenant_id: UUID, which: AuditFilter, *, after: int = 0, limit: int = 500
) -> list[AuditEntry]:
    """Entries with a number above `after`, in the order of the chain."""
    return lookups.page_after(session, _select(tenant_id, which), AuditEntry.number, after, limit)


def latest_actors(
    session: Session, tenant_id: UUID, moments: Collection[Moment]
) -> Mapping[Moment, Row]:
    """Who did this last before each moment: `actor`, `name`, `key_id` and `user`; if recorded."""
    if not moments:
        return {}
    objects, verbs, times = (list(column) for column in zip(*moments, strict=True))
    params = {"objects": objects, "verbs": verbs, "moments": times, "tenant_id": tenant_id}
    rows = statements.rows(session, _LATEST, **params)
    return {(row.object_id, row.verb, row.moment): row for row in rows}


def _select(tenant_id: UUID, which: AuditFilter) -> Select[AuditEntry]:
    same = ("key_id", "user", "object_type", "object_id", "request_id")
    values = {name: getattr(which, name) for name in same if getattr(which, name) is not None}
    statement = select(AuditEntry).filter_by(tenant_id=tenant_id, **values)
    if which.verb:
        statement = statement.where(AuditEntry.verb.in_(which.verb))
    if which.actor:
        statement = statement.where(AuditEntry.actor.in_(which.actor))
    if which.since is not None:
        statement = statement.where(AuditEntry.at >= which.since)
    if which.until is not None:
        statement = statement.where(AuditEntry.at < which.until)
    return statement
