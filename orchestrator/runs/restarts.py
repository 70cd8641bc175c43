"""Runs that were retried in place: when they began first, and when and with what again.

A retry in place sets `started_at` anew; the attempts and events keep what was before.
"""

from datetime import datetime

from sqlalchemy.orm import Session

from orchestrator.db import statements, transitions
from orchestrator.models import Run, Step

_FIRST_START = """
    SELECT min(attempts.started_at) AS moment FROM steps
    JOIN attempts ON attempts.step_id = steps.id AND attempts.number = 1
    WHERE steps.run_id = :run_id
"""
_IS_REOPENED = "SELECT FROM events WHERE run_id = :run_id AND type = 'run.reopened' LIMIT 1"
_IS_READY = f"SELECT FROM steps WHERE id = :id AND {transitions.NEEDS_MET}"


def first_start(session: Session, run: Run) -> datetime | None:
    """When the first attempt of a run began, also before a retry; None if none has."""
    row = statements.row(session, _FIRST_START, run_id=run.id)
    return row.moment if row else None


def restarted_at(session: Session, run: Run) -> datetime | None:
    """When a run was retried in place last; None if it never was."""
    reopened = statements.row(session, _IS_REOPENED, run_id=run.id) is not None
    return run.run_at if reopened else None  # a retry sets its earliest start to that instant


def begins(session: Session, run: Run, step: Step) -> bool:
    """Whether a step is what a run begins with, or has begun with, since its last retry."""
    if run.started_at is not None or step.started_at is not None:
        return run.started_at == step.started_at
    return statements.row(session, _IS_READY, id=step.id) is not None
