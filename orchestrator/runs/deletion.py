"""Delete runs with their outputs."""

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from orchestrator.db import statements
from orchestrator.errors import Conflict
from orchestrator.models import LogLine, Output, Run
from orchestrator.runs import queries
from orchestrator.states import FINAL_RUNS

# A retry as a new run may keep a large result of the run that saved it.
_HAND_OVER = """
    UPDATE artifacts SET run_id = keeper.run_id FROM steps keeper
    WHERE artifacts.run_id = :run_id AND keeper.result_artifact = artifacts.id
      AND keeper.run_id <> :run_id
"""
_DELETE_ARTIFACTS = "DELETE FROM artifacts WHERE run_id = :run_id RETURNING address"


def delete(session: Session, tenant_id: UUID, run_id: UUID) -> tuple[Run, Sequence[str]]:
    """Delete a run; gives it as it was, and the addresses of its files for the caller to delete.

    Raises NotFound, and Conflict for a run that has not ended.
    """
    queries.lock(session, tenant_id, run_id)
    run = queries.get_with_steps(session, tenant_id, run_id)
    if run.state not in FINAL_RUNS:
        raise Conflict(f"run {run.id} is {run.state}: cancel it first")
    statements.execute(session, _HAND_OVER, run_id=run_id)
    rows = statements.rows(session, _DELETE_ARTIFACTS, run_id=run_id)
    for table in (LogLine, Output):
        session.execute(sa.delete(table).where(table.run_id == run_id))
    session.execute(sa.delete(Run).where(Run.id == run_id))
    return run, [row.address for row in rows]
