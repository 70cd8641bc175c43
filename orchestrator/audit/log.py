"""Record changes: one row each, written with the commit of the change itself.

A row costs no round trip and takes no lock; a sweep numbers and chains the rows (`chain.link`).
"""

import getpass
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from orchestrator.db import statements
from orchestrator.json_values import clean_text, dump_json, truncate_text
from orchestrator.models import Actor, ActorKind
from orchestrator.spec.durations import format_duration

SYSTEM = UUID(int=0)  # in place of a tenant: for what all tenants share, as workers
# Values that may be secrets, or long: only the names of their members that differ are recorded.
_ONLY_NAMES = frozenset({"params", "annotations", "variables"})
_MAX_VALUE = 4000  # characters of one value as JSON
_NOBODY = Actor(actor=ActorKind.PROCESS)
_INSERT = """
    INSERT INTO audit (id, tenant_id, actor, name, key_id, "user", contract, request_id,
        verb, object_type, object_id, before, after)
    SELECT entry.id, CAST(:tenant_id AS uuid), :actor, :name, CAST(:key_id AS uuid), :user,
        :contract, :request_id, verb.text, split_part(verb.text, '.', 1), entry.object_id,
        entry.before, entry.after
    FROM jsonb_to_recordset(CAST(:entries AS jsonb))
        AS entry(id uuid, object_id text, before jsonb, after jsonb),
        CAST(:verb AS text) AS verb(text)
"""


class Change(NamedTuple):
    """What changed of one object; what is equal before and after is left out."""

    object_id: UUID | int | str
    before: Mapping[str, Any]
    after: Mapping[str, Any]


def record(
    session: Session,
    tenant_id: UUID,
    verb: str,
    object_id: UUID | int | str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Record one change by the actor of the session; nothing if before and after are equal."""
    change = Change(object_id, before or {}, after or {})
    if before is None or after is None or _differing(before, after) or _differing(after, before):
        record_all(session, tenant_id, verb, [change])


def record_all(session: Session, tenant_id: UUID, verb: str, changes: Sequence[Change]) -> None:
    """Record the same change of several objects of a tenant."""
    if not changes:
        return
    actor: Actor = session.info.get("actor") or _NOBODY
    entries = [_entry(each) for each in changes]
    statements.execute_at_commit(
        session,
        _INSERT,
        tenant_id=tenant_id,
        verb=verb,
        entries=dump_json(entries, default=_plain),
        **vars(actor),
    )


def sweep_actor(name: str) -> Actor:
    """What a scheduler does of its own account."""
    return Actor(actor=ActorKind.SWEEP, name=name)


def command_actor() -> Actor:
    """Who runs a command on the database itself: a user of this machine."""
    try:
        name = clean_text(getpass.getuser())
    except (KeyError, OSError):  # a container may have a user without a name
        name = None
    return Actor(actor=ActorKind.COMMAND, name=name)


def _entry(change: Change) -> dict[str, Any]:
    before, after = change.before, change.after
    return {
        "id": str(uuid7()),
        "object_id": str(change.object_id),
        "before": _differing(before, after),
        "after": _differing(after, before),
    }


def _differing(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """The members that differ from the others', as they are recorded."""
    return {
        name: _recorded(name, value, others.get(name))
        for name, value in values.items()
        if value != others.get(name)
    }


def _recorded(name: str, value: Any, other: Any) -> Any:
    if name in _ONLY_NAMES and isinstance(value, Mapping):
        known = other if isinstance(other, Mapping) else {}
        value = sorted(key for key in value if key not in known or value[key] != known[key])
    text = dump_json(value, default=_plain, ensure_ascii=False)
    return value if len(text) <= _MAX_VALUE else truncate_text(text, _MAX_VALUE)


def _plain(value: Any) -> str:
    """A value that JSON has no type for, as the API writes it."""
    if isinstance(value, timedelta):
        return format_duration(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)
