"""Runs taken away for good, with all that they said and left."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import delete
from sqlalchemy.orm import Session

from orchestrator import runs, store
from orchestrator.errors import Conflict
from orchestrator.models import Run
from orchestrator.output_models import LogLine, Output
from orchestrator.states import FINAL_RUNS

# A run that repeats this one may show a large result that only this one saved.
_FORGET_FILES = """
    WITH RECURSIVE repeats AS (
        SELECT id FROM runs WHERE retry_of = :run_id
        UNION
        SELECT runs.id FROM runs JOIN repeats ON runs.retry_of = repeats.id
    )
    DELETE FROM artifacts WHERE run_id = :run_id AND id NOT IN (
        SELECT result_artifact FROM steps JOIN repeats ON repeats.id = steps.run_id
        WHERE result_artifact IS NOT NULL
    ) RETURNING address
"""


def remove(session: Session, tenant_id: UUID, run_id: UUID) -> tuple[Run, Sequence[str]]:
    """Take a run away; gives it as it was, and where the bytes of its files are.

    Raises NotFound, and Conflict for a run that has not ended.
    """
    runs.locked(session, tenant_id, run_id)
    run = runs.get_whole(session, tenant_id, run_id)
    if run.state not in FINAL_RUNS:
        raise Conflict(f"run {run.id} is {run.state}: cancel it first")
    addresses = [row.address for row in store.rows(session, _FORGET_FILES, run_id=run_id)]
    for table in (LogLine, Output):
        session.execute(delete(table).where(table.run_id == run_id))
    session.execute(delete(Run).where(Run.id == run_id))
    return run, addresses
