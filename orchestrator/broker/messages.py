"""What the broker is told once a transaction has committed. A message is only a hint."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.orm import Session

# Of what a message means. A worker lets those of a version it does not know go: the scheduler
# sends the step again, and in the end a worker comes along that knows it.
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Message:
    """One Celery task: the right to try to claim one step."""

    task_id: str
    queue: str
    priority: int  # higher goes first
    name: str  # what Flower shows: workflow/step#attempt


@dataclass
class Outbound:
    """Everything one transaction has to tell the broker after its commit."""

    # Each with the chain that Celery publishes step by step as they succeed.
    messages: list[tuple[Message, Sequence[Message]]] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)  # task ids


def outbound(session: Session) -> Outbound:
    """What this transaction has collected so far."""
    collected: Outbound = session.info.setdefault("outgoing", Outbound())
    return collected


def task_id(step_id: UUID, generation: int) -> str:
    """The Celery id of a step's message: a newer generation makes the older ones stale."""
    return f"{step_id}.{generation}"


def parse_task_id(text: str) -> tuple[UUID, int] | None:
    """The step and the generation of a task id, or None if it is not one of ours."""
    step_id, _, generation = text.partition(".")
    try:
        return UUID(step_id), int(generation)
    except ValueError:
        return None
