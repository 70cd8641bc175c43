"""What is sent to the broker after a transaction has committed. A message is only a hint."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

# Of the messages' meaning. A worker drops messages of a version it does not know; the scheduler
# publishes the step again, until a worker takes it that knows the version.
VERSION = 1

# Steps of one run that are published at once when they become ready together; the scheduler
# publishes the rest as the window empties.
FAN_OUT = 16

# As `task_id` writes it; `UUID` and `int` alone would also take braces, signs and underscores.
_TASK_ID = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.([0-9]{1,9})")


@dataclass(frozen=True, kw_only=True)
class Message:
    """One Celery task: the right to try to claim one step."""

    task_id: str
    queue: str
    priority: int  # higher first
    name: str  # what Flower shows: workflow/step#attempt


@dataclass
class Outbound:
    """What one transaction sends to the broker after its commit."""

    # Each with its chain: the tasks that Celery publishes one by one as they succeed.
    messages: list[tuple[Message, Sequence[Message]]] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)  # task ids


def task_id(step_id: UUID, generation: int) -> str:
    """The Celery id of a step's message: a newer generation makes the older ones stale."""
    return f"{step_id}.{generation}"


def is_task_id(text: str) -> bool:
    """Whether it has the form of a task id of ours."""
    return _TASK_ID.fullmatch(text) is not None


def parse_task_id(text: str) -> tuple[UUID, int] | None:
    """The step and the generation of a task id, or None if it is not one of ours."""
    match = _TASK_ID.fullmatch(text)
    return match and (UUID(match[1]), int(match[2]))
