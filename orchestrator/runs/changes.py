"""Change a run's priority, name, tags and annotations, or delete it with its outputs."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import delete as delete_from
from sqlalchemy.orm import Session

from orchestrator import audit
from orchestrator.db import journal, statements
from orchestrator.errors import Conflict, InvalidTransition
from orchestrator.models import LogLine, Output, Run
from orchestrator.runs.queries import get, lock
from orchestrator.states import FINAL_RUNS

_REPRIORITISE = """
    WITH run AS (UPDATE runs SET priority = :priority WHERE id = :id)
    UPDATE steps SET priority = :priority
    WHERE run_id = :id AND state IN ('pending', 'queued', 'running', 'waiting')
"""
_ANNOTATE = """
    UPDATE runs SET annotations = annotations || CAST(:annotations AS jsonb) WHERE id = :id
"""
# A retry as a new run may keep a large result of the run that saved it.
_HAND_OVER = """
    UPDATE artifacts SET run_id = keeper.run_id FROM steps keeper
    WHERE artifacts.run_id = :run_id AND keeper.result_artifact = artifacts.id
      AND keeper.run_id <> :run_id
"""
_OF_A_DELETED_RUN = (
    "number", "workflow", "version", "state", "trigger", "source_type", "source_id", "submitted_by",
    "created_at", "finished_at",
)  # fmt: skip
_DELETE_ARTIFACTS = "DELETE FROM artifacts WHERE run_id = :run_id RETURNING address"


def change(
    session: Session,
    tenant_id: UUID,
    run_id: UUID,
    *,
    priority: int | None = None,
    tags: Sequence[str] | None = None,
    name: str | None = None,
) -> Run:
    """Change a run; None leaves a value as it is.

    Raises NotFound, and InvalidTransition for the priority of a run that has ended.
    """
    run = lock(session, tenant_id, run_id)
    tags = None if tags is None else sorted(set(tags))
    values = {"priority": priority, "tags": tags, "name": name}
    after = {field: value for field, value in values.items() if value is not None}
    old = get(session, tenant_id, run_id)
    before = {field: getattr(old, field) for field in after}
    if priority is not None:
        if run.state in FINAL_RUNS:
            raise InvalidTransition(f"run {run.id} is {run.state}: its priority is of no use now")
        statements.execute(session, _REPRIORITISE, id=run.id, priority=priority)
        change = {"before": run.priority, "after": priority}
        journal.record_event(session, run.id, "run.reprioritised", **change)
    if tags is not None:
        set_tags = "UPDATE runs SET tags = :tags WHERE id = :id"
        statements.execute(session, set_tags, id=run.id, tags=tags)
    if name is not None:
        set_name = "UPDATE runs SET name = :name WHERE id = :id"
        statements.execute(session, set_name, id=run.id, name=name)
    audit.record(session, tenant_id, "run.change", run_id, before=before, after=after)
    return get(session, tenant_id, run_id)


def annotate(session: Session, tenant_id: UUID, run_id: UUID, **annotations: Any) -> None:
    """Merge annotations into those of a run. Raises NotFound."""
    lock(session, tenant_id, run_id)
    statements.execute(session, _ANNOTATE, id=run_id, annotations=statements.to_json(annotations))
    after = {"annotations": annotations}
    audit.record(session, tenant_id, "run.annotate", run_id, after=after)


def delete(session: Session, tenant_id: UUID, run_id: UUID) -> Sequence[str]:
    """Delete a run; gives the addresses of its files, for the caller to delete.

    Raises NotFound, and Conflict for a run that has not ended.
    """
    run = lock(session, tenant_id, run_id)
    if run.state not in FINAL_RUNS:
        raise Conflict(f"run {run.id} is {run.state}: cancel it first")
    deleted = get(session, tenant_id, run_id)
    before = {name: getattr(deleted, name) for name in _OF_A_DELETED_RUN}
    audit.record(session, tenant_id, "run.delete", run_id, before=before)
    statements.execute(session, _HAND_OVER, run_id=run_id)
    rows = statements.rows(session, _DELETE_ARTIFACTS, run_id=run_id)
    for table in (LogLine, Output):
        session.execute(delete_from(table).where(table.run_id == run_id))
    session.execute(delete_from(Run).where(Run.id == run_id))
    return [row.address for row in rows]
