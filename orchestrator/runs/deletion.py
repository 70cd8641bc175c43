"""Runs taken away for good, with all that they said and left."""

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from orchestrator.db import statements
from orchestrator.errors import Conflict
from orchestrator.models import LogLine, Output, Run
from orchestrator.runs import queries
from orchestrator.states import FINAL_RUNS

# A large result belongs to every run that kept it, not only to the one that saved it.
_HAND_OVER = """
    UPDATE artifacts SET run_id = keeper.run_id FROM steps keeper
    WHERE artifacts.run_id = :run_id AND keeper.result_artifact = artifacts.id
      AND keeper.run_id <> :run_id
"""
_FORGET = "DELETE FROM artifacts WHERE run_id = :run_id RETURNING address"


def delete(session: Session, tenant_id: UUID, run_id: UUID) -> tuple[Run, Sequence[str]]:
    """Take a run away; gives it as it was, and where the bytes of its files are.

    Raises NotFound, and Conflict for a run that has not ended.
    """
    queries.lock(session, tenant_id, run_id)
    run = queries.get_with_steps(session, tenant_id, run_id)
    if run.state not in FINAL_RUNS:
        raise Conflict(f"run {run.id} is {run.state}: cancel it first")
    statements.execute(session, _HAND_OVER, run_id=run_id)
    addresses = [row.address for row in statements.rows(session, _FORGET, run_id=run_id)]
    for table in (LogLine, Output):
        session.execute(sa.delete(table).where(table.run_id == run_id))
    session.execute(sa.delete(Run).where(Run.id == run_id))
    return run, addresses
