"""Publish steps as chains of Celery messages, and revoke their tasks."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy.orm import Session

from orchestrator.broker.messages import Message
from orchestrator.db import Row, statements
from orchestrator.db.autocommit import AnySession
from orchestrator.db.unit_of_work import unit_of

_MAX_NAME = 32  # characters; a longer one would push a chain's message over 2 KiB
_PUBLISH = "SELECT * FROM publish_steps(CAST(:ids AS uuid[]))"


def publish(session: Session, steps: Sequence[Row]) -> None:
    """Publish each step, and the steps that follow it linearly as its chain, after the commit.

    Messages of older generations are stale from then on.
    """
    if steps:
        rows = statements.rows(session, _PUBLISH, ids=[step.id for step in steps])
        deliver(session, [dict(row._mapping) for row in rows])


def deliver(session: AnySession, published: Iterable[Mapping[str, Any]]) -> None:
    """Send these messages after the commit: rows of `publish_steps`, chain after chain."""
    for _, rows in groupby(published, key=itemgetter("chain")):
        first, *chain = map(_message, rows)
        unit_of(session).outbound.messages.append((first, chain))


def revoke(session: AnySession, task_ids: Iterable[str | None]) -> None:
    """Revoke these Celery tasks after the commit."""
    unit_of(session).outbound.revoked.extend(filter(None, task_ids))


def name_of(workflow: str, key: str, attempt: int) -> str:
    """What Flower shows for a task: `workflow/step#attempt`."""
    number = f"#{attempt}"
    return f"{workflow}/{key}"[: _MAX_NAME - len(number)] + number


def _message(row: Mapping[str, Any]) -> Message:
    return Message(
        task_id=row["task_id"],
        queue=row["queue"],
        priority=row["priority"],
        name=name_of(row["workflow"], row["key"], row["attempt"] + 1),
    )
