"""Publish steps as chains of Celery messages, and revoke their tasks."""

from collections.abc import Iterable, Sequence
from itertools import takewhile

from sqlalchemy.orm import Session

from orchestrator.broker.messages import Message
from orchestrator.db import Row, statements
from orchestrator.db.unit_of_work import unit_of

# Steps of one run that are published at once when they become ready together; the scheduler
# publishes the rest as the window empties.
FAN_OUT = 16
_MAX_NAME = 32  # characters; a longer one would push a chain's message over 2 KiB

_PUBLISH = """
    UPDATE steps SET
        generation = steps.generation + 1,
        task_id = steps.id || '.' || (steps.generation + 1),
        published_at = CASE WHEN steps.state = 'queued' THEN now() END
    FROM unnest(CAST(:run_ids AS uuid[]), CAST(:keys AS text[])) AS line(run_id, key), runs
    WHERE steps.run_id = line.run_id AND steps.key = line.key AND runs.id = steps.run_id
      AND steps.state IN ('pending', 'queued')
    RETURNING steps.run_id, steps.key, steps.task_id, steps.queue, steps.priority, steps.attempt,
        runs.workflow
"""


def publish(session: Session, steps: Sequence[Row]) -> None:
    """Publish each step, and the steps that follow it linearly as its chain, after the commit.

    Messages of older generations are stale from then on.
    """
    if not steps:
        return
    lines = [(step.run_id, [step.key, *step.followers]) for step in steps]
    run_ids = [run_id for run_id, line in lines for _ in line]
    keys = [key for _, line in lines for key in line]
    published = statements.rows(session, _PUBLISH, run_ids=run_ids, keys=keys)
    messages = {(row.run_id, row.key): _message(row) for row in published}
    for run_id, line in lines:
        unbroken = takewhile(messages.__contains__, ((run_id, key) for key in line))
        if segment := [messages[place] for place in unbroken]:
            unit_of(session).outbound.messages.append((segment[0], segment[1:]))


def revoke(session: Session, steps: Iterable[Row]) -> None:
    """Revoke the Celery tasks of these steps after the commit."""
    unit_of(session).outbound.revoked.extend(step.task_id for step in steps if step.task_id)


def _message(row: Row) -> Message:
    attempt = f"#{row.attempt + 1}"
    name = f"{row.workflow}/{row.key}"[: _MAX_NAME - len(attempt)] + attempt
    return Message(task_id=row.task_id, queue=row.queue, priority=row.priority, name=name)
