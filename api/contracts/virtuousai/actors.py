"""Who caused an event: a user, a key (`api`), another automation, or the system."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from api.contracts.virtuousai.vocabulary import CAUSES
from api.toolkit.context import tenant
from orchestrator import audit, runs
from orchestrator.models import ActorKind, Event, Trigger


class EventActor(NamedTuple):
    """The type and the id of who caused an event."""

    type: str
    id: str | None


class EventView(NamedTuple):
    """An event with who caused it."""

    event: Event
    actor: EventActor


_SYSTEM = EventActor("system", None)


def event_views(session: Session, events: Sequence[Event]) -> list[EventView]:
    """The views of events, in a fixed number of queries."""
    created = {event.run_id for event in events if event.type == "run.created"}
    submitters = runs.submitters(session, tenant(), created) if created else {}
    moments = {_moment(event) for event in events if event.type in CAUSES}
    entries = audit.latest_actors(session, tenant(), moments)
    return [EventView(event, _actor_of(event, submitters, entries)) for event in events]


def _moment(event: Event) -> audit.Moment:
    return str(event.run_id), CAUSES[event.type], event.occurred_at


def _actor_of(
    event: Event, submitters: Mapping[UUID, Any], entries: Mapping[audit.Moment, Any]
) -> EventActor:
    if event.type == "run.created" and (run := submitters.get(event.run_id)):
        return _submitter(run)
    entry = entries.get(_moment(event)) if event.type in CAUSES else None
    if entry is None or entry.actor in (ActorKind.SWEEP, ActorKind.PROCESS):
        return _SYSTEM
    if entry.user or entry.actor == ActorKind.COMMAND:
        return EventActor("user", entry.user or entry.name)
    return EventActor("api", str(entry.key_id) if entry.key_id else entry.name)


def _submitter(run: Any) -> EventActor:
    if run.source_type == "key":
        return EventActor("user", run.user) if run.user else EventActor("api", run.source_id)
    if run.source_type == "run":
        return EventActor("automation", run.source_id)
    return EventActor("api", run.source_id) if run.trigger == Trigger.API else _SYSTEM
